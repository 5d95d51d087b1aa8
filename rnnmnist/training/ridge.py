"""Ridge regression of the classes on hidden states, in closed form, on the host.

The targets of an example are 1 for its class and -1 for all others. With examples x[i]
of weights w[i], whose features are standardized by their weighted means and deviations,
the coefficients B and the offset b minimize

    sum over i of w[i] |y[i] - b - x[i] B|^2 + strength |B|^2

The weighted means of targets and features are 0 after their projection, so that the
offset leaves the problem. An eigendecomposition of one Gram matrix, the smaller one,
solves it for all strengths, and gives the prediction for each example by a fit without
it, or without its group. These leave-one-out predictions choose the strength, and the
multiplier by which scores become logits.

References:
    Hoerl and Kennard, "Ridge Regression: Biased Estimation for Nonorthogonal Problems",
    Technometrics 12, 1970. Allen, "The Relationship between Variable Selection and Data
    Augmentation and a Method for Prediction", Technometrics 16, 1974, for predictions
    that leave one example out.
"""

from collections.abc import Callable, Iterator
from typing import NamedTuple

import numpy as np

from rnnmnist.evaluation.probabilities import choose_multiplier

STRENGTHS = np.logspace(-4, 4, 17)
# The largest standard deviation of features that are constant but for rounding,
# relative to their mean.
CONSTANT = 1e-9
PART = 512  # examples that are left out at a time
# Yields the features of the examples, real [part, features], in their order. The
# examples are read twice if there are more of them than features.
Parts = Callable[[], Iterator[np.ndarray]]


class RidgeHead(NamedTuple):
    """A linear function from features to logits, and what chose it."""

    kernel: np.ndarray  # float64 [features, classes]
    bias: np.ndarray  # float64 [classes]
    # For each example, float64 [examples, classes], by a head that was fitted without
    # it, but with the same strength, factor and standardization.
    left_out_logits: np.ndarray
    strength: float
    factor: float  # by which the scores, about -1 to 1, become logits


class _Problem(NamedTuple):
    """Targets, and the weighted moments of targets and features."""

    weights: np.ndarray  # [examples]
    targets: np.ndarray  # [examples, classes]
    offset: np.ndarray  # [classes], the mean of the targets
    mean: np.ndarray  # [features]
    scale: np.ndarray  # [features], 1 / deviation; 0 for constant features

    def project(self, features: np.ndarray, part: slice) -> np.ndarray:
        """Returns standardized features of some examples, times their root weights."""
        standardized = (features - self.mean) * self.scale
        standardized *= np.sqrt(self.weights[part, None])
        return standardized

    @property
    def projected_targets(self) -> np.ndarray:
        """The targets without their mean, times root weights."""
        return (self.targets - self.offset) * np.sqrt(self.weights[:, None])


class _Spectrum(NamedTuple):
    """The solution for all strengths, in the basis of the eigenvectors."""

    values: np.ndarray  # [k], the eigenvalues of the Gram matrix
    vectors: np.ndarray  # its eigenvectors, [examples, k] or [features, k]
    # The projected features, [examples, features], if the Gram matrix is that of the
    # examples; else None.
    projected: np.ndarray | None
    products: np.ndarray  # [k, classes], of features and targets, both projected

    def coefficients(self, weights: np.ndarray) -> np.ndarray:
        """Returns a linear function of the basis as one of the projected features."""
        if self.projected is None:
            return self.vectors @ weights
        # An eigenvalue of 0 has no eigenvector among the features.
        roots = np.sqrt(self.values)[:, None]
        scaled = np.divide(weights, roots, out=np.zeros_like(weights), where=roots > 0)
        result: np.ndarray = self.projected.T @ (self.vectors @ scaled)
        return result


