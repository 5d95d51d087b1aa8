"""Ridge regression classifier on hidden states, fitted in closed form on the host.

Targets y[i] are 1 for the class of example i and -1 for all other classes. Features
x[i] are standardized with their weighted mean and standard deviation. With example
weights w[i], the coefficients B and the offset b minimize

    sum over i of w[i] |y[i] - b - x[i] B|^2 + alpha |B|^2

Subtracting weighted means and multiplying by the square roots of the weights gives
targets Y and features Z, for which the offset vanishes. With the eigenvectors V and
eigenvalues of Z'Z, the coefficients for any alpha are

    B = V (ZV)'Y / (eigenvalues + alpha)

The same decomposition gives the prediction for each example by a fit without the
example, or without its group. These leave-one-out predictions determine alpha, and the
temperature of the decision values.

References:
    Hoerl and Kennard, "Ridge Regression: Biased Estimation for Nonorthogonal Problems",
    Technometrics 12, 1970.
    For leave-one-out predictions: Allen, "The Relationship between Variable Selection
    and Data Augmentation and a Method for Prediction", Technometrics 16, 1974.
"""

from typing import NamedTuple

import numpy as np

from rnnmnist.config.resolving import RunConfig
from rnnmnist.data.examples import Dataset
from rnnmnist.errors import UserError
from rnnmnist.evaluation.probabilities import fit_temperature
from rnnmnist.models.filters import THRESHOLDS
from rnnmnist.runtime.machine import main_memory

ALPHAS = np.logspace(-4, 4, 17)
# Features whose standard deviation is smaller, relative to their mean, are constant up
# to float32 rounding.
CONSTANT_TOLERANCE = 1e-5
# Eigenvalues that are smaller, relative to the largest one, are 0 up to rounding.
ZERO_TOLERANCE = 1e-14
# Peak memory of a fit, in float64 copies: hidden states and coordinates of the
# examples; the Gram matrix and the workspace of its decomposition; the leverage matrix
# of the largest group.
COPIES_OF_STATES = 2
COPIES_OF_GRAM = 5
COPIES_OF_GROUP = 4


class RidgeHead(NamedTuple):
    """A linear classification head, with its leave-one-out logits."""

    kernel: np.ndarray  # float64 [features, classes]
    bias: np.ndarray  # float64 [classes]
    # float64 [examples, classes]. Each row is from a head fitted without the example,
    # with the same alpha, temperature and standardization.
    left_out_logits: np.ndarray
    # Divides the decision values, which are about -1 to 1. `kernel`, `bias` and
    # `left_out_logits` are already divided.
    temperature: float


def fit_ridge(
    features: np.ndarray,
    labels: np.ndarray,
    classes: int,
    weights: np.ndarray,
    groups: np.ndarray,
    alphas: np.ndarray = ALPHAS,
) -> RidgeHead:
    """Fits a head with the alpha that minimizes the leave-one-out error.

    An example with weight 2 is equivalent to two examples in the fit, the error and the
    temperature, but is left out as a single example. All examples of a group are left
    out together.

    Args:
        features: float64 [examples, features]. Overwritten, to save memory.
        labels: int [examples], with at least two different classes.
        classes: number of classes.
        weights: positive, float64 [examples].
        groups: group of each example, [examples], with at least two groups.
        alphas: positive candidates for alpha.
    """
    targets = 2 * np.eye(classes)[labels] - 1
    normalized_weights = weights / weights.sum()
    root_weights = np.sqrt(weights)[:, None]
    offset = normalized_weights @ targets
    centred_targets = (targets - offset) * root_weights
    mean, scale = standardize(features, normalized_weights)
    features *= root_weights
    eigenvalues, basis, coordinates = decompose(features)
    products = coordinates.T @ centred_targets
    together = list_groups(groups)

    def leave_out(alpha: float) -> np.ndarray:
        """Returns the residuals of fits without the example, or without its group."""
        inverses = 1 / (eigenvalues + alpha)
        fitted = coordinates @ (inverses[:, None] * products)
        residuals = centred_targets - fitted
        # Left-out residual = residual of the full fit / (1 - leverage).
        leverages = (
            np.einsum("ij,ij,j->i", coordinates, coordinates, inverses)
            + normalized_weights
        )
        left_out = residuals / (1 - leverages)[:, None]
        for members in together:  # for groups, the leverage is a matrix
            own, roots = coordinates[members], np.sqrt(normalized_weights[members])
            leverage = own * inverses @ own.T + np.outer(roots, roots)
            rest = np.eye(len(members)) - leverage
            left_out[members] = np.linalg.solve(rest, residuals[members])
        return left_out

    errors = [np.square(leave_out(alpha)).sum() for alpha in alphas]
    alpha = float(alphas[np.argmin(errors)])
    decision_values = targets - leave_out(alpha) / root_weights
    temperature = fit_temperature(decision_values, labels, weights)
    coefficients = basis @ (products / (eigenvalues + alpha)[:, None])
    kernel = scale[:, None] * coefficients
    bias = offset - mean @ kernel
    return RidgeHead(
        kernel=kernel / temperature,
        bias=bias / temperature,
        left_out_logits=decision_values / temperature,
        temperature=temperature,
    )


