"""The costs of programs on accelerators: their count, and what was measured."""

import json

import accelerators
import jax
import pytest
from accelerators import CASES, Case, step_instructions
from support import REPOSITORY, output_of, run_python

PROGRAM = """\
%rounds (p: (s32[], f32[8])) -> (s32[], f32[8]) {
  ROOT %f.1 = f32[8]{0} fusion(%p), calls=%fused, x={"estimated_cycles":"10"}
}
%more_rounds (p: (s32[], f32[8])) -> pred[] {
  %constant.6 = s32[]{:T(128)} constant(6)
  ROOT %lt.1 = pred[] compare(%i, %constant.6), direction=LT
}
%graph (p: f32[8]) -> f32[8] {
  %c.2 = f32[8]{0} custom-call(%p), custom_call_target="__cublas$gemm"
}
%more_steps (p: (s32[], f32[8])) -> pred[] {
  ROOT %f.3 = pred[] fusion(%p), kind=kLoop, calls=%fused
}
%step (p: (s32[], f32[8])) -> (s32[], f32[8]) {
  %f.2 = ((f32[8]), f32[8]) fusion-start(%p), calls=%f, x={"estimated_cycles":"1000"}
  %w.1 = (s32[], f32[8]{0}) while(%t), condition=%more_rounds, body=%rounds
  %w.2 = (s32[], f32[8]{0}) while(%t), body=%rounds, x={"known_trip_count":{"n":"28"}}
  %k = f32[8]{0} call(%p), to_apply=%graph
}
ENTRY %main (p: f32[8]) -> f32[8] {
  %before = f32[8]{0} fusion(%p), calls=%fused, x={"estimated_cycles":"5"}
  %w.3 = (s32[], f32[8]{0}) while(%t), condition=%more_steps, body=%step
}
"""


def test_loop_bodies_count_as_often_as_they_are_repeated() -> None:
    instructions = step_instructions(PROGRAM)
    assert sum(one.estimated_cycles for one in instructions) == 1000 + (6 + 28) * 10
    # Of the step, of its loops, and called.
    assert sum(one.kernels for one in instructions) == 2 + (6 + 28) + 1


@pytest.mark.parametrize("bound", ["direction=LT", "constant(6)"])
def test_unknown_trips_are_an_error(bound: str) -> None:
    with pytest.raises(ValueError, match="no known trips"):
        step_instructions(PROGRAM.replace(bound, "parameter(0)"))


def test_every_case_was_measured_with_its_current_settings() -> None:
    found = []
    for row in json.loads(accelerators.NUMBERS.read_text()):
        target = row["target"]
        case = Case.of_row(row)
        found.append((target, accelerators.is_colab(row), case))
        execution = case.execution_on("tpu" if target == "v5e" else "gpu")
        assert row["precision"] == execution.precision
        assert row["num_seeds"] == case.config.num_seeds
        if case.program == "train":
            assert row["batch_size"] == case.config.train.batch_size
        if case == Case("train"):
            cost = row.get("estimated_cycles") or row["kernels"]
            assert cost <= accelerators.BOUNDS[target]
    measured = [(target, False, case) for target in CASES for case in CASES[target]]
    measured += [("v5e", True, case) for case in CASES["v5e"]]
    assert sorted(found) == sorted(measured)


def test_training_is_lowered_with_the_shapes_of_mnist() -> None:
    case = Case("train", ("num_seeds=8",), devices=4)
    step, gather = accelerators.lower(case, jax.devices())
    assert "tensor<20x8x128x784xui8>" in step.as_text()
    assert "tensor<55000x784xui8>" in gather.as_text()


PRODUCTS = """
import functools, bfloat16, jax, ml_dtypes, numpy as np
bfloat16.round_operands()
exact = np.random.default_rng(0).normal(size=(3, 50, 50)).astype(np.float32)
rounded = exact.astype(ml_dtypes.bfloat16).astype(np.float32)
for precision, (x, y, z) in (("bfloat16", rounded), ("float32", exact)):
    matmul = functools.partial(jax.numpy.matmul, precision=precision)
    product, transposed = jax.vjp(matmul, *exact[:2])
    np.testing.assert_allclose(product, x @ y, rtol=0, atol=1e-4)
    np.testing.assert_allclose(transposed(exact[2])[0], z @ y.T, rtol=0, atol=1e-4)
"""


@pytest.mark.slow
def test_products_are_those_of_rounded_operands(environment: dict[str, str]) -> None:
    variables = environment | {"PYTHONPATH": str(REPOSITORY / "tools")}
    output_of(run_python("-c", PRODUCTS, environment=variables))