def fit_ridge(
    parts: Parts,
    features: int,
    labels: np.ndarray,
    classes: int,
    weights: np.ndarray,
    *,
    groups: np.ndarray | None = None,
    strengths: np.ndarray = STRENGTHS,
) -> RidgeHead:
    """Fits a head, with the strength of the least leave-one-out error.

    Weights of equal examples add up: an example of weight 2 counts as two in the fit,
    the error, and the multiplier, but is left out as one.

    With groups, all examples of a group are left out together.

    Args:
        parts: yields the features.
        features: their number.
        labels: int [examples], of at least two classes.
        classes: the number of all classes.
        weights: above 0, float [examples].
        groups: ascending numbers of at least two groups, int [examples].
        strengths: from which one is chosen, above 0.
    """
    targets = 2 * np.eye(classes)[labels] - 1
    weights = weights.astype(float)
    if len(labels) <= features:
        problem, spectrum = _solve_by_examples(parts, targets, weights)
    else:
        problem, spectrum = _solve_by_features(parts, features, targets, weights)

    inverses = 1 / (spectrum.values[:, None] + strengths)  # [k, strengths]
    coefficients = inverses[:, :, None] * spectrum.products[:, None]
    flat = coefficients.reshape(len(coefficients), -1)
    left_out: np.ndarray = np.empty((len(labels), len(strengths), classes), np.float32)
    errors = np.zeros(len(strengths))
    root_weights = np.sqrt(weights / weights.sum())
    blocks = _iterate_coordinates(parts, problem, spectrum)
    leave_out = leave_examples_out
    if groups is not None:
        blocks = _join_groups(blocks, groups)
        leave_out = leave_group_out
    for part, coordinates in blocks:
        fitted = (coordinates @ flat).reshape(-1, len(strengths), classes)
        residuals = problem.projected_targets[part, None] - fitted
        residuals = leave_out(residuals, coordinates, inverses, root_weights[part])
        errors += (residuals**2).sum(axis=(0, 2))
        residuals /= np.sqrt(weights[part, None, None])
        left_out[part] = targets[part, None] - residuals
    best = int(errors.argmin())

    scores = left_out[:, best].astype(float)
    factor = choose_multiplier(scores, labels, weights)
    kernel = spectrum.coefficients(coefficients[:, best]) * problem.scale[:, None]
    bias = problem.offset - problem.mean @ kernel
    return RidgeHead(
        kernel=factor * kernel,
        bias=factor * bias,
        left_out_logits=factor * scores,
        strength=float(strengths[best]),
        factor=factor,
    )


def _solve_by_examples(
    parts: Parts, targets: np.ndarray, weights: np.ndarray
) -> tuple[_Problem, _Spectrum]:
    """Solves by the Gram matrix of the examples, which keeps their features."""
    features = np.concatenate([part.astype(float) for part in parts()])
    mean = weights @ features / weights.sum()
    variance = weights @ (features - mean) ** 2 / weights.sum()
    problem = _make_problem(weights, targets, mean, variance)
    projected = problem.project(features, slice(None))
    gram = projected @ projected.T
    # The root weights are an eigenvector of 0, and are the direction of the offset,
    # which is not penalized. With a large value, no other vector of 0 mixes with it.
    direction = np.sqrt(weights / weights.sum())
    largest = np.trace(gram) + 1
    values, vectors = np.linalg.eigh(gram + largest * np.outer(direction, direction))
    is_offset = np.abs(direction @ vectors).argmax()
    values = np.delete(values, is_offset).clip(min=0)
    vectors = np.delete(vectors, is_offset, axis=1)
    products = np.sqrt(values)[:, None] * (vectors.T @ problem.projected_targets)
    return problem, _Spectrum(values, vectors, projected, products)


