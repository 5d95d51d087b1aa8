"""How runs execute on each platform, also without one."""

import re
from typing import Any

import jax
import jax.numpy as jnp
import pytest
from support import TASK

from rnnmnist.config.platforms import (
    DEFAULTS,
    LINEAR_REMAT_STEPS,
    Execution,
    execution_of,
)
from rnnmnist.config.schema import Config, ModelConfig, TrainConfig
from rnnmnist.models.classifier import Shape, abstract_params, make_model

PLATFORMS = ("cpu", "gpu", "tpu")
INPUTS = jax.ShapeDtypeStruct((2, 28, 28), jnp.float32)


@pytest.mark.parametrize("platform", PLATFORMS)
def test_settings_override_the_defaults_of_the_platform(platform: str) -> None:
    default = DEFAULTS[platform]
    assert execution_of(Config(), platform) == default
    automatic = Config(model=ModelConfig(unroll=None, precision="auto"))
    assert execution_of(automatic, platform) == default
    changes: dict[str, dict[str, Any]] = {
        "unroll": {"model.unroll": 7},
        "precision": {"model.precision": "tensorfloat32"},
        "eval_batch_size": {"train.eval_batch_size": 5},
        "remat_steps": {"model.remat_steps": 7},
    }
    for field, change in changes.items():
        found = execution_of(Config().replace(change), platform)
        assert found == default._replace(**{field: next(iter(change.values()))})
    for value in (False, True):  # False is a choice, too
        config = Config(train=TrainConfig(vectorize_seeds=value))
        assert execution_of(config, platform) == default._replace(vectorize_seeds=value)


@pytest.mark.parametrize("parallel", [False, True])
def test_all_choices_can_be_set(parallel: bool) -> None:
    config = Config(
        model=ModelConfig(
            cell="lru",
            unroll=3,
            precision="bfloat16",
            parallel_scan=parallel,
            remat_steps=5,
        ),
        train=TrainConfig(vectorize_seeds=True, eval_batch_size=9),
    )
    expected = Execution(
        unroll=3,
        precision="bfloat16",
        vectorize_seeds=True,
        eval_batch_size=9,
        parallel_scan=parallel,
        remat_steps=5,
    )
    for platform in PLATFORMS:
        assert execution_of(config, platform) == expected


def test_linear_recurrences_are_recomputed_where_they_run_step_by_step() -> None:
    for cell in ("mingru", "lru"):
        automatic = Config(model=ModelConfig(cell=cell))
        for platform in PLATFORMS:
            steps = LINEAR_REMAT_STEPS if platform == "cpu" else None
            assert execution_of(automatic, platform).remat_steps == steps
        parallel = automatic.replace({"model.parallel_scan": True})
        assert execution_of(parallel, "cpu").remat_steps is None


@pytest.mark.parametrize("platform", ["cuda", "rocm", "METAL", "of the future"])
def test_other_platforms_execute_as_gpus(platform: str) -> None:
    assert execution_of(Config(), platform) == DEFAULTS["gpu"]


def test_descriptions_name_every_choice() -> None:
    assert DEFAULTS["cpu"]._replace(remat_steps=4).describe() == (
        "one step per iteration, float32 products, seeds in turn, "
        "evaluation of 64 examples per device, linear recurrences step by step, "
        "recomputation in blocks of 4 steps"
    )
    assert DEFAULTS["tpu"].describe() == (
        "up to 32 steps per iteration, bfloat16 products, seeds together, "
        "evaluation of 1,024 examples per device, linear recurrences in parallel"
    )


@pytest.mark.parametrize(
    ("platform", "lowering", "precision", "loops"),
    [
        ("cpu", "cpu", "HIGHEST", True),
        ("gpu", "cuda", "HIGH", False),
        ("gpu", "rocm", "HIGH", False),
        ("tpu", "tpu", "DEFAULT", False),
    ],
)
@pytest.mark.parametrize("cell", ["lstm", "gru", "lru"])
def test_the_gradient_is_lowered_for_absent_platforms(
    cell: Any, platform: str, lowering: str, precision: str, loops: bool
) -> None:
    """With the choices of the platform: its products, and no loop over 28 steps."""
    settings = ModelConfig(cell=cell, hidden_size=8)
    execution = execution_of(Config(model=settings), platform)
    model = make_model(settings, Shape.of(TASK), execution)

    def loss(params: Any, inputs: jax.Array) -> jax.Array:
        return jnp.asarray(model.apply({"params": params}, inputs)).sum()

    traced = jax.jit(jax.grad(loss)).trace(abstract_params(model), INPUTS)
    program = traced.lower(lowering_platforms=(lowering,)).as_text()
    assert ("stablehlo.while" in program) == loops
    found = re.findall(r"dot_general.* precision = \[(\w+), (\w+)\]", program)
    assert set(found) == {(precision, precision)}
