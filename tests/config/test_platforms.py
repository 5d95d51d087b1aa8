"""Compilation options of each platform, tested without its devices."""

import re
from typing import Any

import jax
import jax.numpy as jnp
import pytest
from support import TASK, run_config

from rnnmnist.config.platforms import DEFAULTS, Execution
from rnnmnist.config.schema import Config
from rnnmnist.models.classifier import make_model
from rnnmnist.models.parameters import abstract_params

PLATFORMS = {  # the compiler's names for the platform and for the precision
    "cpu": ("cpu", "HIGHEST"),
    "gpu": ("cuda", "HIGH"),
    "tpu": ("tpu", "DEFAULT"),
}
INPUTS = jax.ShapeDtypeStruct((2, 28, 28), jnp.float32)


def test_the_precision_setting_overrides_the_default_of_the_platform() -> None:
    config = Config().replace({"execution.precision": "bfloat16"})
    execution = Execution.create(config, "rocm")  # ROCm devices are GPUs
    assert execution == DEFAULTS["gpu"]._replace(precision="bfloat16")


@pytest.mark.parametrize(
    ("cell", "platform"), [("gru", "gpu"), ("lru", "cpu"), ("lru", "tpu")]
)
def test_the_gradient_is_lowered_for_absent_platforms(cell: str, platform: str) -> None:
    """Matrix products have the platform's precision. Only the CPU loops over time."""
    config = run_config({"model.cell": cell, "model.hidden_size": 8})
    execution = Execution.create(config, platform)
    model = make_model(config.model, TASK, execution)

    def loss(params: Any, inputs: jax.Array) -> jax.Array:
        return jnp.asarray(model.apply({"params": params}, inputs)).sum()

    traced = jax.jit(jax.grad(loss)).trace(abstract_params(model), INPUTS)
    lowering, precision = PLATFORMS[platform]
    program = traced.lower(lowering_platforms=(lowering,)).as_text()
    assert ("stablehlo.while" in program) == (platform == "cpu")
    precisions = re.findall(r"dot_general.* precision = \[(\w+), (\w+)\]", program)
    assert len(precisions) == program.count("stablehlo.dot_general")
    assert set(precisions) == {(precision, precision)}
