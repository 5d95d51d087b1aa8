"""Probabilities of the classes: the softmax of logits divided by a temperature.

Trained on few examples, a network is overconfident; trained with label smoothing, it is
underconfident. One temperature corrects both. It is fitted on examples that did not
train the network, or follows from the label smoothing. It is positive, so that no
prediction changes. An ensemble has one temperature, which divides the logits of the
mean of its members' probabilities: a temperature for each member would change the
weights of the members in that mean, and so predictions.

References:
    Guo, Pleiss, Sun, Weinberger, "On Calibration of Modern Neural Networks", ICML 2017,
    for temperature scaling. Platt, "Probabilistic Outputs for Support Vector Machines",
    1999, for targets below certainty. Rahaman and Thiery, "Uncertainty Quantification
    and Deep Ensembles", NeurIPS 2021, for the calibration of an ensemble's mean.
"""

import math
from typing import TYPE_CHECKING, TypeVar

import numpy as np

if TYPE_CHECKING:
    import jax

Logits = TypeVar("Logits", np.ndarray, "jax.Array")

TEMPERATURES = (1e-4, 1e3)  # the range that `fit_temperature` searches
BISECTIONS = 50  # of the range, on a logarithmic scale
# A validation needs four digits of the temperature, and little time.
VALIDATION_BISECTIONS = 20

# The probability at which the temperature undoes label smoothing exactly.
# `docs/results_sequences.md` compares the choices.
EXACT = 0.95


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
    """Returns the logits of an ensemble: the log of its members' mean probabilities.

    Args:
        logits: the logits of the members, [members, ..., classes]. A single member
            keeps its logits.

    Returns:
        The logits of the ensemble, [..., classes].
    """
    if len(logits) == 1:
        return logits[0]
    xp = logits.__array_namespace__()
    log_sums: Logits = xp.logaddexp.reduce(log_softmax(logits), axis=0)
    return log_sums - math.log(len(logits))


def smoothing_temperature(label_smoothing: float, classes: int) -> float:
    """Returns the temperature that undoes label smoothing; 1 without smoothing.

    A network that has learnt smoothed targets predicts (1 - label_smoothing) * p +
    label_smoothing / classes in place of a probability p. If all other classes are
    equally probable, a temperature can undo this exactly for one p: `EXACT`.
    """
    smoothed = (1 - label_smoothing) * EXACT + label_smoothing / classes

    def logit_gap(probability: float) -> float:
        """Returns the logit of the predicted class minus the logit of any other."""
        return math.log(probability * (classes - 1) / (1 - probability))

    return logit_gap(smoothed) / logit_gap(EXACT)


def calibrate(logits: np.ndarray, labels: np.ndarray) -> float:
    """Fits the temperature of a network or an ensemble, to four digits.

    Args:
        logits: the logits of each member for examples that did not train it, [members,
            examples, classes].
        labels: int [examples].
    """
    combined = combine_members(logits.astype(np.float64))
    weights = np.ones(len(labels))
    temperature = fit_temperature(combined, labels, weights, VALIDATION_BISECTIONS)
    return float(f"{temperature:.4g}")


def fit_temperature(
    logits: np.ndarray,
    labels: np.ndarray,
    weights: np.ndarray,
    bisections: int = BISECTIONS,
) -> float:
    """Returns the temperature with the least cross-entropy.

    If all predictions are correct, the cross-entropy of targets of 0 and 1 falls
    without end as the temperature falls. So the target of the right class is a little
    below 1: 1 - 1 / (n + 2), as Platt suggests, where n is the sum of the weights.

    Args:
        logits: float [examples, classes], for examples that did not train the network.
        labels: int [examples].
        weights: float [examples].
        bisections: how often the range of temperatures is halved.
    """
    classes = logits.shape[1]
    doubt = 1 / (weights.sum() + 2)
    targets = np.full(logits.shape, doubt / (classes - 1))
    targets[np.arange(len(labels)), labels] = 1 - doubt

    def slope(inverse: float) -> float:
        """Returns the derivative of the cross-entropy in 1 / temperature."""
        probabilities = softmax(inverse * logits)
        errors = ((probabilities - targets) * logits).sum(axis=1)
        return float(weights @ errors)

    # The cross-entropy is convex in the inverse temperature.
    low, high = -np.log(TEMPERATURES)[::-1]
    for _ in range(bisections):
        middle = (low + high) / 2
        if slope(np.exp(middle).item()) < 0:
            low = middle
        else:
            high = middle
    return float(np.exp(-low))
