"""The classifier: its outputs and its initial parameters."""

import functools
import itertools
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from support import inputs_of, model_of, random_examples, random_params, task_of

from rnnmnist.config.schema import (
    CELLS,
    ModelConfig,
)
from rnnmnist.data.examples import Inputs, Normalization
from rnnmnist.models.cells import BACKWARD
from rnnmnist.models.classifier import SequenceClassifier
from rnnmnist.models.parameters import (
    Params,
    abstract_params,
    count_params,
    init_params,
)

INPUTS = inputs_of(random_examples(5).stored)
LENGTHS = np.array([4, 1, 28, 13, 20], np.int32)
PADDING = np.arange(28) >= LENGTHS[:, None]
assert_close = functools.partial(np.testing.assert_allclose, rtol=1e-5, atol=1e-5)
NETWORKS: dict[str, dict[str, Any]] = {
    "lstm": {"num_layers": 2},
    "gru": {"deltas": True, "window": 5, "stride": 3, "num_layers": 3},
    "rnn": {"window": 4, "stride": 4},
    "lru": {"deltas": True, "pooling": "mean", "window": 8},
    "filters": {},
}
assert {*NETWORKS} == {*CELLS}
BIDIRECTIONAL: dict[str, dict[str, Any]] = {
    "lstm": {"bidirectional": True},
    "gru": {"bidirectional": True, "pooling": "mean"},
    "lru": {"bidirectional": True, "pooling": "mean"},
}
initialize = jax.jit(init_params, static_argnames="model")


def build(cell: str, **settings: Any) -> tuple[SequenceClassifier, Params]:
    model = model_of(ModelConfig(cell=cell, hidden_size=16, **settings))
    return model, random_params(model)


def init(**settings: Any) -> Params:
    """Returns the initial parameters for key 0 as NumPy arrays."""
    model = model_of(ModelConfig(**settings))
    return jax.device_get(initialize(model, jax.random.key(0)))


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
    "cell",
    [
        pytest.param(cell, marks=pytest.mark.slow if cell in ("lstm", "lru") else ())
        for cell in NETWORKS
    ],
)
def test_logits_after_each_time_step(cell: str) -> None:
    """They equal the logits of truncated sequences, and of single time steps.

    A window ends after every stride. Between two ends, logits are constant.
    """
    model, params = build(cell, **NETWORKS[cell])
    variables = {"params": params}
    step = jax.jit(functools.partial(model.apply, method="read_time_step"))
    carry: Any = model.apply(variables, 5, method="initialize_carry")
    by_step = np.zeros((5, 28, 10), np.float32)
    for row in range(28):
        carry, by_step[:, row] = step(variables, carry, INPUTS[:, row])
    over_time = np.asarray(logits_of(model, params, INPUTS, every_step=True))
    assert over_time.dtype == np.float32
    stride = model.config.stride
    ends = [*range(stride - 1, 27, stride), 27]
    assert_close(over_time[:, ends], by_step[:, ends])
    for first, end in itertools.pairwise(ends):
        assert (over_time[:, first:end] == over_time[:, [first]]).all()
    padded = np.where(PADDING[..., None], np.float32(0), INPUTS)
    found = logits_of(model, params, padded, LENGTHS)
    assert_close(found, by_step[np.arange(5), LENGTHS - 1])


def test_windows_are_the_time_steps_of_the_layer() -> None:
    model, params = build("gru", window=12, stride=5)
    padded = np.pad(INPUTS, ((0, 0), (12 - 5, 5 - 1), (0, 0)))
    starts = range(0, 28, 5)
    windows = [padded[:, start : start + 12].reshape(5, -1) for start in starts]
    plain = model_of(ModelConfig("gru", hidden_size=16), task_of(28, 12 * 28, 10))
    expected = logits_of(plain, params, np.stack(windows, axis=1))
    found = logits_of(model, params, INPUTS)
    np.testing.assert_allclose(found, expected, rtol=1e-6, atol=1e-6)


def test_deltas_are_appended_to_the_inputs() -> None:
    model, params = build("lru", deltas=True)
    changes = np.diff(INPUTS, axis=1, prepend=INPUTS[:, :1])
    trained = dict(params)
    changes /= trained.pop("deltas")["std"]
    plain = model_of(ModelConfig("lru", hidden_size=16), task_of(28, 56, 10))
    expected = logits_of(plain, trained, np.concatenate([INPUTS, changes], axis=2))
    assert_close(logits_of(model, params, INPUTS), expected)
    # Their deviations are not trained.
    assert count_params(params) == count_params(trained)


def padded_with(garbage: Any, missing: str) -> np.ndarray:
    """Returns inputs of sequences whose padding contained a value, [5, 28, 28]."""
    stored = np.random.default_rng(0).normal(size=(5, 28, 28))
    if missing != "error":
        stored[[0, 0, 2, 3], [0, 2, 4, 1], [1, 0, 2, 2]] = np.nan
    stored[PADDING] = garbage
    mean, std = np.linspace(-1, 1, 28), np.linspace(0.25, 2, 28)
    normalization = Normalization(mean, std, missing)
    inputs = Inputs(stored, lengths=LENGTHS, normalization=normalization)
    return inputs.take(slice(None))


