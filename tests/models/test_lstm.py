"""The LSTM with a hand-written derivative equals Flax's cell under `nn.scan`."""

import functools
from collections.abc import Iterator
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rnnmnist.models.lstm import LSTM, LSTMCell
from rnnmnist.models.recurrent_layer import ScannedCell

FLOAT32, FLOAT64 = jnp.float32, jnp.float64
# Time, batch, features and hidden size, all different to reveal swapped axes.
TIME, BATCH, FEATURES, HIDDEN = 6, 5, 3, 4


@pytest.fixture
def float64() -> Iterator[None]:
    """Enables float64 for a test."""
    jax.config.update("jax_enable_x64", True)
    yield
    jax.config.update("jax_enable_x64", False)


def random_arrays(layer: ScannedCell) -> tuple[Any, np.ndarray]:
    """Returns normal parameters and inputs of the parameters' type."""
    generator = np.random.default_rng(0)
    inputs = generator.normal(size=(TIME, BATCH, FEATURES))
    cell: Any = layer.cell
    example = jnp.zeros(inputs.shape, cell.param_dtype)
    init = functools.partial(layer.init, every_step=False)
    shapes = jax.eval_shape(init, jax.random.key(0), example, None)
    params = jax.tree.map(
        lambda leaf: (0.7 * generator.normal(size=leaf.shape)).astype(leaf.dtype),
        shapes["params"],
    )
    return params, inputs.astype(cell.param_dtype)


def loss(layer: ScannedCell, every_step: bool, params: Any, inputs: Any) -> Any:
    """Returns a scalar with different weights for all hidden states, and the states."""
    found = layer.apply({"params": params}, inputs, None, every_step=every_step)
    hidden = jnp.asarray(found)
    return jnp.sum(jnp.sin(3 * hidden)), hidden


@functools.partial(jax.jit, static_argnums=(0, 1))
def run(layer: ScannedCell, every_step: bool, params: Any, inputs: Any) -> Any:
    """Returns the loss, the hidden states, and the gradients."""
    function = functools.partial(loss, layer, every_step)
    return jax.value_and_grad(function, (0, 1), has_aux=True)(params, inputs)


def assert_close(one: Any, other: Any) -> None:
    """Asserts equality up to rounding, relative to the largest value of each array."""

    def close(one: Any, other: Any) -> None:
        one, other = np.asarray(one), np.asarray(other)
        assert one.dtype == other.dtype
        largest = np.abs(other).max()
        assert largest > 0, "nothing to compare"
        tolerance = 1e-12 if other.dtype == np.float64 else 2e-5
        np.testing.assert_allclose(one, other, rtol=0, atol=tolerance * largest)

    jax.tree.map(close, one, other)


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize(
    ("dtype", "every_step", "unroll"),
    [
        (FLOAT64, True, 1),
        pytest.param(FLOAT64, False, 4, marks=pytest.mark.slow),
        pytest.param(FLOAT32, True, 100, marks=pytest.mark.slow),
    ],
)
def test_values_and_gradients_equal_flax(
    dtype: Any, every_step: bool, unroll: int
) -> None:
    """Several time steps, or all of them, can be unrolled."""
    ours = LSTM(LSTMCell(HIDDEN, param_dtype=dtype), unroll=unroll)
    flax = ScannedCell(nn.OptimizedLSTMCell(HIDDEN, param_dtype=dtype))
    arrays = random_arrays(flax)
    found = run(ours, every_step, *arrays)
    (_, hidden), _ = found
    lead = (TIME, BATCH) if every_step else (BATCH,)
    assert hidden.shape == (*lead, HIDDEN)
    assert hidden.dtype == dtype
    assert_close(found, run(flax, every_step, *arrays))
