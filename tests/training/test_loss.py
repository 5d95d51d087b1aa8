"""The training loss of sequences of different lengths."""

import functools
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from support import model_of, random_params, task_of

from rnnmnist.config.schema import ModelConfig
from rnnmnist.models.classifier import Params, SequenceClassifier
from rnnmnist.training.loss import Objective, time_weights

STEPS, CLASSES, SMOOTHING = 7, 4, 0.1
GENERATOR = np.random.default_rng(0)
LENGTHS = GENERATOR.integers(1, STEPS + 1, 20, np.int32)
INPUTS = GENERATOR.normal(scale=9, size=(20, STEPS, 3)).astype(np.float32)
INPUTS[np.arange(STEPS) >= LENGTHS[:, None]] = 0


def loss_by_hand(
    params: Params,
    labels: np.ndarray,
    model: SequenceClassifier,
    every_step: bool,
    lengths: Sequence[int],
    class_weights: Sequence[float],
) -> tuple[jax.Array, jax.Array]:
    """The sums over truncated sequences: weighted by class, and not."""
    logits = jnp.asarray(model.apply({"params": params}, INPUTS, every_step=True))
    targets = (1 - SMOOTHING) * jax.nn.one_hot(labels, CLASSES) + SMOOTHING / CLASSES
    losses = -(jax.nn.log_softmax(logits) * targets[:, None]).sum(-1)
    parts = []
    for own, length in zip(losses, lengths, strict=True):
        weights = np.arange(1, length + 1) ** 2
        mean = own[:length] @ (weights / weights.sum())
        parts.append(mean if every_step else own[length - 1])
    found = jnp.stack(parts)
    return found @ jnp.array(class_weights)[labels], found.sum()


@pytest.mark.usefixtures("fast_programs")
@pytest.mark.parametrize("every_step", [False, True])
@pytest.mark.parametrize("padded", [False, True])
@pytest.mark.parametrize("cell", ["lstm", pytest.param("lru", marks=pytest.mark.slow)])
def test_the_loss_of_a_batch_is_that_of_its_truncated_sequences(
    cell: Any, padded: bool, every_step: bool
) -> None:
    """Of each, a weighted mean over its time or the loss at its end; their slope."""
    settings = ModelConfig(cell=cell, hidden_size=8)
    model = model_of(settings, task_of(STEPS, 3, CLASSES))
    params = random_params(model)
    lengths = LENGTHS if padded else np.full(20, STEPS)
    logits = np.asarray(model.apply({"params": params}, INPUTS, every_step=True))
    labels = logits[np.arange(len(lengths)), lengths - 1].argmax(-1)
    labels[0] = (labels[0] + 1) % CLASSES  # the only one that is not predicted
    class_weights = (2.0, 0.5, 1.0, 3.0) if padded else None
    objective = Objective(model, every_step, SMOOTHING)
    slope = jax.jit(jax.value_and_grad(objective, has_aux=True))
    batch = INPUTS, labels, lengths if padded else None
    weights = None if class_weights is None else jnp.array(class_weights)
    (minimized, (total, correct)), grads = slope(params, *batch, weights)
    by_hand = jax.jit(
        jax.value_and_grad(loss_by_hand, has_aux=True), static_argnums=(2, 3, 4, 5)
    )
    sequences = tuple(lengths), class_weights or (1.0,) * CLASSES
    expected, slopes = by_hand(params, labels, model, every_step, *sequences)
    found = float(minimized), float(total)
    assert found == pytest.approx(tuple(map(float, expected)), rel=1e-6)
    assert int(correct) == len(labels) - 1
    close = functools.partial(np.testing.assert_allclose, rtol=1e-4, atol=1e-6)
    jax.tree.map(close, grads, slopes)


def test_the_weights_of_steps_by_hand() -> None:
    found = time_weights(4)
    assert found.dtype == jnp.float32
    np.testing.assert_allclose(found, np.array([1, 4, 9, 16]) / 30, rtol=1e-6)
    expected = np.array([1, 4, 9, 0]) / 14
    np.testing.assert_allclose(time_weights(4, jnp.array(3)), expected, rtol=1e-6)
    np.testing.assert_array_equal(time_weights(3, jnp.array(1)), [1, 0, 0])
