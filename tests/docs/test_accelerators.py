"""The costs of programs on accelerators: how they are counted, and the page on them."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import accelerators
import jax
import pytest
from accelerators import CASES, Case, Variant, step_instructions, variant_of
from support import REPOSITORY

import results

PROGRAM = """\
HloModule jit_train_steps, is_scheduled=true

%fused (p: f32[8]) -> f32[8] {
  %inner = f32[8]{0} fusion(%p), kind=kLoop, backend_config={"estimated_cycles":"999"}
}

%rounds (p: (s32[], f32[8])) -> (s32[], f32[8]) {
  %f.1 = f32[8]{0} fusion(%p), calls=%fused, backend_config={"estimated_cycles":"10"}
  ROOT %t.1 = (s32[], f32[8]{0}) tuple(%f.1)
}

%more_rounds (p: (s32[], f32[8])) -> pred[] {
  %constant.6 = s32[]{:T(128)} constant(6)
  ROOT %lt.1 = pred[] compare(%i, %constant.6), direction=LT
}

%more_steps (p: (s32[], f32[8])) -> pred[] {
  ROOT %f.3 = pred[] fusion(%p), kind=kLoop, calls=%fused
}

%graph (p: f32[8]) -> f32[8] {
  %c.2 = f32[8]{0} custom-call(%p), custom_call_target="__cublas$gemm"
}

%step (p: (s32[], f32[8])) -> (s32[], f32[8]) {
  %f.2 = (f32[8]{0}, f32[8]{0}) fusion(%p), calls=%fused, x={"estimated_cycles":"1000"}
  %w.1 = (s32[], f32[8]{0}) while(%t), condition=%more_rounds, body=%rounds
  %w.2 = (s32[], f32[8]{0}) while(%t), condition=%c, body=%rounds, \
backend_config={"known_trip_count":{"n":"28"}}
  %k = f32[8]{0} call(%p), to_apply=%graph
  %copy.1 = f32[8]{0} copy(%k)
  %s.1 = ((f32[8]{0}), f32[8]{0}) fusion-start(%k), kind=kLoop, calls=%fused
  ROOT %t.2 = (s32[], f32[8]{0}) tuple(%f.2)
}

