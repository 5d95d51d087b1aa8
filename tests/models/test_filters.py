"""Random recurrent filters equal their formula; thresholds lie between outputs."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rnnmnist.models.filters import (
    MAX_FEATURES,
    THRESHOLDS,
    FilterBank,
    choose_thresholds,
    draw_weights,
)

FILTERS, FEATURES, TIME, BATCH = 50, 6, 40, 5
BANK = FilterBank(FILTERS, FEATURES, TIME)
INPUTS = np.random.default_rng(0).normal(size=(TIME, BATCH, FEATURES))
INPUTS = INPUTS.astype(np.float32)
LENGTHS = np.array([40, 1, 7, 23, 39], np.int32)


def params_of() -> dict[str, Any]:
    """Returns random parameters, with thresholds between the outputs for `INPUTS`."""
    init = jax.jit(BANK.init, static_argnames="every_step")
    variables = init(jax.random.key(0), jnp.asarray(INPUTS), None, every_step=False)
    params: dict[str, Any] = jax.device_get(variables["params"])
    outputs = outputs_of(params, INPUTS).reshape(-1, FILTERS)
    positions = np.random.default_rng(1).uniform(size=(THRESHOLDS, FILTERS))
    params["thresholds"] = choose_thresholds(outputs, positions)
    return params


def outputs_of(params: Any, inputs: np.ndarray) -> np.ndarray:
    outputs = jax.jit(lambda x: BANK.apply({"params": params}, x, method="outputs"))
    return np.asarray(outputs(jnp.asarray(inputs)))


def test_the_impulse_response_equals_the_formula() -> None:
    params = params_of()
    impulse = np.zeros((TIME, FEATURES, FEATURES), np.float32)
    impulse[0] = np.eye(FEATURES)  # one of a feature in each sequence
    pole = params["pole"][0].astype(float) + 1j * params["pole"][1]
    phase = params["phase"][0].astype(float) + 1j * params["phase"][1]
    times = np.arange(TIME)[:, None]
    kernels = (times + 1) * (times + 2) / 2 * (phase * pole**times).real
    expected = kernels[:, None] * params["weights"]
    found = outputs_of(params, impulse)
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("lengths", [LENGTHS, None])
def test_ppv_and_maxima_are_over_the_time_steps_read(
    lengths: np.ndarray | None,
) -> None:
    params = params_of()
    outputs = outputs_of(params, INPUTS)
    is_above = outputs[:, :, None] > params["thresholds"]
    counts = is_above.cumsum(axis=0).reshape(TIME, BATCH, -1)
    ppv = counts / np.arange(1, TIME + 1)[:, None, None]
    largest = np.maximum.accumulate(outputs).clip(min=0)  # 0 before the first time step
    expected = np.concatenate([ppv, largest], axis=2)

    def apply(every_step: bool) -> np.ndarray:
        read = jax.jit(
            lambda x: BANK.apply({"params": params}, x, lengths, every_step=every_step)
        )
        return np.asarray(read(jnp.asarray(INPUTS)))

    np.testing.assert_allclose(apply(True), expected, rtol=1e-5)
    ends = np.full(BATCH, TIME) if lengths is None else lengths
    last = expected[ends - 1, np.arange(BATCH)]
    np.testing.assert_allclose(apply(False), last, rtol=1e-5)


def test_a_nonfinite_input_makes_the_state_nonfinite() -> None:
    """Comparisons with thresholds alone would hide it."""
    inputs = INPUTS.copy()
    inputs[3, 2, 1], inputs[5, 4, 0] = np.nan, np.inf
    apply = jax.jit(BANK.apply, static_argnames="every_step")
    lengths = jnp.full(BATCH, TIME, jnp.int32)
    hidden = apply({"params": params_of()}, inputs, lengths, every_step=False)
    assert np.isnan(hidden).any(axis=1).tolist() == [False, False, True, False, True]


def test_each_filter_reads_few_features() -> None:
    features = 300
    draw = jax.jit(draw_weights, static_argnums=(1, 2))
    weights = np.asarray(draw(jax.random.key(0), features, 2000))
    assert weights.shape == (features, 2000)
    assert set(np.unique(weights)) <= {-1.0, 0.0, 1.0}
    counts = np.count_nonzero(weights, axis=0)
    assert counts.min() == 1
    assert counts.max() == MAX_FEATURES
    assert abs(weights.sum()) < 5 * np.sqrt(counts.sum())  # both signs alike


def test_thresholds_are_quantiles_between_neighbouring_outputs() -> None:
    """The outputs of the first filter have ties, and the second has heavy tails."""
    generator = np.random.default_rng(0)
    outputs = generator.standard_cauchy((1000, 2)).astype(np.float32) ** 3
    outputs[:, 0] = generator.normal(size=1000).round(1)
    positions = generator.uniform(size=(THRESHOLDS, 2))
    found = choose_thresholds(outputs, positions)
    for column in range(2):
        ordered = np.unique(outputs[:, column])
        index = np.searchsorted(ordered, found[:, column])
        middle = (ordered[index - 1] + ordered[index]) / 2
        np.testing.assert_allclose(found[:, column], middle, rtol=1e-6, atol=1e-6)
    ranks = (outputs[:, None] < found).mean(axis=0)
    np.testing.assert_allclose(ranks, positions, atol=0.05)


def test_equal_outputs_have_infinite_thresholds() -> None:
    positions = np.array([[0.0, 0.5]])
    outputs = np.array([[2, 1], [2, 3]], np.float32)
    assert choose_thresholds(outputs, positions).tolist() == [[np.inf, 2]]
