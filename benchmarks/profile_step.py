"""Profiles a training step with Flax's LSTM cell and with rnnmnist's.

    python benchmarks/profile_step.py

Each has a process of its own, since the cell is a global of the package.
"""

import collections
import multiprocessing
import re
import tempfile
import time
import warnings
from pathlib import Path
from typing import Any

import jax
import numpy as np
from run_ours import Trainer, make_config, use_flax_cell
from speed_tables import table

from rnnmnist.runtime.mesh import device_put, replicated
from rnnmnist.training.step import train_steps

STEPS, ROUNDS = 50, 5
CELLS = ("flax", "rnnmnist")
KINDS = (
    "matrix products",
    "element-wise, forward",
    "element-wise, backward",
    "sum over devices",
    "batch selection",
    "optimizer",
    "other",
    "between operations",
)


def kind_of(name: str, origin: str) -> str:
    """Returns the kind of an operation.

    Args:
        name: its name in the compiled program.
        origin: its name stack in the traced program.
    """
    if name.startswith(("ynn_fusion", "dot", "onednn")):
        return "matrix products"
    if "psum" in name or "all-reduce" in name:
        return "sum over devices"
    for word, kind in (
        ("/update/", "optimizer"),
        ("/batch/", "batch selection"),
        ("transpose(jvp", "element-wise, backward"),
        ("jvp(", "element-wise, forward"),
    ):
        if word in origin:
            return kind
    return "other"


def profile(cell: str) -> dict[str, float]:
    """Returns the milliseconds per step of each kind, as a mean over the devices."""
    if cell == "flax":
        use_flax_cell()  # in the rest of this process

    trainer = Trainer(make_config())
    trainer.steps(STEPS)
    durations = []
    for _ in range(ROUNDS):
        begin = time.perf_counter()
        trainer.steps(STEPS)
        durations.append((time.perf_counter() - begin) / STEPS)
    number = device_put(np.int32(STEPS), replicated(trainer.mesh))
    chunk = trainer.batches.gather(0)
    compiled = train_steps.lower(
        trainer.state, chunk, number, program=trainer.program
    ).compile()
    pattern = r'%([\w.\-]+) = .*op_name="([^"]*)"'
    origins = dict(re.findall(pattern, compiled.as_text() or ""))
    times: collections.Counter[str] = collections.Counter()
    with tempfile.TemporaryDirectory() as folder:
        with jax.profiler.trace(folder):
            trainer.steps(STEPS)
        (path,) = Path(folder).rglob("*.xplane.pb")
        for event in events(path):
            name = event["hlo_op"]
            # These contain other operations.
            if not name.startswith(("while", "call", "conditional")):
                kind = kind_of(name, origins.get(name, ""))
                times[kind] += event["nanoseconds"]
    scale = 1e6 * STEPS * trainer.mesh.size
    result = {kind: times[kind] / scale for kind in KINDS[:-1]}
    step = 1e3 * sorted(durations)[ROUNDS // 2]
    return result | {KINDS[-1]: step - sum(result.values()), "whole step": step}


def events(path: Path) -> list[dict[str, Any]]:
    """Reads the operations of a trace."""
    found = []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a deprecated extension type of jax
        for plane in jax.profiler.ProfileData.from_file(str(path)).planes:
            for line in plane.lines:
                for event in line.events:
                    stats = dict(event.stats)
                    if "hlo_op" in stats:
                        stats["nanoseconds"] = event.duration_ns
                        found.append(stats)
    return found


def main() -> None:
    """Prints the table."""
    spawn = multiprocessing.get_context("spawn")
    with spawn.Pool(1, maxtasksperchild=1) as pool:
        columns = pool.map(profile, CELLS, chunksize=1)
    rows = [
        [kind, *(f"{column[kind]:.2f}" for column in columns)]
        for kind in (*KINDS, "whole step")
    ]
    header = ("ms per step of 128, on each device", *CELLS)
    print(table("Profile", header, rows), end="")


if __name__ == "__main__":
    main()
