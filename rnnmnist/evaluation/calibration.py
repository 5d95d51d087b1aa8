"""Calibration of a classifier's probabilities."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from rnnmnist.evaluation.predictions import Predictions

NUM_BINS = 15  # as Guo et al.


class Bins(NamedTuple):
    """Examples grouped by confidence.

    Bin *b* of *n* holds the predictions with a probability in (b/n, (b + 1)/n].
    """

    examples: np.ndarray  # int [bins], number of examples
    correct: np.ndarray  # int [bins], number of correct predictions
    confidence: np.ndarray  # float64 [bins], summed over the examples

    @property
    def calibration_error(self) -> float:
        """The expected calibration error, from 0 to 1.

        The mean over bins of the distance between accuracy and mean confidence,
        weighted by the number of examples.

        References:
            Guo, Pleiss, Sun, Weinberger, "On Calibration of Modern Neural
            Networks", ICML 2017.
        """
        return float(np.abs(self.correct - self.confidence).sum() / self.examples.sum())


def calibration_bins(networks: Sequence[Predictions], num_bins: int = NUM_BINS) -> Bins:
    """Groups the predictions of all networks into bins of equal width."""
    confidence = np.concatenate([network.confidence for network in networks])
    correct = np.concatenate([network.correct for network in networks])
    bins = np.clip(np.ceil(confidence * num_bins).astype(int) - 1, 0, num_bins - 1)
    return Bins(
        np.bincount(bins, minlength=num_bins),
        np.bincount(bins[correct], minlength=num_bins),
        np.bincount(bins, weights=confidence, minlength=num_bins),
    )
