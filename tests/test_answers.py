"""Answers after each row, and what follows: calibration, mistakes."""

import jax
import numpy as np
import pytest
from support import mesh_of, random_examples

from rnnmnist.config.schema import ModelConfig
from rnnmnist.data.datasets import Examples
from rnnmnist.evaluation.calibration import calibration_bins
from rnnmnist.evaluation.metrics import evaluate
from rnnmnist.evaluation.predictions import (
    EvaluationSplit,
    Predictions,
    most_confident_errors,
    predict,
)
from rnnmnist.models.classifier import (
    Params,
    init_params,
    make_model,
    split_ensemble,
)
from rnnmnist.models.traces import decision_rows

MODEL = make_model(ModelConfig(hidden_size=16))
PARAMS = init_params(MODEL, jax.random.key(0), 1.0)


def answers_of(confidence: np.ndarray, right: np.ndarray) -> Predictions:
    """Answers of a network that says 3 of everything, with these probabilities."""
    count = len(confidence)
    probabilities = np.repeat((1 - confidence)[:, None] / 9, 10, axis=1)
    probabilities[:, 3] = confidence
    said = np.full((count, 28), 3, np.uint8)
    return Predictions(np.where(right, 3, 4).astype(np.uint8), said, probabilities)


def predicted(params: Params, examples: Examples) -> Predictions:
    """The predictions of one network."""
    split = EvaluationSplit.device_put(examples, mesh_of(1))
    (predictions,) = predict(MODEL, params, split)
    return predictions


def drawn(excess: float, count: int = 200_000) -> Predictions:
    """Answers that are right less often than their probabilities say."""
    generator = np.random.default_rng(0)
    confidence = generator.uniform(0.4, 1, count)
    return answers_of(confidence, generator.random(count) < confidence - excess)


def test_who_is_right_as_often_as_it_says_is_calibrated() -> None:
    assert calibration_bins([drawn(0.0)]).calibration_error < 0.005


@pytest.mark.parametrize("excess", [0.1, 0.3])
def test_who_is_too_sure_errs_by_the_excess(excess: float) -> None:
    error = calibration_bins([drawn(excess)]).calibration_error
    assert error == pytest.approx(excess, abs=0.005)


def test_the_calibration_error_of_four_images() -> None:
    """By hand: |1 - 0.95| / 4 + |1 - (0.7 + 0.72 + 0.73)| / 4."""
    confidence = np.array([0.95, 0.7, 0.72, 0.73])
    answers = answers_of(confidence, np.array([True, True, False, False]))
    bins = calibration_bins([answers])
    assert bins.calibration_error == pytest.approx((0.05 + 1.15) / 4)
    assert bins.images[[10, 14]].tolist() == [3, 1]
    assert bins.right[[10, 14]].tolist() == [1, 1]


@pytest.mark.parametrize("number", [1, 10, 15])
def test_every_image_is_in_the_bin_of_its_confidence(number: int) -> None:
    edges = np.arange(1, number + 1) / number  # which belong to the bin below
    confidence = np.concatenate([edges[edges >= 0.1], np.linspace(0.11, 1, 500)])
    bins = calibration_bins([answers_of(confidence, confidence > 0.5)] * 2, number)
    assert bins.images.sum() == 2 * len(confidence)
    assert bins.right.sum() == 2 * (confidence > 0.5).sum()
    assert bins.confidence.sum() == pytest.approx(2 * confidence.sum())
    held = bins.images > 0
    mean = bins.confidence[held] / bins.images[held]
    low = np.arange(number)[held] / number
    assert ((low < mean) & (mean <= low + 1 / number + 1e-12)).all()


