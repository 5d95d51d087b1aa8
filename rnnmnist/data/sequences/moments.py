"""Statistics of the values of the training sequences."""

from collections.abc import Iterator

import numpy as np

from rnnmnist.data.sequences.checking import Sequences


class Moments:
    """The number, mean and sum of squared deviations, float64 [2, features].

    The first row is for the values of each feature, and the second row for their
    differences over time. Only the training sequences, int [n], are read.
    """

    def __init__(self, sequences: Sequences, training: np.ndarray) -> None:
        features = len(sequences.feature_names)
        dtype = np.result_type(sequences.inputs.dtype, np.float32)
        self.number, self.mean, self.squares = np.zeros((3, 2, features))
        self.rounding = np.finfo(dtype).eps  # the relative error of a value
        with np.errstate(all="ignore"):  # values that are too large are refused later
            for part, _, rows in sequences.read_parts(training):
                self.add(rows, sequences.lengths[part])

    def add(self, rows: np.ndarray, lengths: np.ndarray) -> None:
        """Adds some of the sequences.

        `rows` are their time steps, one sequence after the other, real [sum of lengths,
        features]. NaN are left out.

        References:
            Chan, Golub, LeVeque, "Algorithms for Computing the Sample Variance", The
            American Statistician 37(3), 1983.
        """
        rows = rows.astype(np.float64)
        differences = np.diff(rows, axis=0, prepend=np.nan)
        differences[np.cumsum(lengths)[:-1]] = np.nan  # from one sequence to the next
        values = np.stack([rows, differences], axis=1)
        is_missing = np.isnan(values)
        number = len(values) - is_missing.sum(axis=0)
        deviations = np.where(is_missing, 0, values)
        mean = np.zeros_like(self.mean)
        for _ in range(2):  # the second mean removes the rounding error of the first
            offset = np.einsum("ndf->df", deviations) / np.maximum(number, 1)
            deviations -= offset
            deviations[is_missing] = 0
            mean += offset
        delta = mean - self.mean
        weight = number / np.maximum(self.number + number, 1)
        self.squares += np.einsum("ndf,ndf->df", deviations, deviations)
        self.squares += np.square(delta) * self.number * weight
        self.mean += delta * weight
        self.number += number

    @property
    def std(self) -> np.ndarray:
        """The standard deviations of values and differences, float64 [2, features]."""
        return np.sqrt(self.squares / np.maximum(self.number, 1))

    @property
    def is_steady(self) -> np.ndarray:
        """Whether a feature changes by the same amount in every time step, to 1 %.

        The amount is 0 if the feature is constant within every sequence, but not in
        all. The result is bool [features].
        """
        squares, differences = self.squares
        _, number = self.number
        _, mean = self.mean
        limit = 1e-4 * number * np.square(mean)
        return (squares > 0) & (number > 0) & (differences <= limit)

    @property
    def is_constant(self) -> np.ndarray:
        """Whether a feature has one value, but for its rounding, bool [features]."""
        return self.std[0] <= 4 * self.rounding * np.abs(self.mean[0])

    @property
    def normalization(self) -> Iterator[tuple[float, ...]]:
        """The means, and the standard deviations of values and of their differences.

        Those are in units of the former, and 1 for a constant with rounded values.
        """
        std, changes = self.std
        mean, _ = self.mean
        is_steady = changes <= 4 * self.rounding * np.hypot(mean, std)
        std[self.is_constant] = 1
        changes = np.where(is_steady, 1, changes / std)
        return (tuple(values.tolist()) for values in (mean, std, changes))
