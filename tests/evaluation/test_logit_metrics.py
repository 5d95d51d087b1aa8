"""Losses, accuracies and confusion matrices, compared with values by hand."""

import math

import numpy as np
import pytest
from support import make_metrics

from rnnmnist.evaluation.formatting import format_probability
from rnnmnist.evaluation.logit_metrics import compute_ensemble_metrics
from rnnmnist.runs.metrics import EnsembleMetrics, wilson_interval

# Two members and six examples of three classes, none of which is of class 2.
LABELS = np.array([0, 0, 0, 0, 1, 1], np.uint8)
PREDICTED = np.array([[0, 0, 0, 1, 1, 1], [0, 2, 2, 2, 0, 1]])
CONFUSIONS = (((3, 1, 0), (0, 2, 0), (0, 0, 0)), ((1, 0, 3), (1, 1, 0), (0, 0, 0)))


def metrics_of_predictions() -> EnsembleMetrics:
    """Returns metrics of logits whose predicted class has a probability of 0.5."""
    logits = np.log(2) * np.eye(3, dtype=np.float32)[PREDICTED]
    return compute_ensemble_metrics(logits, LABELS, first_seed=3)


@pytest.mark.parametrize(
    ("correct", "examples", "low", "high"),
    [  # published values of the formula
        (0, 10, 0.0, 0.2775),
        (10, 10, 0.7225, 1.0),
        (9870, 10_000, 0.98459, 0.98904),
    ],
)
def test_wilson_intervals(correct: int, examples: int, low: float, high: float) -> None:
    found = wilson_interval(correct, examples)
    assert found == pytest.approx((low, high), abs=6e-4)


def test_only_a_probability_of_one_is_printed_as_100() -> None:
    texts = {1: "> 99.99 %", 0.99: "99.00 %", 1e-5: "< 0.01 %", 0: "0.00 %"}
    assert {fraction: format_probability(fraction) for fraction in texts} == texts


def test_metrics_by_hand() -> None:
    """The balanced accuracies are the means of 3/4 and 2/2, and of 1/4 and 1/2."""
    metrics = metrics_of_predictions()
    first, second = metrics.members
    assert (first.confusion, second.confusion) == CONFUSIONS
    assert (first.seed, first.correct, first.accuracy) == (3, 5, 5 / 6)
    assert (second.seed, second.correct, second.accuracy) == (4, 2, 2 / 6)
    assert (metrics.examples, metrics.correct, metrics.accuracy) == (6, 7, 7 / 12)
    assert metrics.confusion == ((4, 1, 3), (1, 3, 0), (0, 0, 0))
    assert metrics.accuracy_interval == wilson_interval(3.5, 6)
    right, wrong = math.log(2), math.log(4)
    losses = [(5 * right + wrong) / 6, (2 * right + 4 * wrong) / 6]
    assert [first.loss, second.loss] == pytest.approx(losses)
    assert metrics.loss == pytest.approx(sum(losses) / 2)
    balanced = [first.balanced_accuracy, second.balanced_accuracy]
    assert balanced == pytest.approx([7 / 8, 3 / 8])
    assert metrics.balanced_accuracy == pytest.approx(5 / 8)


def test_the_spread_over_members_by_hand() -> None:
    """With two members, Student's t has one degree of freedom, 12.706; it is clipped.

    With four members, the interval is 3.182 standard errors.
    """
    metrics = metrics_of_predictions()
    assert metrics.accuracy_std == pytest.approx(1 / 2 / math.sqrt(2))
    assert metrics.accuracy_mean_interval == (0.0, 1.0)
    four = make_metrics(1, "test", 100, [90, 91, 92, 91], [1.0] * 4)
    half = 3.182 * math.sqrt(2 / 3) / 100 / 2
    expected = (0.91 - half, 0.91 + half)
    assert four.accuracy_mean_interval == pytest.approx(expected, abs=1e-5)


def test_an_ensemble_predicts_by_the_mean_of_probabilities() -> None:
    """The mean of the logits and the majority vote are each wrong on one example."""
    ones = np.array([[0.9999, 0.7, 0.9], [0.2, 0.4, 0.9], [0.2, 0.45, 0.9]])
    logits = np.log(np.stack([1 - ones, ones], axis=-1))
    metrics = compute_ensemble_metrics(logits, np.array([0, 1, 0]))
    assert metrics.ensemble is not None
    assert (metrics.ensemble.correct, metrics.ensemble.accuracy) == (2, 2 / 3)
