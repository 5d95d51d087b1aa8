"""Predictions after each row, evaluation, calibration and misclassifications.

Evaluation counts every image once for any batch size, padding and mesh.
"""

import functools
from typing import Any

import jax
import numpy as np
import pytest
from support import (
    ROWS,
    inputs_of,
    mesh_of,
    model_of,
    random_examples,
    random_params,
)

from rnnmnist.config.platforms import DEFAULTS, Execution
from rnnmnist.config.schema import ModelConfig
from rnnmnist.data.examples import Examples, Inputs, Normalization, View
from rnnmnist.evaluation import predictions
from rnnmnist.evaluation.metrics import score_logits
from rnnmnist.evaluation.predictions import (
    Predictions,
    calibration_bins,
    decision_times,
    most_confident_errors,
    predict_logits,
)
from rnnmnist.models.classifier import Params
from rnnmnist.runs.results import Scores
from rnnmnist.runtime.ensemble import split_ensemble

MODEL = model_of(ModelConfig(hidden_size=8))
NETWORK = random_params(MODEL)
PARAMS = jax.tree.map(lambda leaf: leaf[None], NETWORK)
EXAMPLES = random_examples(1003)
EXECUTION = DEFAULTS["cpu"]
CASES = [  # images, batch per device, devices
    (1, 1, 1),
    (1, 64, 8),  # most devices have only padding
    (99, 1, 2),
    (99, 7, 8),
    (128, 64, 2),
    (1003, 64, 8),
    (1003, 5000, 1),
]


@pytest.fixture(scope="module")
def logits() -> np.ndarray:
    """The network's logits for all examples, float64 [examples, classes]."""
    predict = jax.jit(functools.partial(MODEL.apply, {"params": NETWORK}))
    return np.asarray(predict(inputs_of(EXAMPLES.stored)), np.float64)


def evaluate(
    examples: Examples,
    view: View | None = ROWS,
    devices: int = 1,
    execution: Execution = EXECUTION,
) -> Scores:
    mesh = mesh_of(devices)
    logits = predict_logits(MODEL, PARAMS, examples, view, mesh, execution)
    return score_logits(logits, examples.labels)


@pytest.mark.parametrize(("count", "batch", "devices"), CASES)
def test_batch_padding_and_devices_change_no_result(
    count: int, batch: int, devices: int, logits: np.ndarray
) -> None:
    examples = Examples(EXAMPLES.stored[:count], labels=EXAMPLES.labels[:count])
    logits = logits[:count]
    predicted = logits.argmax(axis=1)
    expected = np.zeros((10, 10), int)
    np.add.at(expected, (examples.labels, predicted), 1)
    chosen = logits[np.arange(count), examples.labels]
    loss = (np.log(np.exp(logits).sum(axis=1)) - chosen).mean()
    execution = EXECUTION._replace(eval_batch_size=batch)
    scores = evaluate(examples, ROWS, devices, execution)
    np.testing.assert_array_equal(scores.confusion, expected)
    assert scores.examples == count
    assert scores.correct == (predicted == examples.labels).sum()
    assert scores.loss == pytest.approx(loss, rel=1e-5)