@pytest.mark.parametrize(
    ("cell", "settings", "missing"),
    [
        *((cell, settings, "forward_fill") for cell, settings in NETWORKS.items()),
        *((cell, settings, "zero") for cell, settings in BIDIRECTIONAL.items()),
        ("lstm", {}, "error"),
    ],
)
def test_padding_does_not_change_the_bits_of_logits(
    cell: str, settings: dict[str, Any], missing: str
) -> None:
    model, params = build(cell, **settings)
    inputs = padded_with(0.0, missing)
    expected = np.asarray(logits_of(model, params, inputs, LENGTHS))
    noise = np.random.default_rng(1).normal(size=(PADDING.sum(), 28))
    for garbage in (np.nan, np.inf, -np.inf, 1e30, 1e300, noise):
        found = logits_of(model, params, padded_with(garbage, missing), LENGTHS)
        np.testing.assert_array_equal(found, expected)
    # The time steps before the padding do change them.
    found = np.asarray(logits_of(model, params, inputs + 1, LENGTHS))
    assert (np.abs(found - expected).max(axis=1) > 1e-3).all()


@pytest.mark.parametrize("both", [False, True], ids=["forward", "both directions"])
def test_a_layer_reads_the_outputs_of_the_layer_below(both: bool) -> None:
    """It equals a loop over the cells.

    The backward direction reads each sequence from its end, and its outputs are in the
    order of the time steps.
    """
    model, params = build("rnn", num_layers=2, bidirectional=both, pooling="mean")
    prefixes = ["", BACKWARD] if both else [""]
    step = jax.jit(nn.SimpleCell(features=16).apply)
    results = []
    for index, length in enumerate(LENGTHS):
        values = INPUTS[index, :length]
        for layer in ("cell", "cell_1"):
            outputs = []
            for prefix in prefixes:
                times = slice(None, None, -1 if prefix else 1)
                hidden, states = np.zeros((1, 16), np.float32), []
                for row in values[times]:
                    variables = {"params": params[prefix + layer]}
                    hidden, _ = step(variables, hidden, row[None])
                    states.append(np.ravel(hidden))
                outputs.append(np.array(states)[times])
            values = np.concatenate(outputs, axis=1)
        results.append(values.mean(axis=0))
    expected = np.array(results) @ params["head"]["kernel"] + params["head"]["bias"]
    padded = np.where(PADDING[..., None], np.float32(0), INPUTS)
    assert_close(logits_of(model, params, padded, LENGTHS), expected)


@pytest.mark.parametrize(("cell", "number"), [("lstm", 81_674), ("gru", 61_706)])
def test_the_number_of_parameters(cell: str, number: int) -> None:
    model = model_of(ModelConfig(cell=cell))
    assert count_params(abstract_params(model)) == number


def test_forget_bias_sets_the_forget_gates_bias_only() -> None:
    params = init(hidden_size=16, forget_bias=2.5)
    for gate, expected in (("hi", 0), ("hf", 2.5), ("hg", 0), ("ho", 0)):
        assert (params["cell"][gate]["bias"] == expected).all()


@pytest.mark.slow
@pytest.mark.usefixtures("fast_programs")
def test_chrono_initializes_the_biases_of_two_gates() -> None:
    """Forget gates keep 1 to T - 1 windows; input gates have the opposite biases."""
    params = init(initializer="chrono", window=2, stride=2, num_layers=2)
    drawn = []
    for name in ("cell", "cell_1"):
        forget, opposite = (params[name][gate]["bias"] for gate in ("hf", "hi"))
        np.testing.assert_array_equal(forget, -opposite)
        memories = np.exp(forget)
        assert 1 <= memories.min() < 3 < 11 < memories.max() <= 13
        assert memories.mean() == pytest.approx(7, rel=0.2)
        drawn.append(memories)
    assert (drawn[0] != drawn[1]).all()


def test_the_tutorial_initializer() -> None:
    params = init(initializer="tutorial")
    limit = np.sqrt(6 / (28 + 128 + 4 * 128))
    kernels = [np.ravel(gate["kernel"]) for gate in params["cell"].values()]
    values = np.concatenate(kernels)
    assert np.abs(values).max() <= limit
    assert values.std() == pytest.approx(limit / np.sqrt(3), rel=0.01)
    assert params["head"]["kernel"].std() == pytest.approx(1, rel=0.1)
    assert 0.3 < params["head"]["bias"].std() < 2


def test_initial_values_are_those_of_the_published_results() -> None:
    """They agree up to rounding: the quantiles of the normal distribution depend on
    library versions.
    """
    params = init()
    for kernel, expected in (
        (params["head"]["kernel"], [0.17833638, 0.05387794, -0.03877558, -0.04409143]),
        (params["cell"]["ii"]["kernel"], [0.36217883, 0.12631695, 0.07699688]),
        (params["cell"]["ho"]["kernel"], [0.0086627, -0.02432434, -0.07425842]),
    ):
        np.testing.assert_allclose(kernel[0, : len(expected)], expected, rtol=1e-4)
