"""The programs as the compilers of accelerators see them: bounds on their cost.

They need a compiler, which `tox run -e tpu`, `cuda` and `colab-tpu` install.
"""

from importlib.metadata import PackageNotFoundError, version

import accelerators
import pytest
from accelerators import BOUNDS, CASES, PIXELS, Case

# Other communication between devices, and transfers from or to the host.
FORBIDDEN = (
    *("all-gather", "all-to-all", "collective-permute", "reduce-scatter"),
    *("infeed", "outfeed", "send", "recv"),
)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("target", "case"),
    [
        pytest.param(target, case, id=" ".join([target, *map(str, case)]))
        for target, cases in CASES.items()
        for case in cases
        if case not in PIXELS.values()  # which take minutes
    ],
)
def test_a_program_compiles_to_a_loop_on_the_device(target: str, case: Case) -> None:
    compiler = accelerators.COMPILERS[target]
    try:
        version(compiler)
    except PackageNotFoundError:
        pytest.skip(f"the compiler for {target} is not installed: {compiler}")
    devices = accelerators.find_devices(target)
    row, instructions = accelerators.compile_case(target, case, devices)
    assert instructions
    for instruction in instructions:
        assert not instruction.opcode.startswith(FORBIDDEN)
        assert "S(5)" not in instruction.text  # the memory of the host
        assert "callback" not in instruction.text
    # The gradients of shards, or whether the networks of other devices are finite. If
    # the batch has shards, their chunk needs the epoch of its first example.
    reductions = [
        instruction.trips
        for instruction in instructions
        if instruction.opcode in ("all-reduce", "all-reduce-start")
    ]
    shards = case.devices > 1, case.devices > case.config.num_seeds
    assert sum(reductions) == (sum(shards) if case.program == "train" else 0)
    if target == "v5e":  # the page says what has no estimate
        for instruction in instructions:
            if instruction.opcode == "fusion" and not instruction.estimated_cycles:
                assert "/gather" in instruction.text
    cost = row["estimated_cycles" if target == "v5e" else "kernels"]
    assert cost > 0
    if case == Case("train"):
        assert cost <= BOUNDS[target]
