"""What the values of the training sequences are like."""

from collections.abc import Iterator

import numpy as np

from rnnmnist.data.examples import MAX_DEVIATIONS
from rnnmnist.data.sequences.checking import Sequences

SAMPLED_VALUES = 1 << 16


class Moments:
    """The number, mean and sum of squared deviations of each feature's values.

    Those of the differences over time follow. They are of the sequences in training,
    int [n]; the lowest and the highest values are of all sequences.
    """

    def __init__(self, sequences: Sequences, training: np.ndarray) -> None:
        examples, _, features = sequences.inputs.shape
        dtype = np.result_type(sequences.inputs.dtype, np.float32)
        self.is_training = np.isin(np.arange(examples), training)
        self.number, self.mean, self.squares = np.zeros((3, 2 * features))
        self.rounding = np.finfo(dtype).eps  # the relative error of a value
        self.low, self.high = np.full((2, features), [[np.inf], [-np.inf]])

    def add(self, part: slice, rows: np.ndarray, ends: np.ndarray) -> None:
        """Adds some of the sequences.

        `rows` are their time steps, one sequence after the other, real [sum of ends,
        features]. NaN are left out.

        References:
            Chan, Golub, LeVeque, "Algorithms for Computing the Sample Variance", The
            American Statistician 37(3), 1983.
        """
        rows = rows.astype(np.float64)
        self.low = np.fmin(self.low, np.fmin.reduce(rows))
        self.high = np.fmax(self.high, np.fmax.reduce(rows))
        differences = np.diff(rows, axis=0, prepend=np.nan)
        differences[np.cumsum(ends)[:-1]] = np.nan  # from one sequence to the next
        values = np.concatenate([rows, differences], axis=1)
        values = values[np.repeat(self.is_training[part], ends)]
        is_missing = np.isnan(values)
        number = len(values) - is_missing.sum(axis=0)
        deviations = np.where(is_missing, 0, values)
        mean = np.zeros_like(self.mean)
        for _ in range(2):  # the second mean removes the rounding error of the first
            offset = np.einsum("nf->f", deviations) / np.maximum(number, 1)
            deviations -= offset
            deviations[is_missing] = 0
            mean += offset
        delta = mean - self.mean
        weight = number / np.maximum(self.number + number, 1)
        self.squares += np.einsum("nf,nf->f", deviations, deviations)
        self.squares += np.square(delta) * self.number * weight
        self.mean += delta * weight
        self.number += number

    @property
    def is_empty(self) -> np.ndarray:
        """Whether a feature has no value in training, bool [features]."""
        return self.number[: len(self.low)] == 0

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
    sequences: Sequences, training: np.ndarray, moments: Moments
) -> dict[str, float]:
    """Returns the farthest value of each feature that has one far from all others.

    Such a value is in no relation to the standard deviation, which it determines. It is
    farther from the median than `MAX_DEVIATIONS` times the median absolute deviation of
    the values that differ from the median (most values of a feature can be equal). The
    medians are those of random time steps of the training sequences, int [n].
    """
    generator = np.random.default_rng(0)
    count = max(1, SAMPLED_VALUES // len(moments.low))
    chosen = generator.choice(training, count)
    times = generator.integers(sequences.lengths[chosen])
    sample = sequences.inputs[chosen, times].astype(np.float64)
    values = np.ma.masked_invalid(sample)
    median = np.ma.median(values, axis=0)
    deviations = np.ma.masked_equal(np.abs(values - median), 0)
    limit = MAX_DEVIATIONS * np.ma.median(deviations, axis=0)  # masked if none differs
    is_above = moments.high - median > median - moments.low
    farthest = np.where(is_above, moments.high, moments.low)
    is_far = np.ma.filled(np.abs(farthest - median) > limit, False)
    return {
        sequences.feature_names[index]: float(farthest[index])
        for index in np.flatnonzero(is_far)
    }
