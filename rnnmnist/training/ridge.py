"""A ridge classifier on hidden states, fitted in closed form on the host.

Targets y[i] are 1 for the class of example i and -1 for all other classes. Features
x[i] are standardized with their weighted mean and standard deviation. With example
weights w[i], the coefficients B and the offset b minimize

    sum over i of w[i] |y[i] - b - x[i] B|^2 + alpha |B|^2

Subtracting weighted means and multiplying by the square roots of the weights gives
targets Y and features Z, for which the offset is 0. With the eigenvectors V and
eigenvalues of Z'Z, the coefficients for any alpha are

    B = V (ZV)'Y / (eigenvalues + alpha)

The same decomposition gives the leave-one-out predictions: each example is predicted by
a fit without the example, or without its group. Alpha minimizes the squared error of
these predictions. The temperature minimizes their cross-entropy.

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
# If the ratio of a feature's standard deviation to its absolute mean is at most this
# tolerance, the feature is constant up to float32 rounding.
CONSTANT_TOLERANCE = 1e-5
# If the ratio of an eigenvalue to the largest eigenvalue is at most this tolerance, the
# eigenvalue is 0 up to rounding.
ZERO_TOLERANCE = 1e-14
# Peak memory of a fit: number of float64 arrays of each shape.
STATE_ARRAYS = 2.5  # hidden states, also as float32, and coordinates of the examples
GRAM_ARRAYS = 5  # the Gram matrix and the workspace of its decomposition
LEVERAGE_ARRAYS = 4  # the leverage matrix of the largest group


class RidgeHead(NamedTuple):
    """A linear classification head, with its leave-one-out logits."""

    kernel: np.ndarray  # float64 [features, classes]
    bias: np.ndarray  # float64 [classes]
    # float64 [examples, classes]. Each example is predicted by a head that is fitted
    # without the example, with the same alpha, temperature and standardization.
    leave_one_out_logits: np.ndarray
    # Temperature of the decision values, which are about -1 to 1. `kernel`, `bias` and
    # `leave_one_out_logits` are already divided by the temperature.
    temperature: float


def fit_ridge(
    features: np.ndarray,
    labels: np.ndarray,
    num_classes: int,
    weights: np.ndarray,
    groups: np.ndarray,
    alphas: np.ndarray = ALPHAS,
) -> RidgeHead:
    """Fits a head with the alpha that minimizes the leave-one-out error.

    For the fit, the error and the temperature, an example with weight 2 counts as two
    examples, but is left out as a single example. All examples of a group are left out
    together.

    Args:
        features: float64 [examples, features]. Overwritten, to save memory.
        labels: int [examples], from at least two classes.
        num_classes: number of classes.
        weights: positive, float64 [examples].
        groups: group of each example, [examples]; at least two groups.
        alphas: positive candidates for alpha.
    """
    targets = 2 * np.eye(num_classes)[labels] - 1
    normalized_weights = weights / weights.sum()
    root_weights = np.sqrt(weights)[:, None]
    offset = normalized_weights @ targets
    centred_targets = (targets - offset) * root_weights
    mean, scale = standardize(features, normalized_weights)
    features *= root_weights
    eigenvalues, basis, coordinates = decompose(features)
    products = coordinates.T @ centred_targets
    group_members = list_groups(groups)

    def leave_one_out(alpha: float) -> np.ndarray:
        """Returns the leave-one-out residuals, float64 [examples, classes]."""
        inverses = 1 / (eigenvalues + alpha)
        predictions = coordinates @ (inverses[:, None] * products)
        residuals = centred_targets - predictions
        # Leave-one-out residual = residual of the full fit / (1 - leverage).
        leverages = (
            np.einsum("ij,ij,j->i", coordinates, coordinates, inverses)
            + normalized_weights
        )
        left_out_residuals = residuals / (1 - leverages)[:, None]
        for members in group_members:  # for groups, the leverage is a matrix
            rows, roots = coordinates[members], np.sqrt(normalized_weights[members])
            leverage = rows * inverses @ rows.T + np.outer(roots, roots)
            matrix = np.eye(len(members)) - leverage
            left_out_residuals[members] = np.linalg.solve(matrix, residuals[members])
        return left_out_residuals

    errors = [np.square(leave_one_out(alpha)).sum() for alpha in alphas]
    alpha = float(alphas[np.argmin(errors)])
    decision_values = targets - leave_one_out(alpha) / root_weights
    temperature = fit_temperature(decision_values, labels, weights)
    coefficients = basis @ (products / (eigenvalues + alpha)[:, None])
    kernel = scale[:, None] * coefficients
    bias = offset - mean @ kernel
    return RidgeHead(
        kernel=kernel / temperature,
        bias=bias / temperature,
        leave_one_out_logits=decision_values / temperature,
        temperature=temperature,
    )


def standardize(
    features: np.ndarray, normalized_weights: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Standardizes features [examples, features] in place.

    `normalized_weights` are example weights, [examples], which sum to 1. Returns the
    weighted means and the inverse standard deviations, [features]. The inverse standard
    deviation of a constant feature is 0.
    """
    mean = normalized_weights @ features
    features -= mean
    std = np.sqrt(normalized_weights @ features**2)
    std[std <= CONSTANT_TOLERANCE * np.abs(mean)] = np.inf
    scale = 1 / std
    features *= scale
    return mean, scale


