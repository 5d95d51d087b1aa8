"""Means and standard deviations of the training sequences and of their deltas."""

import numpy as np

from rnnmnist.data.sequences.checking import Sequences


def compute_moments(
    sequences: Sequences, indices: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Computes the moments of selected sequences, block by block.

    Missing values are ignored. A delta is the difference between consecutive time
    steps.

    Returns:
        Three arrays, float64 [features]: the means; the standard deviations, which are
        1 for features that are constant up to rounding; and the standard deviations of
        the deltas, divided by those of the values, which are 1 if they are negligible.

    References:
        Chan, Golub, LeVeque, "Algorithms for Computing the Sample Variance", The
        American Statistician 37(3), 1983.
    """
    # In each array, row 0 is for the values of the features, and row 1 for the deltas.
    total_count, total_mean, squares = np.zeros((3, 2, len(sequences.feature_names)))
    with np.errstate(all="ignore"):  # values that overflow are rejected later
        for lengths, rows in sequences.read_blocks(indices):
            rows = rows.astype(np.float64)
            deltas = np.diff(rows, axis=0, prepend=np.nan)
            deltas[np.cumsum(lengths)[:-1]] = np.nan  # first steps
            values = np.stack([rows, deltas], axis=1)
            is_missing = np.isnan(values)
            count = len(values) - is_missing.sum(axis=0)
            deviations = np.where(is_missing, 0, values)
            mean = np.zeros_like(total_mean)
            for _ in range(2):  # the second pass corrects rounding errors of the first
                offset = np.einsum("ndf->df", deviations) / np.maximum(count, 1)
                deviations -= offset
                deviations[is_missing] = 0
                mean += offset
            shift = mean - total_mean
            weight = count / np.maximum(total_count + count, 1)
            squares += np.einsum("ndf,ndf->df", deviations, deviations)
            squares += np.square(shift) * total_count * weight
            total_mean += shift * weight
            total_count += count
        std, delta_std = np.sqrt(squares / np.maximum(total_count, 1))
    mean = total_mean[0]
    dtype = np.result_type(sequences.inputs.dtype, np.float32)
    epsilon = 4 * np.finfo(dtype).eps  # relative rounding error of the stored values
    is_negligible = delta_std <= epsilon * np.hypot(mean, std)
    std[std <= epsilon * np.abs(mean)] = 1
    return mean, std, np.where(is_negligible, 1, delta_std / std)
