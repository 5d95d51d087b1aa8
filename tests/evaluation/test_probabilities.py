"""Probabilities of an ensemble."""

from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest

from rnnmnist.evaluation.probabilities import combine_members, log_softmax, softmax


@pytest.mark.parametrize("members", [1, 3])
@pytest.mark.parametrize("convert", [np.asarray, jnp.asarray])
def test_an_ensemble_has_the_mean_probabilities_of_its_members(
    convert: Callable[[np.ndarray], Any], members: int
) -> None:
    """Also where a probability is too small for float32, and its logarithm is not."""
    generator = np.random.default_rng(0)
    logits = generator.normal(scale=100, size=(members, 5, 4, 3)).astype(np.float32)
    expected = softmax(logits.astype(np.float64)).mean(axis=0)
    found = combine_members(convert(logits))
    assert found.dtype == np.float32
    np.testing.assert_allclose(softmax(np.asarray(found)), expected, atol=1e-5)
    log_probabilities = np.asarray(log_softmax(found))
    np.testing.assert_allclose(log_probabilities, np.log(expected), atol=1e-4)
    assert expected.min() < np.finfo(np.float32).tiny
