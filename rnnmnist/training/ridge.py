"""Ridge regression of the classes on hidden states, in closed form, on the host.

The targets of an example are 1 for its class and -1 for all others. With examples x[i]
of weights w[i], whose features are standardized by their weighted means and deviations,
the coefficients B and the offset b minimize

    sum over i of w[i] |y[i] - b - x[i] B|^2 + alpha |B|^2

Without their weighted means, and times root weights, targets Y and features Z have no
offset. With the eigenvectors V of Z'Z, and their eigenvalues, the coefficients for any
alpha are

    B = V (ZV)'Y / (eigenvalues + alpha)

and so is the prediction for each example by a fit without it, or without its group.
These leave-one-out predictions choose the alpha, and the temperature of the
decision values.

References:
    Hoerl and Kennard, "Ridge Regression: Biased Estimation for Nonorthogonal Problems",
    Technometrics 12, 1970. Allen, "The Relationship between Variable Selection and Data
    Augmentation and a Method for Prediction", Technometrics 16, 1974, for predictions
    that leave one example out.
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
# The largest standard deviation of features that are constant but for rounding,
# relative to their mean. The features are computed in float32.
CONSTANT = 1e-5
# The largest eigenvalue that is 0 but for rounding, relative to the largest of all.
ZERO = 1e-14
# What a fit has in memory at a time, in float64: the hidden states and the coordinates
# of the examples, and the Gram matrix with what its decomposition needs.
COPIES_OF_STATES = 2
COPIES_OF_GRAM = 5
COPIES_OF_GROUP = 4  # of the matrix of the leverages within the largest group


class RidgeHead(NamedTuple):
    """A linear function from features to logits, and what chose it."""

    kernel: np.ndarray  # float64 [features, classes]
    bias: np.ndarray  # float64 [classes]
    # For each example, float64 [examples, classes], by a head that was fitted without
    # it, but with the same alpha, temperature and standardization.
    left_out_logits: np.ndarray
    temperature: float  # divides the decision values, about -1 to 1


def fit_ridge(
    features: np.ndarray,
    labels: np.ndarray,
    classes: int,
    weights: np.ndarray,
    groups: np.ndarray,
    alphas: np.ndarray = ALPHAS,
) -> RidgeHead:
    """Fits a head, with the alpha of the least leave-one-out error.

    Weights of equal examples add up: an example of weight 2 counts as two in the fit,
    the error and the temperature, but is left out as one.

    All examples of a group are left out together.

    Args:
        features: float64 [examples, features]. They are overwritten, to save memory.
        labels: int [examples], of at least two classes.
        classes: the number of all classes.
        weights: above 0, float64 [examples].
        groups: the group of each example, of at least two, [examples].
        alphas: from which one is chosen, above 0.
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
        """Returns the residual of each example by a fit without it, or its group."""
        inverses = 1 / (eigenvalues + alpha)
        fitted = coordinates @ (inverses[:, None] * products)
        residuals = centred_targets - fitted
        # The residual of the fit to all examples, divided by one minus the leverage.
        leverages = (
            np.einsum("ij,ij,j->i", coordinates, coordinates, inverses)
            + normalized_weights
        )
        left_out = residuals / (1 - leverages)[:, None]
        for members in together:  # a matrix takes the place of the leverage
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
    """Standardizes features in place, [examples, features].

    The weights of the examples, [examples], have the sum 1. Returns the means of the
    features, and their inverse deviations, which are 0 for constant features.
    """
    mean = normalized_weights @ features
    features -= mean
    deviation = np.sqrt(normalized_weights @ features**2)
    # The scale of a constant feature is 0.
    deviation[deviation <= CONSTANT * np.abs(mean)] = np.inf
    scale = 1 / deviation
    features *= scale
    return mean, scale


def decompose(features: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Decomposes features Z, [examples, features], by the smaller Gram matrix.

    Returns the eigenvalues of Z'Z that are not 0, [k], their eigenvectors,
    [features, k], and the coordinates of the examples in this basis, [examples, k].
    """
    is_wide = features.shape[0] < features.shape[1]
    gram = features @ features.T if is_wide else features.T @ features
    eigenvalues, vectors = np.linalg.eigh(gram)
    is_kept = eigenvalues > ZERO * eigenvalues[-1]
    eigenvalues, vectors = eigenvalues[is_kept], vectors[:, is_kept]
    if not is_wide:
        return eigenvalues, vectors, features @ vectors
    roots = np.sqrt(eigenvalues)
    return eigenvalues, features.T @ (vectors / roots), vectors * roots


def list_groups(groups: np.ndarray) -> list[np.ndarray]:
    """Returns the positions of the members of each group that has several, int [m]."""
    _, codes, sizes = np.unique(groups, return_inverse=True, return_counts=True)
    members = np.split(np.argsort(codes, kind="stable"), np.cumsum(sizes)[:-1])
    return [positions for positions in members if len(positions) > 1]


def check_fit(config: RunConfig, dataset: Dataset) -> None:
    """Refuses a fit in closed form of one group, or of more than the memory holds."""
    task, splits = dataset
    train = splits["train"]
    _, sizes = np.unique(train.left_out_together, return_counts=True)
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
