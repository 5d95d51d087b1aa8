"""Means and standard deviations of the training sequences and of their deltas."""

from collections.abc import Iterator

import numpy as np

from rnnmnist.data.sequences.checking import Sequences


class Moments:
    """Counts, means and sums of squared deviations, computed block by block.

    Attributes:
        count: the numbers of values that are not missing, float64 [2, features]. In all
            arrays, row 0 is for the values of each feature, and row 1 for its deltas,
            the differences between consecutive time steps.
        mean: the means, float64 [2, features].
        squared_deviations: the sums of squared deviations from the mean, float64
            [2, features].
        epsilon: the relative rounding error of the stored values.
    """

    def __init__(self, sequences: Sequences, indices: np.ndarray) -> None:
        features = len(sequences.feature_names)
        dtype = np.result_type(sequences.inputs.dtype, np.float32)
        self.count, self.mean, self.squared_deviations = np.zeros((3, 2, features))
        self.epsilon = np.finfo(dtype).eps
        with np.errstate(all="ignore"):  # values that overflow are rejected later
            for block, _, rows in sequences.read_blocks(indices):
                self.update(rows, sequences.lengths[block])

    def update(self, rows: np.ndarray, lengths: np.ndarray) -> None:
        """Adds a block of sequences; missing values (NaN) are ignored.

        Args:
            rows: the time steps of all sequences, numeric [sum of lengths, features].
            lengths: the number of time steps of each sequence, int [n].

        References:
            Chan, Golub, LeVeque, "Algorithms for Computing the Sample Variance", The
            American Statistician 37(3), 1983.
        """
        rows = rows.astype(np.float64)
        deltas = np.diff(rows, axis=0, prepend=np.nan)
        deltas[np.cumsum(lengths)[:-1]] = np.nan  # between two sequences
        values = np.stack([rows, deltas], axis=1)
        is_missing = np.isnan(values)
        count = len(values) - is_missing.sum(axis=0)
        deviations = np.where(is_missing, 0, values)
        mean = np.zeros_like(self.mean)
        for _ in range(2):  # the second pass removes the rounding error of the first
            offset = np.einsum("ndf->df", deviations) / np.maximum(count, 1)
            deviations -= offset
            deviations[is_missing] = 0
            mean += offset
        shift = mean - self.mean
        weight = count / np.maximum(self.count + count, 1)
        self.squared_deviations += np.einsum("ndf,ndf->df", deviations, deviations)
        self.squared_deviations += np.square(shift) * self.count * weight
        self.mean += shift * weight
        self.count += count

    @property
    def std(self) -> np.ndarray:
        """The standard deviations of values and deltas, float64 [2, features]."""
        return np.sqrt(self.squared_deviations / np.maximum(self.count, 1))

    @property
    def has_constant_delta(self) -> np.ndarray:
        """Whether all deltas of a feature are equal within 1 %; bool [features].

        This includes deltas of 0, where the feature is constant within every sequence,
        but differs between sequences.
        """
        value_squares, delta_squares = self.squared_deviations
        _, count = self.count
        _, mean = self.mean
        limit = 1e-4 * count * np.square(mean)
        return (value_squares > 0) & (count > 0) & (delta_squares <= limit)

    @property
    def is_constant(self) -> np.ndarray:
        """Whether a feature is constant up to rounding; bool [features]."""
        return self.std[0] <= 4 * self.epsilon * np.abs(self.mean[0])

    @property
    def normalization(self) -> Iterator[tuple[float, ...]]:
        """Yields the means, standard deviations, and standard deviations of the deltas.

        Deltas are relative to the standard deviation of their feature. A standard
        deviation that is 0 up to rounding is replaced with 1.
        """
        std, delta_std = self.std
        mean, _ = self.mean
        is_negligible = delta_std <= 4 * self.epsilon * np.hypot(mean, std)
        std[self.is_constant] = 1
        delta_std = np.where(is_negligible, 1, delta_std / std)
        return (tuple(values.tolist()) for values in (mean, std, delta_std))
