"""Where the time of a training step goes, by Flax's cell and by our recurrence.

python benchmarks/profile_step.py
"""

import collections
import re
import tempfile
import time
import warnings
from pathlib import Path
from typing import Any

from run_ours import Trainer, make_config

STEPS, ROUNDS = 50, 5
KINDS = (
    "matrix products",
    "element-wise, forward",
    "element-wise, backward",
    "sum over devices",
    "drawing the batch",
    "optimizer",
    "the rest",
    "between operations",
)


def kind_of(name: str, origin: str) -> str:
    """The kind of an operation.

    Args:
        name: the compiled program's.
        origin: where in the traced program it comes from.
    """
    if name.startswith(("ynn_fusion", "dot", "onednn")):
        return "matrix products"
    if "psum" in name or "all-reduce" in name:
        return "sum over devices"
    for word, kind in (
        ("/update/", "optimizer"),
        ("/batch/", "drawing the batch"),
        ("transpose(jvp", "element-wise, backward"),
        ("jvp(", "element-wise, forward"),
    ):
        if word in origin:
            return kind
    return "the rest"


def profile(recurrence: str) -> dict[str, float]:
    """Milliseconds a step of each kind, in the mean of the devices, and of all."""
    import jax
    import numpy as np

    from rnnmnist.runtime.mesh import device_put, replicated
    from rnnmnist.training.step import train_steps

    trainer = Trainer(make_config(model={"recurrence": recurrence}))
    trainer.steps(STEPS)
    walls = []
    for _ in range(ROUNDS):
        begin = time.perf_counter()
        trainer.steps(STEPS)
        walls.append((time.perf_counter() - begin) / STEPS)
    number = device_put(np.int32(STEPS), replicated(trainer.mesh))
    program = train_steps.lower(
        trainer.state, trainer.split, number, mesh=trainer.mesh
    ).compile()
    found = re.findall(r'%([\w.\-]+) = .*op_name="([^"]*)"', program.as_text() or "")
    origins = dict(found)
    times: collections.Counter[str] = collections.Counter()
    with tempfile.TemporaryDirectory() as folder:
        with jax.profiler.trace(folder):
            trainer.steps(STEPS)
        (path,) = Path(folder).rglob("*.xplane.pb")
        for event in events(path):
            name = event["hlo_op"]
            # These hold others.
            if not name.startswith(("while", "call", "conditional")):
                kind = kind_of(name, origins.get(name, ""))
                times[kind] += event["nanoseconds"]
    scale = 1e6 * STEPS * trainer.mesh.size
    result = {kind: times[kind] / scale for kind in KINDS[:-1]}
    wall = 1e3 * sorted(walls)[ROUNDS // 2]
    return result | {KINDS[-1]: wall - sum(result.values()), "a step": wall}


def events(path: Path) -> list[dict[str, Any]]:
    """The operations that a trace has seen."""
    import jax

    found = []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of a type without a module
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
    columns = {name: profile(name) for name in ("flax", "fused")}
    print("| ms a step of 128, on each device | flax, before | fused, after |")
    print("| --- | --- | --- |")
    for kind in (*KINDS, "a step"):
        numbers = " | ".join(f"{column[kind]:.2f}" for column in columns.values())
        print(f"| {kind} | {numbers} |")


if __name__ == "__main__":
    main()
