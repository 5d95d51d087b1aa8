"""How runs execute on each platform, also without one."""

import dataclasses
import re
from typing import Any

import jax
import jax.numpy as jnp
import pytest
from support import TASK, run_config

from rnnmnist.config.platforms import DEFAULTS, Execution
from rnnmnist.config.schema import Config
from rnnmnist.models.classifier import abstract_params, make_model

PLATFORMS = {  # the names of their compilers and of their precision
    "cpu": ("cpu", "HIGHEST"),
    "gpu": ("cuda", "HIGH"),
    "tpu": ("tpu", "DEFAULT"),
}
INPUTS = jax.ShapeDtypeStruct((2, 28, 28), jnp.float32)


@pytest.mark.parametrize("platform", PLATFORMS)
def test_settings_override_the_defaults_of_the_platform(platform: str) -> None:
    config = Config().replace({"execution.precision": "bfloat16"})
    found = Execution.create(config, platform)
    assert found == DEFAULTS[platform]._replace(precision="bfloat16")


@pytest.mark.parametrize(
    ("cell", "platform"),
    [
        *(("lstm", platform) for platform in PLATFORMS),
        ("gru", "gpu"),
        ("lru", "cpu"),
        ("lru", "tpu"),
    ],
)
def test_the_gradient_is_lowered_for_absent_platforms(cell: str, platform: str) -> None:
    """With the choices of the platform: its products, and no loop over time."""
    config = run_config({"model.cell": cell, "model.hidden_size": 8})
    execution = Execution.create(config, platform)
    model = make_model(config.model, TASK, execution)

    def loss(params: Any, inputs: jax.Array) -> jax.Array:
        return jnp.asarray(model.apply({"params": params}, inputs)).sum()

    traced = jax.jit(jax.grad(loss)).trace(abstract_params(model), INPUTS)
    lowering, precision = PLATFORMS[platform]
    program = traced.lower(lowering_platforms=(lowering,)).as_text()
    assert ("stablehlo.while" in program) == (platform == "cpu")
    found = re.findall(r"dot_general.* precision = \[(\w+), (\w+)\]", program)
    assert len(found) == program.count("stablehlo.dot_general")
    assert set(found) == {(precision, precision)}


def test_other_arrays_of_the_same_shape_share_the_programs_of_a_model() -> None:
    config = run_config({}).model
    execution = Execution.create(Config(), "cpu")
    other = dataclasses.replace(TASK, name="other", sha256="0", mean=(1.0,))
    model = make_model(config, TASK, execution)
    assert make_model(config, other, execution) == model
    assert hash(make_model(config, other, execution)) == hash(model)
    longer = dataclasses.replace(TASK, time_steps=29)
    assert make_model(config, longer, execution) != model
