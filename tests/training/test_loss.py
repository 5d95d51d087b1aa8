"""The training loss of sequences with different lengths."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from support import model_of, random_params, task_of

from rnnmnist.config.functions import resolve_function
from rnnmnist.config.schema import ModelConfig
from rnnmnist.data.batches import Batch
from rnnmnist.models.classifier import SequenceClassifier
from rnnmnist.models.parameters import Params
from rnnmnist.training.loss import LOSS_FUNCTIONS, Objective

STEPS, CLASSES, SMOOTHING = 7, 4, 0.1
GENERATOR = np.random.default_rng(0)
LENGTHS = GENERATOR.integers(1, STEPS + 1, 20, np.int32)
INPUTS = GENERATOR.normal(scale=9, size=(20, STEPS, 3)).astype(np.float32)
INPUTS[np.arange(STEPS) >= LENGTHS[:, None]] = 0


@functools.partial(jax.jit, static_argnums=0)
def logits_of(model: SequenceClassifier, params: Params) -> jax.Array:
    logits = model.apply({"params": params}, INPUTS, every_step=True)
    return jnp.asarray(logits)


@functools.partial(jax.jit, static_argnums=0)
@functools.partial(jax.value_and_grad, argnums=1, has_aux=True)
def loss_by_hand(
    model: SequenceClassifier,
    params: Params,
    labels: jax.Array,
    weights: jax.Array,
    class_weights: jax.Array,
) -> tuple[jax.Array, jax.Array]:
    """Returns the sums of time-weighted losses, with and without class weights."""
    targets = (1 - SMOOTHING) * jax.nn.one_hot(labels, CLASSES) + SMOOTHING / CLASSES
    losses = -(jax.nn.log_softmax(logits_of(model, params)) * targets[:, None]).sum(-1)
    found = (losses * weights).sum(-1)
    return found @ class_weights[labels], found.sum()


@pytest.mark.usefixtures("fast_programs")
@pytest.mark.parametrize(
    ("padded", "every_step"),
    [
        (True, True),
        (True, False),
        pytest.param(False, False, marks=pytest.mark.slow),
    ],
)
def test_the_loss_of_a_batch_equals_the_loss_of_truncated_sequences(
    padded: bool, every_step: bool
) -> None:
    """The loss is at the last time step or a weighted mean; gradients agree, too."""
    model = model_of(ModelConfig(hidden_size=8), task_of(STEPS, 3, CLASSES))
    params = random_params(model)
    lengths = LENGTHS if padded else np.full(20, STEPS)
    logits = np.asarray(logits_of(model, params))
    labels = logits[np.arange(len(lengths)), lengths - 1].argmax(-1)
    labels[0] = (labels[0] + 1) % CLASSES  # the only one that is not predicted
    class_weights = np.array([2, 0.5, 1, 3] if padded else [1] * 4, np.float32)
    loss = resolve_function("last", LOSS_FUNCTIONS, label_smoothing=SMOOTHING)
    slope = jax.jit(
        jax.value_and_grad(
            Objective(model, loss, every_step),
            has_aux=True,
        )
    )
    arrays: dict[str, Any] = {
        "inputs": INPUTS,
        "labels": labels,
        "lengths": lengths if padded else None,
        "weights": class_weights[labels] if padded else None,
    }
    (minimized, sums), grads = slope(params, Batch(**arrays))
    weights = np.zeros((20, STEPS), np.float32)
    for own, length in zip(weights, lengths, strict=True):
        if every_step:
            own[:length] = np.arange(1, length + 1) ** 2
            own /= own.sum()
        else:
            own[length - 1] = 1
    expected, slopes = loss_by_hand(model, params, labels, weights, class_weights)
    found = float(minimized), float(sums["loss"])
    assert found == pytest.approx(tuple(map(float, expected)), rel=1e-6)
    assert int(sums["accuracy"]) == len(labels) - 1
    close = functools.partial(np.testing.assert_allclose, rtol=1e-4, atol=1e-6)
    jax.tree.map(close, grads, slopes)
