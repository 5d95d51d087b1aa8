"""Logits for any batch size, padding and mesh; predictions and calibration."""

import functools
from typing import Any
from unittest import mock

import jax
import numpy as np
import pytest
from support import ROWS, inputs_of, mesh_of, model_of, random_examples, random_params

from rnnmnist.config.platforms import DEFAULTS
from rnnmnist.config.schema import ModelConfig
from rnnmnist.data.examples import Inputs, Normalization, View
from rnnmnist.evaluation import predictions
from rnnmnist.evaluation.predictions import (
    Predictions,
    calibration_bins,
    decision_times,
    most_confident_errors,
    predict_logits,
)
from rnnmnist.models.classifier import Params
from rnnmnist.runtime.ensemble import split_ensemble

MODEL = model_of(ModelConfig(hidden_size=8))
NETWORK = random_params(MODEL)
PARAMS = jax.tree.map(lambda leaf: leaf[None], NETWORK)
IMAGES = random_examples(1003).stored
assert_close = functools.partial(np.testing.assert_allclose, rtol=1e-5, atol=1e-5)
CASES = [  # images, batch per device, devices
    (1, 64, 8),  # most devices have only padding
    (99, 7, 8),
    (128, 64, 2),
    (1003, 5000, 1),
]


@pytest.fixture(scope="module")
def logits() -> np.ndarray:
    """The network's logits for all images, [images, classes]."""
    predict = jax.jit(functools.partial(MODEL.apply, {"params": NETWORK}))
    return np.asarray(predict(inputs_of(IMAGES)))


def logits_of(
    inputs: Inputs,
    view: View | None = ROWS,
    *,
    params: Params = PARAMS,
    devices: int = 1,
    every_step: bool = False,
    **execution: Any,
) -> np.ndarray:
    mesh, how = mesh_of(devices), DEFAULTS["cpu"]._replace(**execution)
    return predict_logits(MODEL, params, inputs, view, mesh, how, every_step=every_step)


@pytest.mark.parametrize(("count", "batch", "devices"), CASES)
def test_batch_padding_and_devices_change_no_result(
    count: int, batch: int, devices: int, logits: np.ndarray
) -> None:
    inputs = Inputs(IMAGES[:count])
    (found,) = logits_of(inputs, devices=devices, eval_batch_size=batch)
    assert_close(found, logits[:count])


def test_a_large_split_is_copied_in_groups(
    logits: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    spy = mock.Mock(wraps=predictions.predict_batches)
    monkeypatch.setattr(predictions, "predict_batches", spy)
    monkeypatch.setattr(predictions, "GROUP_BYTES", 4 * 7 * 28 * 28)
    (found,) = logits_of(Inputs(IMAGES[:60]), eval_batch_size=7)
    assert_close(found, logits[:60])
    shapes = [call.args[1].stored.shape[:2] for call in spy.call_args_list]
    assert shapes == [(3, 7)] * 3  # not 4, 4 and 1 batch


def with_confidence(confidence: np.ndarray, correct: np.ndarray) -> Predictions:
    """Predictions of class 3 for every image, with the given probabilities."""
    count = len(confidence)
    probabilities = np.repeat((1 - confidence)[:, None] / 9, 10, axis=1)
    probabilities[:, 3] = confidence
    labels = np.where(correct, 3, 4).astype(np.int32)
    lengths = np.full(count, 28, np.int32)
    return Predictions(labels, lengths, np.full((count, 28), 3), probabilities)


@pytest.mark.parametrize("excess", [0, 0.1, 0.3])
def test_the_calibration_error_of_overconfidence_is_its_excess(excess: float) -> None:
    generator = np.random.default_rng(0)
    confidence = generator.uniform(0.4, 1, 200_000)
    correct = generator.random(200_000) < confidence - excess
    bins = calibration_bins([with_confidence(confidence, correct)])
    assert bins.calibration_error == pytest.approx(excess, abs=0.005)


def test_the_calibration_error_of_four_images_in_two_networks() -> None:
    """By hand: |1 - 0.95| / 4 + |1 - (0.7 + 0.72 + 11 / 15)| / 4; an edge is below."""
    confidence = np.array([0.95, 0.7, 0.72, 11 / 15])
    predictions = with_confidence(confidence, np.array([True, True, False, False]))
    bins = calibration_bins([predictions, predictions])
    expected = (0.05 + 0.7 + 0.72 + 11 / 15 - 1) / 4
    assert bins.calibration_error == pytest.approx(expected)
    assert bins.examples.tolist() == [*[0] * 10, 6, 0, 0, 0, 2]
    assert bins.correct[[10, 14]].tolist() == [2, 2]


@pytest.mark.parametrize("vectorize", [False, True])
def test_each_network_of_an_ensemble_predicts_as_it_does_alone(
    vectorize: bool, logits: np.ndarray
) -> None:
    """Whether the device computes them together or in turn."""
    networks = [jax.tree.map(np.negative, PARAMS), PARAMS]
    ensemble = jax.tree.map(lambda *leaves: np.concatenate(leaves), *networks)
    found = logits_of(Inputs(IMAGES), params=ensemble, vectorize_seeds=vectorize)
    assert_close(found[1], logits)
    (alone,) = logits_of(Inputs(IMAGES), params=networks[0])
    assert_close(found[0], alone)
    jax.tree.map(np.testing.assert_array_equal, split_ensemble(ensemble)[1], NETWORK)


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
    unpadded = Predictions.from_logits(logits[1:], labels[1:], None)
    assert unpadded.lengths.tolist() == [4]
    assert unpadded.correct_by_time.tolist() == [0, 0, 0, 1]


def test_the_evaluation_of_sequences_reads_their_steps_only() -> None:
    """Whatever the batches, the padding, and the order in which they are stored."""
    generator = np.random.default_rng(0)
    stored = generator.normal(size=(60, 28, 28)).astype(np.float32)
    indices = generator.permutation(60)[:37]
    lengths = generator.integers(1, 29, 37, np.int32)
    same = Normalization(np.zeros(28), np.ones(28), "error")
    inputs = Inputs(stored, lengths, indices, same)
    shards: dict[str, Any] = {"devices": 8, "eval_batch_size": 3}
    (found,) = logits_of(inputs, None, every_step=True, **shards)
    model = functools.partial(MODEL.apply, {"params": NETWORK}, every_step=True)
    expected = np.asarray(jax.jit(model)(stored[indices]))
    read = np.arange(28) < lengths[:, None]
    assert_close(found[read], expected[read])
    (last,) = logits_of(inputs, None, **shards)
    assert_close(last, expected[np.arange(37), lengths - 1])
    normalized = logits_of(inputs.normalized(), None, **shards)
    np.testing.assert_array_equal(normalized, last[None])
