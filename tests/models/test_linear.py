"""Residual layers with linear recurrences equal plain loops over time."""

import functools
from typing import Any

import jax
import numpy as np
import pytest

from rnnmnist.models.linear import LRU, ResidualLayers, linear_scan

FEATURES, TIME, BATCH, INPUTS = 4, 7, 3, 2
LAYERS = 2


def make_layers(
    parallel: bool = False, block_size: int | None = None
) -> ResidualLayers:
    return ResidualLayers(FEATURES, LAYERS, parallel, block_size, "float32")


@functools.cache
def initial_params() -> Any:
    inputs = np.zeros((TIME, BATCH, INPUTS), np.float32)
    init = jax.jit(make_layers().init, static_argnames="every_step")
    variables = init(jax.random.key(0), inputs, None, every_step=False)
    return jax.device_get(variables["params"])


def random_arrays() -> tuple[Any, np.ndarray]:
    """Returns inputs, and initial parameters plus noise, so that no bias is 0."""
    generator = np.random.default_rng(0)
    inputs = generator.normal(size=(TIME, BATCH, INPUTS))
    params = jax.tree.map(
        lambda x: x + 0.1 * generator.normal(size=x.shape), initial_params()
    )
    return jax.tree.map(np.float32, (params, inputs))


def sigmoid(x: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-x))


def lru_time_step(params: Any, state: np.ndarray, x: np.ndarray) -> Any:
    """Orvieto et al., 2023: h = lambda h + gamma B x; y = Re(C h) + D x."""
    eigenvalues = np.exp(-np.exp(params["nu_log"]) + 1j * np.exp(params["theta_log"]))
    real, imaginary = np.split(params["input"]["kernel"], 2)
    state = eigenvalues * state + np.exp(params["gamma_log"]) * (
        (real + 1j * imaginary) @ x
    )
    real, imaginary = np.split(params["output"]["kernel"], 2, axis=1)
    outputs = ((real - 1j * imaginary) @ state).real
    return state, outputs + params["skip"] * x


def layers_by_hand(params: Any, sequence: np.ndarray) -> np.ndarray:
    """Returns the outputs for one sequence, [time, inputs], by a loop in float64."""
    params = jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), params)
    states = [np.zeros(FEATURES, complex)] * LAYERS
    outputs = []
    for x in sequence:
        encoder = params["encoder"]
        x = encoder["kernel"] @ x + encoder["bias"]
        for index in range(LAYERS):
            layer = params[f"layer_{index}"]
            normal = (x - x.mean()) / np.sqrt(x.var() + 1e-6)
            normal = normal * layer["norm"]["scale"] + layer["norm"]["bias"]
            recurrence = layer["recurrence"]
            states[index], y = lru_time_step(recurrence, states[index], normal)
            y = y * (1 + np.tanh(np.sqrt(2 / np.pi) * (y + 0.044715 * y**3))) / 2
            glu = layer["glu"]["kernel"] @ y + layer["glu"]["bias"]
            value, gate = np.split(glu, 2)
            x = x + value * sigmoid(gate)
        outputs.append(x)
    return np.stack(outputs)


@pytest.mark.parametrize(  # 3 does not divide the 7 steps
    ("parallel", "block_size"),
    [
        (False, 3),
        pytest.param(False, None, marks=pytest.mark.slow),
        pytest.param(True, 100, marks=pytest.mark.slow),
    ],
)
def test_all_forms_equal_a_plain_loop(parallel: bool, block_size: int | None) -> None:
    params, inputs = random_arrays()
    layers = make_layers(parallel, block_size)

    @jax.jit
    def outputs(params: Any, inputs: jax.Array) -> Any:
        apply = functools.partial(layers.apply, {"params": params}, inputs, None)
        return apply(every_step=True), apply(every_step=False)

    found, last = map(np.asarray, outputs(params, inputs))
    expected = [layers_by_hand(params, inputs[:, i]) for i in range(BATCH)]
    np.testing.assert_allclose(found, np.stack(expected, axis=1), rtol=2e-5, atol=2e-5)
    np.testing.assert_allclose(last, found[-1], rtol=1e-6, atol=1e-6)


def test_eigenvalues_are_not_rounded_to_the_precision_of_products() -> None:
    decay, inputs = np.ones(2, np.complex64), np.ones((3, 1, 2), np.complex64)
    scan = jax.jit(functools.partial(linear_scan, parallel=False))
    with jax.default_matmul_precision("bfloat16"):
        text = scan.lower(decay, inputs, inputs[0]).as_text()
    assert text.count("precision = [HIGHEST, HIGHEST]") == text.count("dot_general") > 0


def test_eigenvalues_start_on_the_ring_of_the_paper() -> None:
    lru = LRU(1000, parallel=False)
    state = np.zeros((1, 1000), np.complex64)
    inputs = np.zeros((1, 1, 1000), np.float32)
    params = jax.jit(lru.init)(jax.random.key(0), state, inputs)["params"]
    radius = np.exp(-np.exp(params["nu_log"]))
    # Over the ring's area, squared radii are uniform.
    quantiles = np.quantile(radius**2, [0, 0.5, 1])
    middle = (0.9**2 + 0.999**2) / 2
    np.testing.assert_allclose(quantiles, [0.9**2, middle, 0.999**2], atol=0.01)
    phase = np.exp(params["theta_log"])
    quantiles = np.quantile(phase, [0, 0.5, 1])
    np.testing.assert_allclose(quantiles, np.pi / 10 * np.arange(3) / 2, atol=0.01)
    gamma = np.exp(params["gamma_log"])
    np.testing.assert_allclose(gamma, np.sqrt(1 - radius**2), rtol=1e-3)