def standardize(
    features: np.ndarray, normalized_weights: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Standardizes features [examples, features] in place.

    The example weights, [examples], sum to 1. Returns the weighted means, and the
    inverse standard deviations, which are 0 for constant features.
    """
    mean = normalized_weights @ features
    features -= mean
    deviation = np.sqrt(normalized_weights @ features**2)
    deviation[deviation <= CONSTANT_TOLERANCE * np.abs(mean)] = np.inf
    scale = 1 / deviation
    features *= scale
    return mean, scale


def decompose(features: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Decomposes features Z [examples, features] through the smaller Gram matrix.

    Returns the k nonzero eigenvalues of Z'Z, [k]; their eigenvectors, [features, k];
    and the coordinates of the examples in this basis, [examples, k].
    """
    is_wide = features.shape[0] < features.shape[1]
    gram = features @ features.T if is_wide else features.T @ features
    eigenvalues, vectors = np.linalg.eigh(gram)
    is_kept = eigenvalues > ZERO_TOLERANCE * eigenvalues[-1]
    eigenvalues, vectors = eigenvalues[is_kept], vectors[:, is_kept]
    if not is_wide:
        return eigenvalues, vectors, features @ vectors
    roots = np.sqrt(eigenvalues)
    return eigenvalues, features.T @ (vectors / roots), vectors * roots


def list_groups(groups: np.ndarray) -> list[np.ndarray]:
    """Lists the positions of the examples in each group of at least two examples."""
    _, codes, sizes = np.unique(groups, return_inverse=True, return_counts=True)
    members = np.split(np.argsort(codes, kind="stable"), np.cumsum(sizes)[:-1])
    return [positions for positions in members if len(positions) > 1]


def check_fit(config: RunConfig, dataset: Dataset) -> None:
    """Raises a `UserError` for a single group, or if the fit exceeds the memory."""
    task, splits = dataset
    train = splits["train"]
    _, sizes = np.unique(train.leave_out_groups, return_counts=True)
    if len(sizes) == 1:
        raise UserError(
            "groups: all training sequences are equal or in one group, so leaving them "
            "out leaves none; add other sequences, or remove groups"
        )
    count = len(train)
    features = (THRESHOLDS + 1) * config.model.hidden_size
    needed = COPIES_OF_STATES * count * features
    needed += COPIES_OF_GRAM * min(count, features) ** 2
    needed += COPIES_OF_GROUP * int(sizes.max()) ** 2
    needed *= 8
    available = main_memory().available
    if needed > available:
        raise UserError(
            f"model.cell: {config.model.cell} needs {needed / 2**30:.1f} GiB of memory "
            f"for {count:,} training {task.noun}, but {available / 2**30:.1f} GiB are "
            "available; train a network with model.cell=lru"
        )
