"""What the values of the training sequences are like."""

from collections.abc import Iterator

import numpy as np

from rnnmnist.data.examples import LARGEST_SQUARED, MAX_DEVIATIONS
from rnnmnist.data.sequences.validation import Sequences

SAMPLED_SEQUENCES = 1_000
SAMPLED_VALUES = 1 << 19


class Moments:
    """The number, mean and sum of squared deviations of each feature's values.

    Those of the differences over time follow. The sequences are `included`, int [n].
    """

    def __init__(self, sequences: Sequences, included: np.ndarray) -> None:
        examples, _, features = sequences.inputs.shape
        dtype = np.result_type(sequences.inputs.dtype, np.float32)
        self.is_included = np.isin(np.arange(examples), included)
        self.number, self.mean, self.squares = np.zeros((3, 2 * features))
        self.rounding = np.finfo(dtype).eps  # the relative error of a value
        self.low, self.high = np.full((2, features), [[np.inf], [-np.inf]])

    def add(self, values: np.ndarray) -> None:
        """Adds values, real [n, time, features]; NaN are left out.

        References:
            Chan, Golub, LeVeque, "Algorithms for Computing the Sample Variance", The
            American Statistician 37(3), 1983.
        """
        low, high = (ufunc.reduce(values, axis=1) for ufunc in (np.fmin, np.fmax))
        self.low = np.fmin.reduce([self.low, *low])
        self.high = np.fmax.reduce([self.high, *high])
        differences = np.diff(values, axis=1, prepend=np.float64(np.nan))
        values = np.concatenate([values, differences], axis=2)
        values = values.reshape(-1, values.shape[-1])
        missing = np.isnan(values)
        number = len(values) - missing.sum(axis=0)
        deviations = np.where(missing, np.float64(0), values)
        mean = np.zeros_like(self.mean)
        for _ in range(2):  # the second mean removes the rounding error of the first
            offset = np.einsum("nf->f", deviations) / np.maximum(number, 1)
            deviations -= offset
            deviations[missing] = 0
            mean += offset
        delta = mean - self.mean
        weight = number / np.maximum(self.number + number, 1)
        self.squares += np.einsum("nf,nf->f", deviations, deviations)
        self.squares += np.square(delta) * self.number * weight
        self.mean += delta * weight
        self.number += number

    @property
    def is_steady(self) -> np.ndarray:
        """Whether a feature changes by the same amount in every time step, to 1 %.

        The amount is 0 if the feature is constant within every sequence. The result is
        bool [features].
        """
        features = len(self.low)
        limit = 1e-4 * self.number[features:] * np.square(self.mean[features:])
        return (self.squares[features:] <= limit) & (self.number[features:] > 0)

    @property
    def normalization(self) -> Iterator[tuple[float, ...]]:
        """The means, and the standard deviations of values and of their differences.

        Those are in units of the former, and 1 for a constant with rounded values.
        """
        variances = self.squares / np.maximum(self.number, 1)
        std, changes = np.split(np.sqrt(variances), 2)
        mean = self.mean[: len(std)]
        std[std <= 4 * self.rounding * np.abs(mean)] = 1
        largest = np.fmax(np.abs(self.low), np.abs(self.high))
        changes = np.where(changes <= 4 * self.rounding * largest, 1, changes / std)
        return (tuple(values.tolist()) for values in (mean, std, changes))


def find_far_values(
    sequences: Sequences, included: np.ndarray, moments: Moments
) -> dict[str, float]:
    """Returns the farthest value of each feature that has one far from all others.

    Such a value is in no relation to the standard deviation, which it determines. It is
    farther from the median than `MAX_DEVIATIONS` times the median absolute deviation of
    the values that differ from the median (most values of a feature can be equal). If
    none differs, it is `LARGEST_SQUARED` away. The medians are those of some values of
    the included sequences, int [n]; the moments are those of all.
    """
    _, time_steps, features = sequences.inputs.shape
    count = min(len(included), SAMPLED_SEQUENCES, max(1, SAMPLED_VALUES // features))
    steps = min(time_steps, max(1, SAMPLED_VALUES // (count * features)))
    chosen = included[np.arange(count) * len(included) // count]
    ends = np.full(count, time_steps)
    if sequences.lengths is not None:
        ends = sequences.lengths[chosen]
    times = np.arange(steps) * ends[:, None] // steps
    values = sequences.inputs[chosen[:, None], times].reshape(-1, features)
    values = values.astype(np.float64)
    median = _median(values)
    deviations = np.abs(values - median)
    deviations[deviations <= 4 * moments.rounding * np.abs(median)] = np.nan
    limit = MAX_DEVIATIONS * _median(deviations)
    limit[np.isnan(limit)] = LARGEST_SQUARED
    is_above = moments.high - median > median - moments.low
    farthest = np.where(is_above, moments.high, moments.low)
    is_far = np.abs(farthest - median) > limit
    return {
        sequences.feature_names[index]: float(farthest[index])
        for index in np.flatnonzero(is_far)
    }


def _median(values: np.ndarray) -> np.ndarray:
    """Returns the lower medians over the first axis, without NaN; NaN of none."""
    number = len(values) - np.isnan(values).sum(axis=0)
    middle = np.maximum(number - 1, 0) // 2
    return np.take_along_axis(np.sort(values, axis=0), middle[None], axis=0)[0]
