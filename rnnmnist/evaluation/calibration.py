"""Whether the probabilities of a classifier are right as often as they claim."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from rnnmnist.evaluation.predictions import Predictions

BINS = 15  # as in Guo et al.


class Bins(NamedTuple):
    """Images, put together by how sure the network was of its answers.

    Bin *b* of *n* holds the answers of a probability above b/n, up to (b + 1)/n.
    """

    images: np.ndarray  # int [bins]
    right: np.ndarray  # int [bins]
    confidence: np.ndarray  # float64 [bins], summed over the images

    @property
    def calibration_error(self) -> float:
        """How far from the truth the network's confidence is, on average.

        The expected calibration error: over bins, the mean of the distance between
        the share of right answers and the mean confidence, weighted by the images.

        References:
            Guo, Pleiss, Sun, Weinberger, "On Calibration of Modern Neural
            Networks", ICML 2017.
        """
        return float(np.abs(self.right - self.confidence).sum() / self.images.sum())


def calibration_bins(networks: Sequence[Predictions], number: int = BINS) -> Bins:
    """Puts the images of all networks into bins of one width, by confidence."""
    confidence = np.concatenate([answers.confidence for answers in networks])
    right = np.concatenate([answers.right for answers in networks])
    place = np.clip(np.ceil(confidence * number).astype(int) - 1, 0, number - 1)
    return Bins(
        np.bincount(place, minlength=number),
        np.bincount(place[right], minlength=number),
        np.bincount(place, weights=confidence, minlength=number),
    )