def _solve_by_features(
    parts: Parts, number: int, targets: np.ndarray, weights: np.ndarray
) -> tuple[_Problem, _Spectrum]:
    """Solves by the Gram matrix of the features, which is a sum over the parts."""
    gram = np.zeros((number, number))
    sums = np.zeros(number)
    products = np.zeros((number, targets.shape[1]))
    total = weights.sum()
    start = 0
    for features in parts():
        part = slice(start, start + len(features))
        if start == 0:
            first = features[0].astype(float)
        start = part.stop
        # Without the first example, the sums of a constant feature are exactly 0.
        shifted = features - first
        weighted = shifted * weights[part, None]
        gram += shifted.T @ weighted
        sums += weighted.sum(axis=0)
        products += weighted.T @ targets[part]
    shifted_mean = sums / total
    mean = first + shifted_mean
    gram -= total * np.outer(shifted_mean, shifted_mean)
    problem = _make_problem(weights, targets, mean, gram.diagonal() / total)
    gram *= problem.scale
    gram *= problem.scale[:, None]
    products -= total * np.outer(shifted_mean, problem.offset)
    products *= problem.scale[:, None]
    values, vectors = np.linalg.eigh(gram)
    spectrum = _Spectrum(values.clip(min=0), vectors, None, vectors.T @ products)
    return problem, spectrum


def _make_problem(
    weights: np.ndarray, targets: np.ndarray, mean: np.ndarray, variance: np.ndarray
) -> _Problem:
    deviation = np.sqrt(variance.clip(min=0))
    is_constant = deviation <= CONSTANT * np.abs(mean)
    scale = np.where(is_constant, 0, 1 / np.where(is_constant, 1, deviation))
    offset = weights @ targets / weights.sum()
    return _Problem(weights, targets, offset, mean, scale)


def _iterate_coordinates(
    parts: Parts, problem: _Problem, spectrum: _Spectrum
) -> Iterator[tuple[slice, np.ndarray]]:
    """Yields the projected features of some examples in the basis, [part, k]."""
    if spectrum.projected is not None:
        roots = np.sqrt(spectrum.values)
        for start in range(0, len(spectrum.vectors), PART):
            part = slice(start, start + PART)
            yield part, spectrum.vectors[part] * roots
        return
    start = 0
    for features in parts():
        part = slice(start, start + len(features))
        start = part.stop
        yield part, problem.project(features.astype(float), part) @ spectrum.vectors


def _join_groups(
    blocks: Iterator[tuple[slice, np.ndarray]], groups: np.ndarray
) -> Iterator[tuple[slice, np.ndarray]]:
    """Yields the coordinates of one group at a time."""
    ends = [*(np.flatnonzero(np.diff(groups)) + 1).tolist(), len(groups)]
    pending: list[np.ndarray] = []
    read = start = 0
    for _, coordinates in blocks:
        pending.append(coordinates)
        read += len(coordinates)
        while ends and ends[0] <= read:
            rows = np.concatenate(pending)
            end = ends.pop(0)
            yield slice(start, end), rows[: end - start]
            pending = [rows[end - start :]]
            start = end


def leave_examples_out(
    residuals: np.ndarray,
    coordinates: np.ndarray,
    inverses: np.ndarray,
    root_weights: np.ndarray,
) -> np.ndarray:
    """Returns the residual of each example by a fit without it.

    It is the residual of the fit to all, divided by one minus the leverage.

    Args:
        residuals: of the fit to all examples, [examples, strengths, classes].
        coordinates: projected features in the basis, [examples, k].
        inverses: by which the fit multiplies them, [k, strengths].
        root_weights: the direction of the offset, [examples].
    """
    leverages = coordinates**2 @ inverses + root_weights[:, None] ** 2
    result: np.ndarray = residuals / (1 - leverages)[:, :, None]
    return result


def leave_group_out(
    residuals: np.ndarray,
    coordinates: np.ndarray,
    inverses: np.ndarray,
    root_weights: np.ndarray,
) -> np.ndarray:
    """Returns the residuals of a group's examples by a fit without all of them.

    The arguments are as those of `leave_examples_out`, and the matrix of the leverages
    of two examples takes the place of their leverage.
    """
    result = np.empty_like(residuals)
    offset = np.eye(len(residuals)) - np.outer(root_weights, root_weights)
    for index, inverse in enumerate(inverses.T):
        rest = offset - coordinates * inverse @ coordinates.T
        result[:, index] = np.linalg.solve(rest, residuals[:, index])
    return result
