"""The classifier: its outputs and its initial parameters."""

import functools
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from support import (
    inputs_of,
    model_of,
    random_examples,
    random_params,
    task_of,
)

from rnnmnist.config.schema import GATED_CELLS, LINEAR_CELLS, ModelConfig
from rnnmnist.data.examples import Inputs, Normalization
from rnnmnist.models.cells import CELLS
from rnnmnist.models.classifier import (
    Params,
    SequenceClassifier,
    abstract_params,
    count_params,
    init_params,
)

INPUTS = inputs_of(random_examples(5).stored)
initialize = jax.jit(init_params, static_argnames=("model", "config"))
ALL_CELLS = (*GATED_CELLS, *LINEAR_CELLS)


def build(cell: str, **settings: Any) -> tuple[SequenceClassifier, Params]:
    model = model_of(ModelConfig(cell=cell, hidden_size=16, **settings))
    return model, random_params(model)


def init(model: SequenceClassifier, **settings: Any) -> Params:
    """Returns the initial parameters of the key 0 as NumPy arrays."""
    config = ModelConfig(**settings)
    return jax.device_get(initialize(model, jax.random.key(0), config))


@functools.partial(jax.jit, static_argnames=("model", "every_step"))
def logits_of(
    model: SequenceClassifier,
    params: Params,
    inputs: Any,
    lengths: Any = None,
    *,
    every_step: bool = False,
) -> jax.Array:
    variables = {"params": params}
    logits = model.apply(variables, inputs, lengths, every_step=every_step)
    return jnp.asarray(logits)


