"""Probabilities of networks and ensembles, and their calibration."""

from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest

from rnnmnist.evaluation.probabilities import (
    combine_members,
    fit_temperature,
    log_softmax,
    smoothing_temperature,
    softmax,
)

CLASSES = 3


@pytest.mark.parametrize(("convert", "members"), [(np.asarray, 1), (jnp.asarray, 3)])
def test_an_ensemble_has_the_mean_probabilities_of_its_members(
    convert: Callable[[np.ndarray], Any], members: int
) -> None:
    """The mean is exact where a probability underflows, but its logarithm does not."""
    generator = np.random.default_rng(0)
    logits = generator.normal(scale=100, size=(members, 5, 4, 3)).astype(np.float32)
    expected = softmax(logits.astype(np.float64)).mean(axis=0)
    found = combine_members(convert(logits))
    assert found.dtype == np.float32
    np.testing.assert_allclose(softmax(np.asarray(found)), expected, atol=1e-5)
    log_probabilities = np.asarray(log_softmax(found))
    np.testing.assert_allclose(log_probabilities, np.log(expected), atol=1e-4)
    assert expected.min() < np.finfo(np.float32).tiny


def test_the_temperature_minimizes_the_cross_entropy() -> None:
    generator = np.random.default_rng(0)
    labels = generator.integers(0, CLASSES, 500)
    logits = np.eye(CLASSES)[labels] + generator.normal(size=(500, CLASSES))
    weights = generator.uniform(0.5, 2, 500)

    def loss(temperature: float) -> float:
        logs = log_softmax(logits / temperature)
        return float(-(weights * logs[np.arange(500), labels]).sum())

    found = fit_temperature(logits, labels, weights)
    assert loss(found) < min(loss(0.9 * found), loss(1.1 * found))
    # Without an error, predictions are not certain; if all are wrong, they are even.
    right = 2.0 * np.eye(CLASSES)[labels]
    logits = right / fit_temperature(right, labels, np.ones(500))
    errors = 1 - np.exp(logits.max(1)) / np.exp(logits).sum(1)
    np.testing.assert_allclose(errors, 1 / 502, rtol=1e-3)
    assert fit_temperature(-right, labels, np.ones(500)) > 100


@pytest.mark.parametrize("smoothing", [0.01, 0.1, 0.9])
@pytest.mark.parametrize("classes", [2, 10])
def test_the_temperature_undoes_label_smoothing_at_95_percent(
    smoothing: float, classes: int
) -> None:
    """A network that has learnt smoothed targets gives the logits."""
    probabilities = np.full(classes, 0.05 / (classes - 1))
    probabilities[0] = 0.95
    learnt = (1 - smoothing) * probabilities + smoothing / classes
    temperature = smoothing_temperature(smoothing, classes)
    found = softmax(np.log(learnt) / temperature)
    np.testing.assert_allclose(found, probabilities)
    assert smoothing_temperature(0.0, classes) == 1
