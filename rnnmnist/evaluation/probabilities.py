"""Calibrated class probabilities: softmax(logits / temperature).

Networks trained on few examples are overconfident; networks trained with label
smoothing are underconfident. A temperature corrects both. It is fitted to held-out
examples or to leave-one-out predictions, or derived from the label smoothing. It is
positive, so it does not change predicted classes. An ensemble has a single temperature,
which divides the logs of the mean probabilities. Separate temperatures for the members
would change their weights in the mean, and thus could change predicted classes.

References:
    For temperature scaling: Guo, Pleiss, Sun, Weinberger, "On Calibration of Modern
    Neural Networks", ICML 2017.
    For targets below 1: Platt, "Probabilistic Outputs for Support Vector Machines",
    1999.
    For the calibration of ensemble means: Rahaman and Thiery, "Uncertainty
    Quantification and Deep Ensembles", NeurIPS 2021.
"""

import math
from typing import TYPE_CHECKING, TypeVar

import numpy as np

if TYPE_CHECKING:
    import jax

Logits = TypeVar("Logits", np.ndarray, "jax.Array")

TEMPERATURE_RANGE = (1e-4, 1e3)  # search range of `fit_temperature`
BISECTIONS = 50  # on a logarithmic scale
# Four significant digits are enough for validation, which must be fast.
VALIDATION_BISECTIONS = 20

# The probability for which `smoothing_temperature` inverts label smoothing exactly.
# `docs/results_sequences.md` compares values.
REFERENCE_P = 0.95


def softmax(logits: np.ndarray) -> np.ndarray:
    """Computes the softmax over the last axis."""
    exponentials = np.exp(logits - logits.max(-1, keepdims=True))
    return exponentials / exponentials.sum(-1, keepdims=True)


def log_softmax(logits: Logits) -> Logits:
    """Computes the log-softmax over the last axis."""
    xp = logits.__array_namespace__()  # numpy or jax.numpy
    # Subtracting the largest logit avoids overflow.
    shifted = logits - logits.max(axis=-1, keepdims=True)
    return shifted - xp.log(xp.exp(shifted).sum(axis=-1, keepdims=True))


def combine_members(logits: Logits) -> Logits:
    """Combines ensemble members into the log of their mean probabilities.

    The logits of a single member are returned unchanged.

    Args:
        logits: logits of the members, [ensemble, ..., classes].

    Returns:
        Logits of the ensemble, [..., classes].
    """
    if len(logits) == 1:
        return logits[0]
    xp = logits.__array_namespace__()
    log_sums: Logits = xp.logaddexp.reduce(log_softmax(logits), axis=0)
    return log_sums - math.log(len(logits))


def smoothing_temperature(label_smoothing: float, num_classes: int) -> float:
    """Returns a temperature that inverts label smoothing; 1 without label smoothing.

    A network that has learned smoothed targets predicts (1 - label_smoothing) * p +
    label_smoothing / num_classes instead of p. If all other classes are equally likely,
    a temperature can invert the smoothing exactly for one value of p. This value is
    `REFERENCE_P`.
    """
    smoothed_p = (1 - label_smoothing) * REFERENCE_P + label_smoothing / num_classes

    def logit_gap(probability: float) -> float:
        """Returns the logit of the predicted class minus the logit of another class."""
        return math.log(probability * (num_classes - 1) / (1 - probability))

    return logit_gap(smoothed_p) / logit_gap(REFERENCE_P)


def calibrate(logits: np.ndarray, labels: np.ndarray) -> float:
    """Fits the temperature of a network or ensemble, to four significant digits.

    Args:
        logits: [ensemble, examples, classes], held-out or leave-one-out.
        labels: int [examples].
    """
    combined_logits = combine_members(logits.astype(np.float64))
    weights = np.ones(len(labels))
    temperature = fit_temperature(
        combined_logits, labels, weights, VALIDATION_BISECTIONS
    )
    return float(f"{temperature:.4g}")


def fit_temperature(
    logits: np.ndarray,
    labels: np.ndarray,
    weights: np.ndarray,
    num_bisections: int = BISECTIONS,
) -> float:
    """Fits the temperature that minimizes the cross-entropy.

    If all predictions are correct, the cross-entropy with targets 0 and 1 has no
    minimum: it decreases as the temperature approaches 0. The target of the true class
    is therefore 1 - 1 / (n + 2), as suggested by Platt, where n is the sum of the
    weights.

    Args:
        logits: float [examples, classes], held-out or leave-one-out.
        labels: int [examples].
        weights: float [examples].
        num_bisections: number of bisections of `TEMPERATURE_RANGE`.
    """
    num_classes = logits.shape[1]
    smoothing = 1 / (weights.sum() + 2)
    targets = np.full(logits.shape, smoothing / (num_classes - 1))
    targets[np.arange(len(labels)), labels] = 1 - smoothing

    def slope(inverse_temperature: float) -> float:
        """Returns d(cross-entropy) / d(inverse temperature)."""
        probabilities = softmax(inverse_temperature * logits)
        errors = ((probabilities - targets) * logits).sum(axis=1)
        return float(weights @ errors)

    # The cross-entropy is convex in the inverse temperature.
    low, high = -np.log(TEMPERATURE_RANGE)[::-1]
    for _ in range(num_bisections):
        middle = (low + high) / 2
        if slope(np.exp(middle).item()) < 0:
            low = middle
        else:
            high = middle
    return float(np.exp(-low))
