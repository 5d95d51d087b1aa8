"""Rounds the operands of matrix products as a TPU does, on a CPU.

    python tools/bfloat16.py run rnnmnist.main --config.execution.precision=bfloat16
    python tools/bfloat16.py compare --data=FOLDER

With `execution.precision=bfloat16`, a TPU rounds the operands of each product to
bfloat16 and adds in float32. A CPU ignores the setting. `run` runs a command with
products that round as a TPU's do, forward and backward. `compare` prints how much the
logits of the shipped reference model differ between both precisions on the validation
images of MNIST; FOLDER contains `mnist/`, with the original files.
"""

import argparse
import importlib
import sys
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax.extend.mlir import ir
from jax.extend.mlir.dialects import stablehlo
from jax.interpreters import mlir

from rnnmnist import cli
from rnnmnist.config.files import REFERENCES, shipped_folder
from rnnmnist.data import datasets
from rnnmnist.evaluation.network import TrainedNetwork


def round_operands() -> None:
    """Makes programs compiled from now on round as a TPU does."""
    mlir.register_lowering(jax.lax.dot_general_p, _lower, platform="cpu")


def _lower(
    ctx: Any, lhs: Any, rhs: Any, *, dimension_numbers: Any, precision: Any, **_: Any
) -> list[Any]:
    """Lowers a product; one of default precision takes rounded operands."""
    (contracting, batch), default = dimension_numbers, jax.lax.Precision.DEFAULT
    if precision in (None, (default, default)):
        lhs, rhs = _round(lhs), _round(rhs)
    dimensions = stablehlo.DotDimensionNumbers.get(*batch, *contracting)
    result = ir.RankedTensorType.get(ctx.avals_out[0].shape, ir.F32Type.get())
    return [stablehlo.dot_general(result, lhs, rhs, dimensions)]


def _round(array: Any) -> Any:
    """Rounds the elements of an array to bfloat16."""
    shape = ir.RankedTensorType(array.type).shape
    return stablehlo.convert(ir.RankedTensorType.get(shape, ir.BF16Type.get()), array)


def compare(data: Path) -> None:
    """Prints the differences between the logits of both precisions."""
    round_operands()
    network = TrainedNetwork(shipped_folder(REFERENCES[0]), "best")
    config = network.config.replace({"data.manual_dir": str(data / "mnist")})
    examples = datasets.load(config.data).splits["validation"]
    logits = []
    for precision in ("float32", "bfloat16"):
        execution = network.model.execution._replace(precision=precision)
        network.model = network.model.clone(execution=execution)
        logits.append(network.logits(examples)[0])
    exact, rounded = logits
    difference = np.abs(exact - rounded).max(axis=-1)
    changed = int((exact.argmax(-1) != rounded.argmax(-1)).sum())
    print(
        f"{len(exact):,} validation images: the logits, of standard deviation "
        f"{exact.std():.1f}, differ by {np.median(difference):.3f} in the median image "
        f"and {difference.max():.3f} at most; {changed} predictions differ"
    )


def main() -> None:
    """Parses the command line and runs a subcommand."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    commands = parser.add_subparsers(dest="command", required=True)
    running = commands.add_parser("run")
    running.add_argument("module")
    running.add_argument("args", nargs=argparse.REMAINDER)
    comparing = commands.add_parser("compare")
    comparing.add_argument("--data", type=Path, required=True)
    args = parser.parse_args()
    if args.command == "compare":
        compare(args.data)
        return
    round_operands()
    sys.argv = [args.module, *args.args]
    cli.run(importlib.import_module(args.module).main)


if __name__ == "__main__":
    main()