@pytest.mark.parametrize(
    ("cell", "make_cell"),
    [
        *((name, cell.create) for name, cell in CELLS.items()),
        ("lstm", nn.LSTMCell),  # the same function as our cell
    ],
)
def test_the_scan_equals_a_loop_over_the_cell(
    cell: str, make_cell: Callable[..., Any]
) -> None:
    model, params = build(cell)
    plain = make_cell(features=16)
    step = jax.jit(plain.apply)
    carry = plain.initialize_carry(jax.random.key(0), (5, 28))
    for row in range(28):
        carry, hidden = step({"params": params["cell"]}, carry, INPUTS[:, row])
    kernel, bias = params["head"]["kernel"], params["head"]["bias"]
    expected = np.asarray(hidden) @ np.asarray(kernel) + np.asarray(bias)
    found = logits_of(model, params, INPUTS)
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    ("cell", "settings"),
    [
        *((cell, {}) for cell in ALL_CELLS),
        ("lru", {"pooling": "mean"}),
        ("lru", {"pooling": "mean", "window": 8}),
        ("lstm", {"window": 12, "stride": 7}),
        ("gru", {"window": 2}),
        ("rnn", {"window": 4, "stride": 4}),
    ],
)
def test_logits_after_each_step(cell: str, settings: dict[str, Any]) -> None:
    """They equal those of shorter sequences, and those of one step at a time.

    Windows end after every stride.
    """
    model, params = build(cell, **settings)
    variables = {"params": params}
    over_time = np.asarray(logits_of(model, params, INPUTS, every_step=True))
    assert over_time.dtype == np.float32
    assert over_time.shape == (5, 28, 10)
    stride = ModelConfig(**settings).window_stride
    step = jax.jit(functools.partial(model.apply, method="step"))
    carry: Any = model.apply(variables, 5, method="start")
    for row in range(28):
        carry, logits = step(variables, carry, INPUTS[:, row])
        if row % stride == stride - 1 or row == 27:
            np.testing.assert_allclose(logits, over_time[:, row], rtol=1e-5, atol=1e-5)
        if row in (5, 12, 27):
            shorter = logits_of(model, params, INPUTS[:, : row + 1])
            np.testing.assert_allclose(logits, shorter, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("stride", [1, 4, 12])
def test_windows_are_read_at_a_time(stride: int) -> None:
    model, params = build("gru", window=12, stride=stride)
    padded = np.pad(INPUTS, ((0, 0), (12 - stride, stride - 1), (0, 0)))
    starts = range(0, 28, stride)
    windows = [padded[:, start : start + 12].reshape(5, -1) for start in starts]
    plain = model_of(ModelConfig("gru", hidden_size=16), task_of(28, 12 * 28, 10))
    expected = logits_of(plain, params, np.stack(windows, axis=1))
    found = logits_of(model, params, INPUTS)
    np.testing.assert_allclose(found, expected, rtol=1e-6, atol=1e-6)


LENGTHS = np.array([4, 1, 7, 4, 7, 1], np.int32)
PADDING = np.arange(7) >= LENGTHS[:, None]
NORMALIZATION = (np.array([0.5, -1.0, 0.0]), np.array([2.0, 0.25, 1.0]))


def padded_with(garbage: Any, missing: str) -> np.ndarray:
    """Inputs of sequences whose padding held something, [6, 7, 3]."""
    stored = np.random.default_rng(0).normal(size=(6, 7, 3))
    if missing != "error":
        stored[[0, 0, 2, 3], [0, 2, 4, 1], [1, 0, 2, 2]] = np.nan
    stored[PADDING] = garbage
    normalization = Normalization(*NORMALIZATION, missing)
    inputs = Inputs(stored, LENGTHS, None, normalization)
    return inputs.take(slice(None))


@pytest.mark.parametrize("missing", ["error", "forward_fill", "zero"])
@pytest.mark.parametrize(
    ("cell", "window", "stride"),
    [*((cell, 1, 1) for cell in ALL_CELLS), ("lru", 8, 2), ("gru", 3, 3)],
)
def test_the_content_of_the_padding_changes_no_bit(
    cell: Any, missing: str, window: int, stride: int
) -> None:
    settings = ModelConfig(cell=cell, hidden_size=8, window=window, stride=stride)
    model = model_of(settings, task_of(7, 3, 4))
    params = random_params(model)
    inputs = padded_with(0.0, missing)
    expected = np.asarray(logits_of(model, params, inputs, LENGTHS))
    assert expected.shape == (6, 4)
    noise = np.random.default_rng(1).normal(size=(PADDING.sum(), 3))
    for garbage in (np.nan, np.inf, -np.inf, 1e30, 1e300, noise):
        found = logits_of(model, params, padded_with(garbage, missing), LENGTHS)
        np.testing.assert_array_equal(found, expected)
    # The time steps before the padding do change them.
    found = np.asarray(logits_of(model, params, inputs + 0.1, LENGTHS))
    assert (np.abs(found - expected).max(axis=1) > 1e-3).all()
    for sequence, length, logits in zip(inputs, LENGTHS, expected, strict=True):
        alone = logits_of(model, params, sequence[None, :length])
        np.testing.assert_allclose(logits, alone[0], rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize(("cell", "number"), [("lstm", 81_674), ("gru", 61_706)])
def test_the_number_of_parameters(cell: str, number: int) -> None:
    model = model_of(ModelConfig(cell=cell))
    assert count_params(abstract_params(model)) == number


def test_forget_bias_sets_the_forget_gates_bias_only() -> None:
    model, _ = build("lstm")
    params, other = (init(model, forget_bias=bias) for bias in (2.5, 0.0))
    for gate, expected in (("hi", 0), ("hf", 2.5), ("hg", 0), ("ho", 0)):
        np.testing.assert_array_equal(
            params["cell"][gate]["bias"], np.full(16, expected)
        )
    kernels = [leaf for leaf in jax.tree.leaves(params) if leaf.ndim == 2]
    others = [leaf for leaf in jax.tree.leaves(other) if leaf.ndim == 2]
    assert all((a == b).all() for a, b in zip(kernels, others, strict=True))


def test_chrono_draws_the_biases_of_two_gates() -> None:
    """Forget gates that keep 1 to T - 1 windows, and the opposite input gates."""
    model = model_of(ModelConfig(), task_of(784, 1, 10))
    settings = {"initializer": "chrono", "window": 2, "stride": 2}
    plain, params = init(model), init(model, **settings)
    forget, opposite = (params["cell"][gate]["bias"] for gate in ("hf", "hi"))
    np.testing.assert_array_equal(forget, -opposite)
    memories = np.exp(forget)
    assert 1 <= memories.min() < 50 < 350 < memories.max() <= 391
    assert memories.mean() == pytest.approx(196, rel=0.2)
    for gate in ("hf", "hi"):
        params["cell"][gate]["bias"] = plain["cell"][gate]["bias"]
    jax.tree.map(np.testing.assert_array_equal, params, plain)


def test_the_tutorial_initializer() -> None:
    model = model_of(ModelConfig(initializer="tutorial"))
    params = init(model)
    limit = np.sqrt(6 / (28 + 128 + 4 * 128))
    kernels = [g["kernel"] for g in params["cell"].values()]
    values = np.concatenate([np.ravel(kernel) for kernel in kernels])
    assert len(values) == (28 + 128) * 4 * 128
    assert np.abs(values).max() <= limit
    assert values.std() == pytest.approx(limit / np.sqrt(3), rel=0.01)
    assert params["head"]["kernel"].std() == pytest.approx(1, rel=0.1)
    assert 0.3 < params["head"]["bias"].std() < 2


def test_a_channel_axis_is_refused() -> None:
    model, params = build("lstm")
    with pytest.raises(ValueError, match=r"\[batch, time, features\].*28, 28, 1"):
        model.apply({"params": params}, np.zeros((2, 28, 28, 1), np.float32))


def test_a_seed_gives_the_initial_values_of_the_published_results() -> None:
    """To rounding: libraries may compute a normal distribution's quantiles anew."""
    params = init(model_of())
    for kernel, expected in (
        (params["head"]["kernel"], [0.17833638, 0.05387794, -0.03877558, -0.04409143]),
        (params["cell"]["ii"]["kernel"], [0.36217883, 0.12631695, 0.07699688]),
        (params["cell"]["ho"]["kernel"], [0.0086627, -0.02432434, -0.07425842]),
    ):
        np.testing.assert_allclose(kernel[0, : len(expected)], expected, rtol=1e-4)