def decompose(features: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Decomposes features Z [examples, features], using the smaller Gram matrix.

    Returns the k nonzero eigenvalues of Z'Z, [k]; their eigenvectors, [features, k];
    and the coordinates of the examples in this basis, [examples, k].
    """
    is_wide = features.shape[0] < features.shape[1]
    gram = features @ features.T if is_wide else features.T @ features
    eigenvalues, vectors = np.linalg.eigh(gram)
    is_nonzero = eigenvalues > ZERO_TOLERANCE * eigenvalues[-1]
    eigenvalues, vectors = eigenvalues[is_nonzero], vectors[:, is_nonzero]
    if not is_wide:
        return eigenvalues, vectors, features @ vectors
    roots = np.sqrt(eigenvalues)
    return eigenvalues, features.T @ (vectors / roots), vectors * roots


def list_groups(groups: np.ndarray) -> list[np.ndarray]:
    """Lists the example indices of each group with at least two examples."""
    _, codes, sizes = np.unique(groups, return_inverse=True, return_counts=True)
    members = np.split(np.argsort(codes, kind="stable"), np.cumsum(sizes)[:-1])
    return [indices for indices in members if len(indices) > 1]


def check_fit(config: RunConfig, dataset: Dataset) -> None:
    """Raises a `UserError` if there is a single group or too little memory."""
    task, splits = dataset
    train = splits["train"]
    _, sizes = np.unique(train.leave_out_groups, return_counts=True)
    if len(sizes) == 1:
        raise UserError(
            "groups: all training sequences are identical or in one group, so none "
            "remain if they are left out; add other sequences, or remove groups"
        )
    num_examples = len(train)
    num_features = (THRESHOLDS + 1) * config.model.hidden_size
    num_values = STATE_ARRAYS * num_examples * num_features
    num_values += GRAM_ARRAYS * min(num_examples, num_features) ** 2
    num_values += LEVERAGE_ARRAYS * int(sizes.max()) ** 2
    required_bytes = 8 * num_values
    available_bytes = main_memory().available
    if required_bytes > available_bytes:
        raise UserError(
            f"model.cell: {config.model.cell} needs {required_bytes / 2**30:.1f} GiB "
            f"of memory for {num_examples:,} training {task.noun}, but only "
            f"{available_bytes / 2**30:.1f} GiB is available; train a network with "
            "model.cell=lru"
        )