@pytest.mark.parametrize("count", [1, 99, 1003])
def test_after_the_last_row_the_count_is_the_evaluations(count: int) -> None:
    examples = random_examples(count)
    answers = predicted(PARAMS, examples)
    (result,) = evaluate(
        MODEL, PARAMS, EvaluationSplit.device_put(examples, mesh_of(8))
    )
    assert answers.correct_after_rows.shape == (28,)
    assert answers.correct_after_rows[-1] == answers.right.sum() == result.correct
    found = np.zeros((10, 10), int)
    np.add.at(found, (examples.labels, answers.said[:, -1]), 1)
    np.testing.assert_array_equal(found, result.confusion)
    np.testing.assert_allclose(answers.probabilities.sum(axis=1), 1, rtol=1e-12)
    np.testing.assert_array_equal(
        answers.probabilities.argmax(axis=1), answers.said[:, -1]
    )
    chosen = answers.probabilities[np.arange(count), examples.labels]
    assert -np.log(chosen).mean() == pytest.approx(result.loss, rel=1e-5)


def test_after_a_row_it_says_what_it_says_of_images_cut_there() -> None:
    examples = random_examples(300)
    answers = predicted(PARAMS, examples)
    for rows in (1, 14):
        cut = Examples(examples.images[:, :rows], examples.labels)
        found = predicted(PARAMS, cut)
        np.testing.assert_array_equal(found.said[:, -1], answers.said[:, rows - 1])


def test_a_member_of_a_stack_is_the_network_itself() -> None:
    examples = random_examples(50)
    others = init_params(MODEL, jax.random.key(1), 1.0)
    stack = jax.tree.map(lambda *leaves: np.stack(leaves), PARAMS, others)
    split = EvaluationSplit.device_put(examples, mesh_of(1))
    together = predict(MODEL, stack, split)
    for network, params, found in zip(
        split_ensemble(stack), (PARAMS, others), together, strict=True
    ):
        expected = predicted(params, examples).said
        np.testing.assert_array_equal(found.said, expected)
        np.testing.assert_array_equal(predicted(network, examples).said, expected)


def test_mistakes_are_wrong_and_the_surest_come_first() -> None:
    examples = random_examples(500)
    answers = predicted(PARAMS, examples)
    mistakes = most_confident_errors(answers, 10_000)
    assert len(mistakes) == 500 - answers.right.sum()
    assert len({mistake.place for mistake in mistakes}) == len(mistakes)
    sureness = [mistake.probability for mistake in mistakes]
    assert sureness == sorted(sureness, reverse=True)
    for mistake in mistakes:
        assert mistake.true == examples.labels[mistake.place] != mistake.said
        own = answers.probabilities[mistake.place]
        assert mistake.probability == own[mistake.said] == own.max()
        assert mistake.probability_of_true == own[mistake.true]
    assert most_confident_errors(answers, 7) == mistakes[:7]


def test_who_is_always_right_makes_no_mistakes() -> None:
    right = np.ones(5, bool)
    assert most_confident_errors(answers_of(np.full(5, 0.9), right), 3) == []


def test_decision_rows_by_hand() -> None:
    said = np.array([[3, 3, 3, 3], [1, 3, 3, 3], [1, 2, 1, 3], [3, 1, 3, 3]])
    assert decision_rows(said).tolist() == [1, 2, 4, 3]


def test_two_classes_part_when_neither_is_taken_for_the_other() -> None:
    labels = np.array([3, 3, 4, 4, 5], np.uint8)
    said = np.array(
        [[4, 4, 3, 3], [3, 3, 3, 3], [3, 4, 4, 4], [4, 4, 4, 4], [3, 3, 3, 3]],
        np.uint8,
    )
    answers = Predictions(labels, said, np.full((5, 10), 0.1))
    assert answers.separation_row(3, 4) == answers.separation_row(4, 3) == 3
    assert answers.separation_row(4, 5) == 1
    never = Predictions(labels, np.full_like(said, 4), np.full((5, 10), 0.1))
    assert never.separation_row(3, 4) is None
    assert never.separation_row(3, 4, most=0.5) == 1
