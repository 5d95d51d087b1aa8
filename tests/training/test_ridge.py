"""Ridge regression equals its definition, with each example and without it."""

import numpy as np
import pytest

from rnnmnist.training.ridge import RidgeHead, fit_ridge

CLASSES = 3
SIZES = {"few examples": (30, 50), "many examples": (60, 20)}


def make_data(size: str) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Returns features with a constant column and equal rows, labels, and weights."""
    examples, number = SIZES[size]
    generator = np.random.default_rng(0)
    labels = generator.integers(0, CLASSES, examples)
    features = generator.normal(size=(examples, number)) + labels[:, None]
    features[:, 3] = 0.25
    features[1] = features[2]
    weights = generator.uniform(0.5, 3, examples)
    return features.astype(np.float32), labels, weights


def fit(
    features: np.ndarray,
    labels: np.ndarray,
    weights: np.ndarray,
    alpha: float = 0.4,
    groups: np.ndarray | None = None,
) -> RidgeHead:
    alphas = np.array([alpha])
    values = features.astype(float)
    if groups is None:
        groups = np.arange(len(labels))
    return fit_ridge(values, labels, CLASSES, weights, groups=groups, alphas=alphas)


def scale_of(
    features: np.ndarray, weights: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Returns weighted means and inverse standard deviations, 0 for constants."""
    values = features.astype(float)
    mean = np.average(values, axis=0, weights=weights)
    std = np.sqrt(np.average((values - mean) ** 2, axis=0, weights=weights))
    return mean, np.where(std > 1e-6, 1 / np.maximum(std, 1e-6), 0)


def solve(
    inputs: np.ndarray, labels: np.ndarray, weights: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Solves the normal equations, with a column of ones for the offset."""
    columns = np.concatenate([inputs, np.ones((len(inputs), 1))], axis=1)
    penalty = np.diag([0.4] * inputs.shape[1] + [0])
    targets = 2 * np.eye(CLASSES)[labels] - 1
    weighted = columns.T * weights
    solution = np.linalg.solve(weighted @ columns + penalty, weighted @ targets)
    return solution[:-1], solution[-1]


@pytest.mark.parametrize("size", SIZES)
def test_the_head_solves_the_normal_equations(size: str) -> None:
    features, labels, weights = make_data(size)
    head = fit(features, labels, weights)
    mean, scale = scale_of(features, weights)
    inputs = (features - mean) * scale
    kernel, offset = solve(inputs, labels, weights)
    expected = (inputs @ kernel + offset) / head.temperature
    np.testing.assert_allclose(features @ head.kernel + head.bias, expected, atol=1e-9)


@pytest.mark.parametrize("group_size", [None, 1, 2, 7, 14])
@pytest.mark.parametrize("size", SIZES)
def test_leave_one_out_logits_equal_fits_without_the_example_or_its_group(
    size: str, group_size: int | None
) -> None:
    features, labels, weights = make_data(size)
    given = None
    groups = np.arange(len(labels))
    if group_size is not None:
        given = groups = groups // group_size
    head = fit(features, labels, weights, groups=given)
    mean, scale = scale_of(features, weights)
    inputs = (features - mean) * scale
    expected = np.zeros((len(labels), CLASSES))
    for group in np.unique(groups):
        out, kept = groups == group, groups != group
        kernel, offset = solve(inputs[kept], labels[kept], weights[kept])
        expected[out] = (inputs[out] @ kernel + offset) / head.temperature
    np.testing.assert_allclose(head.leave_one_out_logits, expected, atol=1e-5)


@pytest.mark.parametrize("size", SIZES)
def test_constant_features_whose_sums_are_rounded_have_no_coefficients(
    size: str,
) -> None:
    features, labels, weights = make_data(size)
    noise = np.random.default_rng(0).normal(size=(len(features), 10))
    deviations = np.repeat([0, 1e-6, 1e-4], [4, 3, 3])
    features[:, 5:15] = np.linspace(0.05, 0.95, 10) * (1 + deviations * noise)
    kernel = fit(features, labels, weights).kernel
    assert (kernel[5:12] == 0).all()
    assert kernel[12:15].all()


def test_alpha_has_the_least_leave_one_out_error() -> None:
    features, labels, weights = make_data("few examples")
    targets = 2 * np.eye(CLASSES)[labels] - 1
    alphas = np.logspace(-4, 4, 17)

    def error(alpha: float) -> float:
        head = fit(features, labels, weights, alpha)
        residuals = head.leave_one_out_logits * head.temperature - targets
        return float(weights @ (residuals**2).sum(axis=1))

    errors = [error(alpha) for alpha in alphas]
    alone = np.arange(len(labels))
    head = fit_ridge(features.astype(float), labels, CLASSES, weights, alone)
    best = fit(features, labels, weights, alphas[np.argmin(errors)])
    np.testing.assert_array_equal(head.kernel, best.kernel)
    assert 0 < np.argmin(errors) < 16
