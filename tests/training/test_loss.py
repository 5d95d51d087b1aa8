"""The training loss of sequences of different lengths."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from support import model_of, random_params, task_of

from rnnmnist.config.schema import ModelConfig
from rnnmnist.models.classifier import Params
from rnnmnist.training.loss import Objective, time_weights

STEPS, CLASSES, SMOOTHING = 7, 4, 0.1
LENGTHS = np.array([4, 1, 7, 4, 7], np.int32)
LABELS = np.array([0, 3, 1, 1, 2], np.int32)
INPUTS = np.random.default_rng(0).normal(size=(5, STEPS, 3)).astype(np.float32)
INPUTS[np.arange(STEPS) >= LENGTHS[:, None]] = 0


def objective_of(cell: Any, *, every_step: bool) -> tuple[Objective, Params]:
    settings = ModelConfig(cell=cell, hidden_size=8)
    model = model_of(settings, task_of(STEPS, 3, CLASSES))
    return Objective(model, every_step, SMOOTHING), random_params(model)


def loss_by_hand(logits: np.ndarray, label: int, *, every_step: bool) -> float:
    """The loss of one sequence from its logits after each time step, in float64."""
    logits = logits.astype(np.float64)
    logs = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
    target = (1 - SMOOTHING) * np.eye(CLASSES)[label] + SMOOTHING / CLASSES
    losses = -logs @ target
    weights = np.arange(1, len(losses) + 1) ** 2
    return float(losses @ weights / weights.sum() if every_step else losses[-1])


@pytest.mark.slow
@pytest.mark.usefixtures("fast_programs")
@pytest.mark.parametrize("every_step", [False, True])
@pytest.mark.parametrize("cell", ["lstm", "lru"])
def test_the_loss_of_a_batch_is_that_of_its_truncated_sequences(
    cell: str, every_step: bool
) -> None:
    """The mean over sequences, each with the weights of its length; their slope."""
    objective, params = objective_of(cell, every_step=every_step)
    slope = jax.jit(jax.value_and_grad(objective, has_aux=True))
    (total, correct), grads = slope(params, INPUTS, LABELS, LENGTHS)
    logits = jax.jit(objective.model.apply, static_argnames="every_step")
    parts, right = [], 0
    for inputs, label, length in zip(INPUTS, LABELS, LENGTHS, strict=True):
        own = inputs[None, :length]
        found = np.asarray(logits({"params": params}, own, every_step=True))[0]
        parts.append(
            (
                loss_by_hand(found, label, every_step=every_step),
                slope(params, own, label[None], None),
            )
        )
        right += int(found[-1].argmax() == label)
    assert int(correct) == right
    by_hand = np.mean([part for part, _ in parts])
    assert float(total) / len(LABELS) == pytest.approx(by_hand, rel=1e-6)
    alone = sum(float(loss) for _, ((loss, _), _) in parts)
    assert float(total) == pytest.approx(alone, rel=1e-6)
    expected = jax.tree.map(
        lambda *leaves: sum(leaves), *[part[1] for _, part in parts]
    )
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6),
        grads,
        expected,
    )


@pytest.mark.parametrize("every_step", [False, True])
def test_lengths_of_all_steps_change_nothing(every_step: bool) -> None:
    objective, params = objective_of("lstm", every_step=every_step)
    whole = np.full(5, STEPS, np.int32)
    score = jax.jit(objective)
    with_lengths, without = (
        score(params, INPUTS, LABELS, lengths) for lengths in (whole, None)
    )
    assert float(with_lengths[0]) == pytest.approx(float(without[0]), rel=1e-6)
    assert int(with_lengths[1]) == int(without[1])


def test_the_weights_of_steps_by_hand() -> None:
    found = time_weights(4)
    assert found.dtype == jnp.float32
    np.testing.assert_allclose(found, np.array([1, 4, 9, 16]) / 30, rtol=1e-6)
    expected = np.array([1, 4, 9, 0]) / 14
    np.testing.assert_allclose(time_weights(4, jnp.array(3)), expected, rtol=1e-6)
    np.testing.assert_array_equal(time_weights(3, jnp.array(1)), [1, 0, 0])
