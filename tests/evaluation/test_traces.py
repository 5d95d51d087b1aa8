"""Traces of an LSTM: its gates, states and predictions after each row."""

import jax
import numpy as np
import pytest
from support import ROWS, mesh_of, model_of, random_examples, random_params

from rnnmnist.config.platforms import DEFAULTS
from rnnmnist.config.schema import ModelConfig
from rnnmnist.evaluation.predictions import EvaluationSplit, predict_logits, softmax
from rnnmnist.evaluation.traces import Trace, trace

SMALL_BATCHES = DEFAULTS["cpu"]._replace(eval_batch_size=3)  # 7 images and padding
EXAMPLES = random_examples(7)


def test_a_trace_follows_the_equations_of_an_lstm() -> None:
    model = model_of(ModelConfig(hidden_size=8))
    params = jax.tree.map(lambda leaf: leaf[None], random_params(model))
    split = EvaluationSplit.device_put(EXAMPLES, ROWS, mesh_of(2), SMALL_BATCHES)
    found = trace(model, params, split)
    for name in ("hidden", "cell", "input_gate", "output_gate", "candidate"):
        assert getattr(found, name).shape == (7, 28, 8)
    expected = found.output_gate * np.tanh(found.cell)
    np.testing.assert_allclose(found.hidden, expected, rtol=0, atol=1e-6)
    before = np.pad(found.cell, ((0, 0), (1, 0), (0, 0)))[:, :-1]
    expected = found.forget_gate * before + found.input_gate * found.candidate
    np.testing.assert_allclose(found.cell, expected, rtol=0, atol=1e-6)
    (logits,) = predict_logits(model, params, split, every_step=True)
    np.testing.assert_array_equal(found.probabilities, softmax(logits))
    head = params["head"]
    logits = found.hidden @ head["kernel"][0] + head["bias"][0]
    np.testing.assert_allclose(found.probabilities, softmax(logits), atol=1e-5)


@pytest.mark.parametrize(
    ("config", "networks"),
    [(ModelConfig(hidden_size=8), 2), (ModelConfig(cell="gru", hidden_size=8), 1)],
)
def test_a_trace_needs_one_lstm(config: ModelConfig, networks: int) -> None:
    model = model_of(config)
    params = jax.tree.map(
        lambda leaf: np.stack([leaf] * networks), random_params(model)
    )
    split = EvaluationSplit.device_put(EXAMPLES, ROWS, mesh_of(1), SMALL_BATCHES)
    with pytest.raises(ValueError, match="a trace needs one LSTM"):
        trace(model, params, split)


def test_decision_times_by_hand() -> None:
    probabilities = np.array([[[0.5, 0.5, 0], [0, 1, 0]], [[1, 0, 0], [0.9, 0.1, 0]]])
    found = Trace(probabilities, *[np.zeros((2, 2, 1))] * 6)
    assert found.decision_times.tolist() == [2, 1]