ENTRY %main (p: f32[8]) -> f32[8] {
  %before = f32[8]{0} fusion(%p), calls=%fused, backend_config={"estimated_cycles":"5"}
  %w.3 = (s32[], f32[8]{0}) while(%t), condition=%more_steps, body=%step
}
"""


def test_loop_bodies_count_as_often_as_they_are_repeated() -> None:
    instructions = step_instructions(PROGRAM)
    cycles = sum(instruction.estimated_cycles for instruction in instructions)
    assert cycles == 1000 + (6 + 28) * 10
    kernels = sum(instruction.kernels for instruction in instructions)
    assert kernels == 2 + (6 + 28) + 1 + 1 + 1  # fusions, custom-call, copy, started


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("direction=LT", "direction=NE"),
        ("constant(6)", "parameter(0)"),
        ("while(%t), condition=%more_steps", "call(%t)"),
        ("call(%p), to_apply=%graph", "conditional(%p), branch_computations={%graph}"),
    ],
)
def test_what_cannot_be_counted_is_an_error(before: str, after: str) -> None:
    with pytest.raises(ValueError):
        step_instructions(PROGRAM.replace(before, after))


def read_rows() -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = json.loads(accelerators.NUMBERS.read_text())
    return rows


def test_every_case_was_measured_with_its_current_settings() -> None:
    found = [
        (
            *(row["target"], accelerators.is_colab(row), row["program"]),
            *(row["devices"], variant_of(row)),
        )
        for row in read_rows()
    ]
    expected = [
        (target, colab, case.program, case.devices, case.variant)
        for target, cases in CASES.items()
        for colab in ([False, True] if target == "v5e" else [False])
        for case in cases
    ]
    assert sorted(found) == sorted(expected)
    for row in read_rows():
        case = Case(row["program"], variant_of(row))
        platform, config = "tpu" if row["target"] == "v5e" else "gpu", case.config
        assert row["precision"] == case.execution(platform).precision
        assert row["num_seeds"] == config.num_seeds
        if row["program"] == "train":
            assert row["batch_size"] == config.train.batch_size


def test_the_page_contains_the_bounds() -> None:
    page = (REPOSITORY / "docs/accelerators.md").read_text()
    for bound in accelerators.BOUNDS.values():
        assert f"{bound:,} " in page
    for row in read_rows():
        if Case(row["program"], variant_of(row), row["devices"]) == Case("train"):
            cost = row.get("estimated_cycles") or row["kernels"]
            assert cost <= accelerators.BOUNDS[row["target"]]


@pytest.mark.parametrize(
    ("case", "arguments"),
    [
        (
            Case("train", Variant(("num_seeds=8",)), 4),
            ("20x8x128x784xui8", "8x81674xf32"),
        ),
        (
            Case("train", Variant(("train.batch_size=1024",))),
            ("20x1x1024x784xui8", "1x81674xf32"),
        ),
        (Case("evaluate", devices=2), ("79x128x28x28xui8", "1x28x128xf32")),
    ],
)
def test_programs_are_lowered_with_the_shapes_of_mnist(
    case: Case, arguments: tuple[str, ...]
) -> None:
    """Here for CPU devices, whose evaluation batch is 64."""
    program, *gather = (
        lowered.as_text() for lowered in accelerators.lower(case, jax.devices())
    )
    (main,) = [line for line in program.splitlines() if " @main(" in line]
    for argument in arguments:
        assert f"tensor<{argument}>" in main
    for program in gather:
        assert "tensor<55000x784xui8>" in program


PRODUCTS = """
import bfloat16, jax, ml_dtypes, numpy as np
bfloat16.round_operands()
x, y, z = np.random.default_rng(0).normal(size=(3, 50, 50)).astype(np.float32)
def rounded(array): return array.astype(ml_dtypes.bfloat16).astype(np.float32)
def product(precision):
    return jax.jit(lambda x, y: jax.numpy.matmul(x, y, precision=precision))
def gradient(x):
    return (product("bfloat16")(x, y) * z).sum()
found = [
    (product("bfloat16")(x, y), rounded(x) @ rounded(y)),
    (jax.grad(gradient)(x), rounded(z) @ rounded(y).T),
    (product("float32")(x, y), x @ y),
]
for one, other in found:
    np.testing.assert_allclose(one, other, rtol=0, atol=1e-4)
assert np.abs(rounded(x) @ rounded(y) - x @ y).max() > 1e-2
"""


@pytest.mark.slow
def test_products_are_those_of_rounded_operands(environment: dict[str, str]) -> None:
    subprocess.run(
        [sys.executable, "-c", PRODUCTS],
        env=environment | {"PYTHONPATH": str(REPOSITORY / "tools")},
        check=True,
    )


@pytest.mark.slow
def test_a_command_runs_with_rounded_products(
    unoptimized: dict[str, str], tmp_path: Path
) -> None:
    """The loss differs from that of exact products, by little."""
    losses = []
    settings = "execution.precision=bfloat16 train.num_steps=3 model.hidden_size=16"
    flags = [f"--config.{setting}" for setting in settings.split()]
    for name, program in (("rounded", results.BFLOAT16), ("exact", "-m rnnmnist.main")):
        workdir = tmp_path / name
        argv = [*program.split(), *flags, f"--workdir={workdir}"]
        subprocess.run(
            [sys.executable, *argv], env=unoptimized, cwd=REPOSITORY, check=True
        )
        (result,) = (workdir / "evaluation").glob("test-*.json")
        losses.append(json.loads(result.read_text())["loss"])
    assert 1e-6 < abs(losses[0] - losses[1]) < 1e-2
