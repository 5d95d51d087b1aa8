"""The network: what it computes, and from which parameters it starts."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from support import random_examples

from rnnmnist.config import ModelConfig
from rnnmnist.model import CELLS, count_params, init_params, make_model


def build(**settings: object):  # type: ignore[no-untyped-def]
    config = ModelConfig(**settings)  # type: ignore[arg-type]
    model = make_model(config)
    return model, init_params(model, jax.random.key(0), config.forget_bias)


@pytest.mark.parametrize("cell", CELLS)
def test_the_scan_is_a_plain_loop_over_the_cell(cell: str) -> None:
    model, params = build(cell=cell, hidden_size=16)
    images = random_examples(5).images
    step = CELLS[cell][0](features=16)
    carry = step.initialize_carry(jax.random.key(0), (5, 28))
    for row in range(28):
        pixels = images[:, row].astype(np.float32) / 255
        carry, hidden = step.apply({"params": params["cell"]}, carry, pixels)
    kernel, bias = params["readout"]["kernel"], params["readout"]["bias"]
    expected = hidden @ kernel + bias[None]
    found = model.apply({"params": params}, images)
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("cell", CELLS)
def test_the_order_of_the_rows_matters(cell: str) -> None:
    model, params = build(cell=cell)
    images = random_examples(4).images
    logits = model.apply({"params": params}, images)
    backwards = model.apply({"params": params}, images[:, ::-1])
    assert not np.allclose(logits, backwards, atol=1e-3)


@pytest.mark.parametrize("cell", CELLS)
def test_asked_after_every_row_it_says_what_it_would_of_so_many_rows(cell: str) -> None:
    model, params = build(cell=cell, hidden_size=16)
    images = random_examples(5).images
    by_row = model.apply({"params": params}, images, every_row=True)
    assert by_row.shape == (5, 28, 10)
    for rows in (1, 13, 28):
        alone = model.apply({"params": params}, images[:, :rows])
        np.testing.assert_allclose(by_row[:, rows - 1], alone, rtol=1e-5, atol=1e-6)


def test_the_optimized_cell_is_the_plain_one_only_faster() -> None:
    model, params = build()
    images = random_examples(4).images
    plain = nn.LSTMCell(128)
    carry = plain.initialize_carry(jax.random.key(0), (4, 28))
    for row in range(28):
        pixels = images[:, row].astype(np.float32) / 255
        carry, hidden = plain.apply({"params": params["cell"]}, carry, pixels)
    readout = params["readout"]
    expected = hidden @ readout["kernel"] + readout["bias"][None]
    found = model.apply({"params": params}, images)
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(("cell", "most"), [("lstm", 81_674), ("gru", 61_706)])
def test_the_number_of_parameters(cell: str, most: int) -> None:
    assert count_params(build(cell=cell)[1]) == most


def test_the_forget_bias_is_where_that_bias_starts_and_no_other() -> None:
    _, params = build(forget_bias=2.5)
    for gate, expected in (("hi", 0), ("hf", 2.5), ("hg", 0), ("ho", 0)):
        np.testing.assert_array_equal(
            params["cell"][gate]["bias"], np.full(128, expected)
        )
    _, other = build(forget_bias=0.0)
    kernels = [leaf for leaf in jax.tree.leaves(params) if leaf.ndim == 2]
    others = [leaf for leaf in jax.tree.leaves(other) if leaf.ndim == 2]
    assert all((a == b).all() for a, b in zip(kernels, others, strict=True))


def test_the_tutorials_initial_values() -> None:
    _, params = build(initializer="tutorial")
    limit = np.sqrt(6 / (28 + 128 + 4 * 128))
    kernels = [g["kernel"] for g in params["cell"].values()]
    values = np.concatenate([kernel.ravel() for kernel in kernels])
    assert len(values) == (28 + 128) * 4 * 128
    assert np.abs(values).max() <= limit
    assert values.std() == pytest.approx(limit / np.sqrt(3), rel=0.01)
    readout = params["readout"]
    assert readout["kernel"].std() == pytest.approx(1, rel=0.1)
    assert 0.3 < readout["bias"].std() < 2


def test_bytes_are_scaled_and_floats_are_taken_as_they_are() -> None:
    model, params = build(hidden_size=8)
    images = random_examples(3).images
    scaled = images.astype(np.float32) / 255
    found = model.apply({"params": params}, images)
    np.testing.assert_array_equal(found, model.apply({"params": params}, scaled))
    assert found.dtype == jnp.float32
    assert found.shape == (3, 10)


def test_a_channel_axis_is_refused() -> None:
    model, params = build(hidden_size=8)
    with pytest.raises(ValueError, match=r"\[batch, rows, columns\].*28, 28, 1"):
        model.apply({"params": params}, np.zeros((2, 28, 28, 1), np.uint8))
