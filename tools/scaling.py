"""Measures training speed over devices, processes, batch sizes and seeds on a CPU.

    python tools/scaling.py measure
    python tools/scaling.py table

`measure` runs every case in processes of its own, for several rounds, and writes
docs/scaling.json; `table` renders it between the markers of docs/scaling.md. A case
runs the training step of configs/default.py on noise. Devices beyond the cores are
simulated.
"""

import argparse
import json
import os
import socket
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any, NamedTuple

from rnnmnist.reporting import markdown
from rnnmnist.runtime.machine import (
    describe_processor,
    installed_versions,
    join_versions,
)

REPOSITORY = Path(__file__).resolve().parent.parent
PAGE, NUMBERS = REPOSITORY / "docs/scaling.md", REPOSITORY / "docs/scaling.json"
SECONDS = 2.0  # of timed training in each process
REPEATS = 200  # all-reduces that are timed together


class Case(NamedTuple):
    """A configuration to measure."""

    batch_size: int
    devices: int  # of all processes together
    processes: int = 1
    separate: bool = False  # each process is a run of its own
    pinned: bool = False  # each process has one core
    seeds: int = 1  # in one program

    @property
    def name(self) -> str:
        """The first column of the tables."""
        cores = ", one core each" if self.pinned else ""
        if self.separate:
            return f"{self.processes} concurrent runs on one device each{cores}"
        devices = f"{self.devices} device{'s' if self.devices > 1 else ''}"
        if self.processes > 1:
            devices += f" of {self.processes} processes{cores}"
        seeds = f"{self.seeds} seeds on " if self.seeds > 1 else ""
        return f"{seeds}{devices}, batch {self.batch_size}"


ONE, TWO = Case(128, 1), Case(128, 2)
CASES = {
    "devices": [
        *(ONE, TWO, Case(128, 4), Case(128, 8)),
        Case(128, 2, processes=2),
        Case(128, 2, processes=2, pinned=True),
    ],
    "batch": [Case(size, 2) for size in (32, 128, 512, 2048)],
    "seeds": [
        *(ONE, TWO, Case(128, 1, 2, separate=True, pinned=True)),
        *(Case(128, devices, seeds=2) for devices in (1, 2)),
        Case(128, 2, seeds=8),
    ],
}


def run_process(case: Case, address: str | None, index: int) -> None:
    """Runs one process of a case and prints its timings as JSON."""
    import jax

    from rnnmnist.runtime.distributed import initialize, process_count
    from rnnmnist.runtime.mesh import make_mesh, set_cpu_devices
    from rnnmnist.runtime.processes import ProcessSpec

    if case.pinned:
        os.sched_setaffinity(0, {sorted(os.sched_getaffinity(0))[index]})
    spec = ProcessSpec(None, 1)
    if address is not None:
        spec = ProcessSpec(address, case.processes, index)
    with initialize(spec):
        set_cpu_devices(case.batch_size, case.devices, case.seeds, process_count())
        mesh = make_mesh(case.batch_size, case.devices, case.seeds)
        step = time_step(case, mesh)
        size, all_reduce = time_all_reduce(mesh)
    if jax.device_count() != case.devices:
        raise RuntimeError(f"{jax.device_count()} devices, not {case.devices}")
    print(json.dumps({"step": step, "all_reduce": all_reduce, "floats": size}))