def test_a_large_split_is_copied_in_groups(
    logits: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    shapes = []

    def predict(params: Params, batches: predictions.Batches, **static: Any) -> Any:
        shapes.append(batches.stored.shape[:2])
        return original(params, batches, **static)

    original = predictions.predict_batches
    monkeypatch.setattr(predictions, "predict_batches", predict)
    monkeypatch.setattr(predictions, "GROUP_BYTES", 4 * 7 * 28 * 28)
    inputs = Inputs(EXAMPLES.stored[:60])
    execution = EXECUTION._replace(eval_batch_size=7)
    (found,) = predict_logits(MODEL, PARAMS, inputs, ROWS, mesh_of(1), execution)
    np.testing.assert_allclose(found, logits[:60], rtol=1e-5, atol=1e-5)
    assert shapes == [(3, 7)] * 3  # not 4, 4 and 1 batch


def with_confidence(confidence: np.ndarray, correct: np.ndarray) -> Predictions:
    """Predictions of class 3 for every image, with the given probabilities."""
    count = len(confidence)
    probabilities = np.repeat((1 - confidence)[:, None] / 9, 10, axis=1)
    probabilities[:, 3] = confidence
    labels = np.where(correct, 3, 4).astype(np.int32)
    lengths = np.full(count, 28, np.int32)
    return Predictions(labels, lengths, np.full((count, 28), 3), probabilities)


def predict(
    params: Params,
    examples: Examples,
    view: View | None = ROWS,
    devices: int = 1,
    execution: Execution = EXECUTION,
) -> list[Predictions]:
    """The predictions of each network for every example of a split."""
    logits = predict_logits(
        MODEL, params, examples, view, mesh_of(devices), execution, every_step=True
    )
    labels, lengths = examples.labels, examples.lengths
    return [Predictions.from_logits(network, labels, lengths) for network in logits]


def random_predictions(excess: float, count: int = 200_000) -> Predictions:
    """Predictions whose accuracy is below their confidence by the excess."""
    generator = np.random.default_rng(0)
    confidence = generator.uniform(0.4, 1, count)
    return with_confidence(confidence, generator.random(count) < confidence - excess)


@pytest.mark.parametrize("excess", [0, 0.1, 0.3])
def test_the_calibration_error_of_overconfidence_is_its_excess(excess: float) -> None:
    error = calibration_bins([random_predictions(excess)]).calibration_error
    assert error == pytest.approx(excess, abs=0.005)


def test_the_calibration_error_of_four_images_in_two_networks() -> None:
    """By hand: |1 - 0.95| / 4 + |1 - (0.7 + 0.72 + 11 / 15)| / 4; an edge is below."""
    confidence = np.array([0.95, 0.7, 0.72, 11 / 15])
    predictions = with_confidence(confidence, np.array([True, True, False, False]))
    bins = calibration_bins([predictions, predictions])
    expected = (0.05 + 0.7 + 0.72 + 11 / 15 - 1) / 4
    assert bins.calibration_error == pytest.approx(expected)
    assert bins.examples.tolist() == [*[0] * 10, 6, 0, 0, 0, 2]
    assert bins.correct[[10, 14]].tolist() == [2, 2]


def test_counts_after_the_last_row_are_those_of_the_evaluation() -> None:
    count = 99
    examples = random_examples(count)
    (predictions,) = predict(PARAMS, examples)
    scores = evaluate(examples, ROWS, 8)
    correct = predictions.correct_by_time
    assert correct.shape == (28,)
    np.testing.assert_array_equal(predictions.examples_by_time, [count] * 28)
    np.testing.assert_array_equal(predictions.lengths, [28] * count)
    assert correct[-1] == predictions.correct.sum() == scores.correct
    found = np.zeros((10, 10), int)
    np.add.at(found, (examples.labels, predictions.predicted[:, -1]), 1)
    np.testing.assert_array_equal(found, scores.confusion)
    np.testing.assert_allclose(predictions.probabilities.sum(axis=1), 1, rtol=1e-12)
    np.testing.assert_array_equal(
        predictions.probabilities.argmax(axis=1), predictions.predicted[:, -1]
    )
    chosen = predictions.probabilities[np.arange(count), examples.labels]
    assert -np.log(chosen).mean() == pytest.approx(scores.loss, rel=1e-5)


def test_predictions_after_a_row_are_those_of_truncated_images() -> None:
    examples = random_examples(300)
    (predictions,) = predict(PARAMS, examples)
    for rows in (1, 14):
        cut = Examples(examples.stored[:, :rows], labels=examples.labels)
        (found,) = predict(PARAMS, cut)
        expected = predictions.predicted[:, rows - 1]
        np.testing.assert_array_equal(found.predicted[:, -1], expected)


@pytest.mark.parametrize("vectorize", [False, True])
def test_each_network_of_an_ensemble_predicts_as_it_does_alone(vectorize: bool) -> None:
    """Whether the device computes them together or in turn."""
    examples = random_examples(50)
    networks = [
        jax.tree.map(functools.partial(np.multiply, np.float32(factor)), PARAMS)
        for factor in (1, -1, 0.5)
    ]
    ensemble = jax.tree.map(lambda *leaves: np.concatenate(leaves), *networks)
    execution = EXECUTION._replace(vectorize_seeds=vectorize)
    together = predict(ensemble, examples, execution=execution)
    for own, params, found in zip(
        split_ensemble(ensemble), networks, together, strict=True
    ):
        (expected,) = predict(params, examples)
        np.testing.assert_array_equal(found.predicted, expected.predicted)
        np.testing.assert_allclose(
            found.probabilities, expected.probabilities, rtol=1e-5
        )
        jax.tree.map(np.testing.assert_array_equal, own, split_ensemble(params)[0])


def test_errors_are_sorted_by_confidence() -> None:
    confidence = np.array([0.3, 0.9, 0.4, 0.8, 0.4])
    correct = np.array([False, False, False, True, False])
    predictions = with_confidence(confidence, correct)
    assert most_confident_errors(predictions, 3).tolist() == [1, 2, 4]
    perfect = with_confidence(confidence, correct | True)
    assert most_confident_errors(perfect, 3).tolist() == []


def test_decision_times_by_hand() -> None:
    predicted = np.array([[3, 3, 3, 3], [1, 3, 3, 3], [1, 2, 1, 3], [3, 1, 3, 3]])
    assert decision_times(predicted).tolist() == [1, 2, 4, 3]


def test_predictions_of_sequences_by_hand() -> None:
    """After its last time step, a sequence keeps its prediction, and is not counted."""
    nan = np.nan
    first = [[2.0, 0.0, 1.0], [0.0, 5.0, 0.0], [nan, nan, nan], [0.0, 0.0, 9.0]]
    second = [[0.0, 0.0, 1.0], [3.0, 0.0, 0.0], [0.0, 0.0, 3.0], [0.0, 4.0, 0.0]]
    labels, lengths = np.array([1, 1], np.int32), np.array([2, 4], np.int32)
    logits = np.array([first, second], np.float32)
    found = Predictions.from_logits(logits, labels, lengths)
    assert found.predicted.tolist() == [[0, 1, 1, 1], [2, 0, 2, 1]]
    weights = np.exp([[0, 5, 0], [0, 4, 0]])
    expected = weights / weights.sum(axis=1, keepdims=True)
    np.testing.assert_allclose(found.probabilities, expected, rtol=1e-12)
    assert found.correct.tolist() == [True, True]
    assert found.examples_by_time.tolist() == [2, 2, 1, 1]
    assert found.correct_by_time.tolist() == [0, 1, 0, 1]


@pytest.mark.parametrize("devices", [1, 8])
def test_the_evaluation_of_sequences_reads_their_steps_only(devices: int) -> None:
    """Whatever the batches, the padding, and the order in which they are stored."""
    generator = np.random.default_rng(0)
    stored = generator.normal(size=(60, 28, 28)).astype(np.float32)
    indices = generator.permutation(60)[:37]
    lengths = generator.integers(1, 29, 37, np.int32)
    labels = generator.integers(0, 10, 37, np.int32)
    same = Normalization(np.zeros(28), np.ones(28), "error")
    examples = Examples(stored, lengths, indices, same, labels=labels)
    execution = EXECUTION._replace(eval_batch_size=3)
    (found,) = predict(PARAMS, examples, None, devices, execution)
    scores = evaluate(examples, None, devices, execution)
    assert scores == evaluate(examples.normalized(), None, devices, execution)
    forward = jax.jit(
        functools.partial(MODEL.apply, {"params": NETWORK}, every_step=True)
    )
    whole = np.asarray(forward(stored[indices]))  # no time step reads a later one
    for index, length in enumerate(lengths):
        own = whole[index, :length].argmax(-1)
        np.testing.assert_array_equal(found.predicted[index, :length], own)
        assert (found.predicted[index, length:] == own[-1]).all()
    last = whole[np.arange(37), lengths - 1].argmax(-1)
    assert scores.correct == (last == labels).sum() == found.correct.sum()
    chosen = found.probabilities[np.arange(37), labels]
    assert scores.loss == pytest.approx(-np.log(chosen).mean(), rel=1e-5)
