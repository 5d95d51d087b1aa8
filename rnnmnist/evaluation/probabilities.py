"""Probabilities of the classes, from the logits of a network or of an ensemble.

Networks that are trained by gradients are too certain on few examples, and with label
smoothing not certain enough. One multiplier of the logits corrects both. It is chosen
on examples that did not train the network; without them, it follows from the label
smoothing. It is positive, so that no prediction changes. An ensemble has one, of the
logits that its members have together: with one for each member, the members would have
other shares in the mean of the probabilities, and predictions would change.

References:
    Platt, "Probabilistic Outputs for Support Vector Machines", 1999, for probabilities
    from scores, and targets that are less than certain. Guo, Pleiss, Sun, Weinberger,
    "On Calibration of Modern Neural Networks", ICML 2017, where the inverse of the
    multiplier is the temperature. Rahaman and Thiery, "Uncertainty Quantification and
    Deep Ensembles", NeurIPS 2021, for the calibration of an ensemble's mean.
"""

import math
from typing import TYPE_CHECKING, TypeVar

import numpy as np

if TYPE_CHECKING:
    import jax

Logits = TypeVar("Logits", np.ndarray, "jax.Array")

MULTIPLIERS = (1e-3, 1e4)  # the range of a multiplier
HALVINGS = 50  # of this range, on a logarithmic scale
# After so many, the multiplier of a network has the digits that are kept, and takes
# little of the time of a validation.
CALIBRATION_HALVINGS = 20

# The probability for which the multiplier undoes label smoothing exactly.
# `docs/results_sequences.md` compares.
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


def smoothing_multiplier(label_smoothing: float, classes: int) -> float:
    """Returns the multiplier of the logits that undoes label smoothing.

    Instead of a probability p, a network that has learnt the smoothed targets gives
    (1 - label_smoothing) * p + label_smoothing / classes. A multiplier can undo this
    exactly for one p only, here `EXACT`, if the other classes share the rest equally.
    Without label smoothing, the multiplier is 1.
    """
    learnt = (1 - label_smoothing) * EXACT + label_smoothing / classes

    def logit_gap(probability: float) -> float:
        """Returns by how much the logit of the right class exceeds the others."""
        return math.log(probability * (classes - 1) / (1 - probability))

    return logit_gap(EXACT) / logit_gap(learnt)


def calibrate(logits: np.ndarray, labels: np.ndarray) -> float:
    """Returns the multiplier of the logits of a network, or an ensemble, to 4 digits.

    The logits are those of each network, [members, examples, classes], for examples
    that did not train them, and labels are int [examples].
    """
    combined = combine_members(logits.astype(np.float64))
    weights = np.ones(len(labels))
    multiplier = choose_multiplier(combined, labels, weights, CALIBRATION_HALVINGS)
    return float(f"{multiplier:.4g}")


def choose_multiplier(
    scores: np.ndarray,
    labels: np.ndarray,
    weights: np.ndarray,
    halvings: int = HALVINGS,
) -> float:
    """Returns the number by which scores become the logits of the least cross-entropy.

    The cross-entropy is that of examples which the scores have not seen. If all are
    correct, it would fall without end; so, as Platt suggests, the targets are a little
    less than certain: by one example in two more than there are.

    Scores are float [examples, classes], labels int [examples], and weights float
    [examples]. The range of the number is halved so many times.
    """
    classes = scores.shape[1]
    doubt = 1 / (weights.sum() + 2)
    targets = np.full(scores.shape, doubt / (classes - 1))
    targets[np.arange(len(labels)), labels] = 1 - doubt

    def slope(factor: float) -> float:
        """Returns the derivative of the cross-entropy, which rises with the factor."""
        probabilities = softmax(factor * scores)
        differences = ((probabilities - targets) * scores).sum(axis=1)
        return float(weights @ differences)

    low, high = np.log(MULTIPLIERS).tolist()
    for _ in range(halvings):
        middle = (low + high) / 2
        if slope(np.exp(middle).item()) < 0:
            low = middle
        else:
            high = middle
    return float(np.exp(low))
