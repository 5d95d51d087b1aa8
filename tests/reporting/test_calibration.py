"""SplitPredictions of a split, calibration, and the most confident errors."""

import numpy as np
import pytest

from rnnmnist.reporting.calibration import (
    SplitPredictions,
    calibration_bins,
    most_confident_errors,
)


def with_confidence(confidence: np.ndarray, correct: np.ndarray) -> SplitPredictions:
    """SplitPredictions of class 3 for every image, with the given probabilities."""
    count = len(confidence)
    probabilities = np.repeat((1 - confidence)[:, None] / 9, 10, axis=1)
    probabilities[:, 3] = confidence
    labels = np.where(correct, 3, 4).astype(np.int32)
    lengths = np.full(count, 28, np.int32)
    return SplitPredictions(labels, lengths, np.full((count, 28), 3), probabilities)


@pytest.mark.parametrize("excess", [0, 0.1, 0.3])
def test_the_calibration_error_of_overconfidence_is_its_excess(excess: float) -> None:
    generator = np.random.default_rng(0)
    confidence = generator.uniform(0.4, 1, 200_000)
    correct = generator.random(200_000) < confidence - excess
    bins = calibration_bins(with_confidence(confidence, correct))
    assert bins.calibration_error == pytest.approx(excess, abs=0.005)


def test_the_calibration_error_of_four_images() -> None:
    """By hand: |1 - 0.95| / 4 + |1 - (0.7 + 0.72 + 11 / 15)| / 4; an edge is below."""
    confidence = np.array([0.95, 0.7, 0.72, 11 / 15])
    predictions = with_confidence(confidence, np.array([True, True, False, False]))
    bins = calibration_bins(predictions)
    expected = (0.05 + 0.7 + 0.72 + 11 / 15 - 1) / 4
    assert bins.calibration_error == pytest.approx(expected)
    assert bins.examples.tolist() == [*[0] * 10, 3, 0, 0, 0, 1]
    assert bins.correct[[10, 14]].tolist() == [1, 1]


def test_errors_are_sorted_by_confidence() -> None:
    confidence = np.array([0.3, 0.9, 0.4, 0.8, 0.4])
    correct = np.array([False, False, False, True, False])
    predictions = with_confidence(confidence, correct)
    assert most_confident_errors(predictions, 3).tolist() == [1, 2, 4]
    perfect = with_confidence(confidence, correct | True)
    assert most_confident_errors(perfect, 3).tolist() == []


def test_predictions_of_sequences_by_hand() -> None:
    """After its last time step, a sequence keeps its prediction, and is not counted."""
    nan = np.nan
    first = [[2.0, 0.0, 1.0], [0.0, 5.0, 0.0], [nan, nan, nan], [0.0, 0.0, 9.0]]
    second = [[0.0, 0.0, 1.0], [3.0, 0.0, 0.0], [0.0, 0.0, 3.0], [0.0, 4.0, 0.0]]
    labels, lengths = np.array([1, 1], np.int32), np.array([2, 4], np.int32)
    logits = np.array([first, second], np.float32)
    found = SplitPredictions.from_logits(logits, labels, lengths)
    assert found.predicted.tolist() == [[0, 1, 1, 1], [2, 0, 2, 1]]
    weights = np.exp([[0, 5, 0], [0, 4, 0]])
    expected = weights / weights.sum(axis=1, keepdims=True)
    np.testing.assert_allclose(found.probabilities, expected, rtol=1e-12)
    assert found.correct.tolist() == [True, True]
    assert found.correct_by_time.tolist() == [0, 1, 0, 1]
    unpadded = SplitPredictions.from_logits(logits[1:], labels[1:], None)
    assert unpadded.lengths.tolist() == [4]
    assert unpadded.correct_by_time.tolist() == [0, 0, 0, 1]