def time_step(case: Case, mesh: Any) -> float:
    """Returns the seconds of an update of all seeds: the median over chunks."""
    import jax
    import numpy as np

    from rnnmnist.config.schema import Config, DataConfig, TrainConfig
    from rnnmnist.data.batches import TrainingSplit
    from rnnmnist.data.datasets import image_task
    from rnnmnist.data.views import View
    from rnnmnist.runtime.mesh import device_put, replicated
    from rnnmnist.training.preflight import noise
    from rnnmnist.training.state import create_state
    from rnnmnist.training.step import Program, train_steps

    config = Config(
        num_seeds=case.seeds,
        data=DataConfig(name="mnist5k"),
        train=TrainConfig(batch_size=case.batch_size),
    )
    task = image_task(config.data)  # of 4,000 images
    view = View.of(config.data, task)
    split = TrainingSplit.device_put(noise(task), view, config, mesh)
    program = Program.create(config, task, mesh)
    state = create_state(config, program.model, mesh)
    # All processes run the same number of steps, which keeps them in lockstep.
    images = case.seeds * case.batch_size
    chunk = max(1, 2560 // images)
    times = []
    for _ in range(1 + int(SECONDS * 10_000 / (chunk * images))):
        begin = time.perf_counter()
        steps = device_put(np.int32(chunk), replicated(mesh))
        state, sums = train_steps(state, split, steps, program=program)
        jax.block_until_ready(sums)
        times.append((time.perf_counter() - begin) / chunk)
    return statistics.median(times[1:])  # the first call compiles


def time_all_reduce(mesh: Any) -> tuple[int, float]:
    """Returns the size of the vector that a step sums over devices, and the seconds."""
    import jax
    import jax.numpy as jnp
    from jax.sharding import PartitionSpec as P

    from rnnmnist.config.schema import Config
    from rnnmnist.data.datasets import image_task
    from rnnmnist.models.classifier import abstract_params, count_params
    from rnnmnist.runtime.mesh import BATCH
    from rnnmnist.training.step import Program

    config = Config()
    model = Program.create(config, image_task(config.data), mesh).model
    size = count_params(abstract_params(model)) + 2  # loss and correct predictions

    def one_shard(vector: jax.Array) -> jax.Array:
        def reduce(_: int, vector: jax.Array) -> jax.Array:
            return jax.lax.psum(vector, BATCH) / mesh.shape[BATCH]

        return jax.lax.fori_loop(0, REPEATS, reduce, vector)

    reduce_repeatedly = jax.jit(
        jax.shard_map(
            one_shard, mesh=mesh, in_specs=P(), out_specs=P(), check_vma=False
        )
    )
    vector = jax.jit(lambda: jnp.ones(size))()
    jax.block_until_ready(reduce_repeatedly(vector))
    begin = time.perf_counter()
    jax.block_until_ready(reduce_repeatedly(vector))
    return size, (time.perf_counter() - begin) / REPEATS


def measure_once(case: Case) -> dict[str, float]:
    """Runs the processes of a case.

    Returns:
        `images_per_second` of all processes together; the seconds of a `step` and of an
        `all_reduce`, and the `floats` of the latter, of the first process.
    """
    address = None
    if case.processes > 1 and not case.separate:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            address = f"127.0.0.1:{probe.getsockname()[1]}"
    processes = [
        subprocess.Popen(
            [sys.executable, __file__, "process", json.dumps([case, address, index])],
            stdout=subprocess.PIPE,
            text=True,
            cwd=REPOSITORY,
        )
        for index in range(case.processes)
    ]
    outputs = [process.communicate()[0] for process in processes]
    if any(process.returncode for process in processes):
        raise RuntimeError(f"{case.name} failed")
    # Of processes that train together, only process 0 prints.
    found = [json.loads(text.splitlines()[-1]) for text in outputs if text]
    images = case.seeds * case.batch_size
    return found[0] | {"images_per_second": sum(images / one["step"] for one in found)}


def measure(rounds: int) -> dict[str, Any]:
    """Measures all cases once per round, so that they share the machine's variation."""
    cases = list(dict.fromkeys(case for group in CASES.values() for case in group))
    found: dict[Case, list[dict[str, float]]] = {case: [] for case in cases}
    for number in range(rounds):
        for case in cases:
            found[case].append(measure_once(case))
            print(f"{number + 1}/{rounds}  {case.name}: {found[case][-1]}", flush=True)
    return {
        "command": f"python tools/scaling.py measure --rounds={rounds}",
        "hardware": describe_processor(),
        "versions": installed_versions(),
        "floats": found[ONE][0]["floats"],
        "cases": {case.name: found[case] for case in cases},
    }


def tables(measured: dict[str, Any]) -> str:
    """Returns the page's tables: medians over the rounds, with minimum and maximum."""
    parts = []
    for group, cases in CASES.items():
        baseline = measured["cases"][cases[0].name]
        parts.append(
            f"**{group.capitalize()}**\n\n"
            + markdown.table(
                ("case", "images/s", "relative to row 1", "ms/step", "ms/all-reduce"),
                [row(case, measured["cases"][case.name], baseline) for case in cases],
            )
        )
    libraries = join_versions(measured["versions"])
    rounds = len(next(iter(measured["cases"].values())))
    parts.append(
        f"On {measured['hardware']}; {libraries}; medians over {rounds} rounds, with "
        f"minimum and maximum: `{measured['command']}`.\n"
    )
    return "\n".join(parts)


def row(
    case: Case, rounds: list[dict[str, float]], baseline: list[dict[str, float]]
) -> list[str]:
    """Returns the row of a case; ratios are taken round by round."""
    speeds = [one["images_per_second"] for one in rounds]
    ratios = [
        speed / other["images_per_second"]
        for speed, other in zip(speeds, baseline, strict=True)
    ]
    steps = [1000 * one["step"] for one in rounds]
    reduces = [1000 * one["all_reduce"] for one in rounds]
    return [
        case.name,
        markdown.median_and_range(speeds, ",.0f"),
        markdown.median_and_range(ratios, ".2f"),
        markdown.median_and_range(steps, ".2f"),
        markdown.median_and_range(reduces, ".2f") if case.devices > 1 else "",
    ]


def render(page: str) -> str:
    """Returns the page with its tables rendered anew."""
    return markdown.fill(page, "scaling", tables(json.loads(NUMBERS.read_text())))


def main() -> None:
    """Parses the command line and runs a subcommand."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    commands = parser.add_subparsers(dest="command", required=True)
    measuring = commands.add_parser("measure")
    measuring.add_argument("--rounds", type=int, default=7)
    commands.add_parser("table")
    commands.add_parser("process").add_argument("spec", help="JSON; used by measure")
    args = parser.parse_args()
    if args.command == "process":
        case, address, index = json.loads(args.spec)
        run_process(Case(*case), address, index)
    elif args.command == "measure":
        NUMBERS.write_text(json.dumps(measure(args.rounds), indent=1) + "\n")
    else:
        PAGE.write_text(render(PAGE.read_text()))


if __name__ == "__main__":
    main()
