"""Probabilities of the classes, from the logits of a network or of an ensemble.

The functions take arrays of NumPy, and some also those of jax.
"""

import math
from typing import TYPE_CHECKING, TypeVar

import numpy as np

if TYPE_CHECKING:
    import jax

Logits = TypeVar("Logits", np.ndarray, "jax.Array")


def softmax(logits: np.ndarray) -> np.ndarray:
    """Returns the probabilities over the last axis."""
    weights = np.exp(logits - logits.max(-1, keepdims=True))
    return weights / weights.sum(-1, keepdims=True)


def log_softmax(logits: Logits) -> Logits:
    """Returns the logarithms of the probabilities over the last axis."""
    xp = logits.__array_namespace__()  # numpy or jax.numpy
    # The largest logit is subtracted, so that no exponential is infinite.
    shifted = logits - logits.max(axis=-1, keepdims=True)
    return shifted - xp.log(xp.exp(shifted).sum(axis=-1, keepdims=True))


def combine_members(logits: Logits) -> Logits:
    """Returns the logits of an ensemble, [..., classes], from those of its members.

    The logits of the members are [members, ..., classes]. The probabilities of the
    ensemble are the means of theirs, and its logits are the logarithms of these means.
    A single network keeps its logits.
    """
    if len(logits) == 1:
        return logits[0]
    xp = logits.__array_namespace__()
    log_sums: Logits = xp.logaddexp.reduce(log_softmax(logits), axis=0)
    return log_sums - math.log(len(logits))
