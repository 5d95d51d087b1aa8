"""The predictions of networks for every example of a split, and their confidence."""

from typing import NamedTuple

import numpy as np

from rnnmnist.data.examples import find_padding
from rnnmnist.evaluation.probabilities import softmax

NUM_BINS = 15  # the number in Guo et al.


class SplitPredictions(NamedTuple):
    """The predictions of a network, or an ensemble, for every example of a split."""

    labels: np.ndarray  # int32 [examples], the true classes
    lengths: np.ndarray  # int32 [examples], the number of time steps
    # The most probable class after each time step, int [examples, time]. The time steps
    # after the end of an example repeat its last prediction.
    predicted: np.ndarray
    probabilities: np.ndarray  # float64 [examples, classes], at the end

    @classmethod
    def from_logits(
        cls,
        logits: np.ndarray,
        labels: np.ndarray,
        lengths: np.ndarray | None,
        multiplier: float = 1.0,
    ) -> "SplitPredictions":
        """Converts logits after each time step, float32 [examples, time, classes].

        Times the multiplier, they give the probabilities.
        """
        count, time_steps, _ = logits.shape
        if lengths is None:
            lengths = np.full(count, time_steps, np.int32)
        last = lengths - 1
        times = np.minimum(np.arange(time_steps), last[:, None])
        predicted = np.take_along_axis(logits.argmax(-1), times, axis=1)
        last_logits = logits[np.arange(count), last].astype(np.float64)
        probabilities = softmax(multiplier * last_logits)
        return cls(labels, lengths, predicted, probabilities)

    @property
    def correct(self) -> np.ndarray:
        """Whether the prediction at the end is correct, bool [examples]."""
        return self.predicted[:, -1] == self.labels

    @property
    def confidence(self) -> np.ndarray:
        """The probability of the predicted class, float64 [examples]."""
        return self.probabilities.max(axis=1)

    @property
    def correct_by_time(self) -> np.ndarray:
        """The number of correct predictions after each time step, int [time]."""
        is_padding = find_padding(self.predicted.shape[1], self.lengths)
        is_correct = self.predicted == self.labels[:, None]
        return (is_correct & ~is_padding).sum(axis=0)


def most_confident_errors(predictions: SplitPredictions, limit: int) -> np.ndarray:
    """Returns the indices of up to `limit` wrong predictions, most confident first."""
    (wrong,) = np.nonzero(~predictions.correct)
    order = np.argsort(-predictions.confidence[wrong], kind="stable")
    return wrong[order][:limit]


class Bins(NamedTuple):
    """Examples grouped by confidence; bin *b* of *n* is from above b/n to (b + 1)/n."""

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
        distances = np.abs(self.correct - self.confidence)
        return float(distances.sum() / self.examples.sum())


def calibration_bins(predictions: SplitPredictions) -> Bins:
    """Groups predictions into bins of equal width."""
    confidence = predictions.confidence
    correct = predictions.correct
    bins = np.ceil(confidence * NUM_BINS).astype(int) - 1
    bins = np.clip(bins, 0, NUM_BINS - 1)
    return Bins(
        examples=np.bincount(bins, minlength=NUM_BINS),
        correct=np.bincount(bins[correct], minlength=NUM_BINS),
        confidence=np.bincount(bins, weights=confidence, minlength=NUM_BINS),
    )
