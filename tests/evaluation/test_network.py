"""A trained network: the traces of an LSTM, and the examples that it accepts."""

from typing import Any

import jax
import numpy as np
import pytest
from support import model_of, random_examples, random_params

from rnnmnist import Predictor
from rnnmnist.config.files import REFERENCES
from rnnmnist.config.schema import ModelConfig
from rnnmnist.data.datasets import image_task
from rnnmnist.data.examples import View, permutation_sha256
from rnnmnist.errors import UserError
from rnnmnist.evaluation.predictions import softmax

IMAGES = random_examples(7).stored


@pytest.mark.parametrize("workdir", REFERENCES)
def test_a_trace_follows_the_equations_of_an_lstm(workdir: str) -> None:
    network = Predictor(workdir)
    found = network.trace(IMAGES)
    for name in ("hidden", "cell", "input_gate", "output_gate", "candidate"):
        units = network.config.model.hidden_size
        assert getattr(found, name).shape == (7, 28, units)
    expected = found.output_gate * np.tanh(found.cell)
    np.testing.assert_allclose(found.hidden, expected, rtol=0, atol=1e-6)
    before = np.pad(found.cell, ((0, 0), (1, 0), (0, 0)))[:, :-1]
    expected = found.forget_gate * before + found.input_gate * found.candidate
    np.testing.assert_allclose(found.cell, expected, rtol=1e-6, atol=1e-6)
    head = jax.device_get(network.params["head"])
    logits = np.asarray(found.hidden @ head["kernel"][0] + head["bias"][0])
    probabilities = network.classify(IMAGES, every_step=True)
    np.testing.assert_allclose(probabilities, softmax(logits), atol=1e-4)


def test_a_trace_needs_one_lstm() -> None:
    network = Predictor()
    params = network.params
    network.params = jax.tree.map(lambda leaf: np.repeat(leaf, 2, axis=0), params)
    with pytest.raises(UserError, match="is not one LSTM"):
        network.trace(IMAGES)
    network.params = params
    network.model = model_of(ModelConfig(cell="gru"))
    with pytest.raises(UserError, match="is not one LSTM"):
        network.trace(IMAGES)


@pytest.mark.parametrize(
    "images", [np.zeros((28, 28), np.uint8), np.zeros((2, 28, 28)), IMAGES[:0], 7]
)
def test_images_of_another_shape_or_type_are_refused(images: Any) -> None:
    with pytest.raises(UserError, match=r"^inputs: must be uint8 images of shape"):
        Predictor().classify(images)


def test_a_result_has_the_order_of_all_pixels() -> None:
    """Also if a time step has several."""
    network = Predictor()
    changes = {"data.view": "permuted", "data.pixels_per_step": 16}
    network.config = network.config.replace(changes)
    network.view = View.of(network.config.data, network.task)
    task = image_task(network.config.data)
    network.model = model_of(ModelConfig(hidden_size=4), task)
    network.params = jax.tree.map(lambda leaf: leaf[None], random_params(network.model))
    result = network.score(task, "validation", random_examples(3))
    assert result.permutation_sha256 == permutation_sha256("bit_reversal", 784)
