"""Measures what more devices, processes, images a step and seeds bring on a CPU.

    python tools/scaling.py measure
    python tools/scaling.py table

`measure` runs every case in a process of its own, all cases in turn for several
rounds, and writes docs/scaling.json; `table` renders it between the markers in
docs/scaling.md. Every case trains the network of configs/default.py by the real
training step, on noise. A device beyond the cores is a simulated one.
"""

import argparse
import json
import os
import platform
import socket
import statistics
import subprocess
import sys
import time
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple

from rnnmnist.runtime.hardware import hardware

REPOSITORY = Path(__file__).resolve().parent.parent
PAGE, NUMBERS = REPOSITORY / "docs/scaling.md", REPOSITORY / "docs/scaling.json"
SECONDS = 2.0  # of training that are timed in each process
SUMS = 200  # all-reduces that are timed together
EXAMPLES = 4_000


class Case(NamedTuple):
    """Something to measure: processes that train together, or each for itself."""

    batch_size: int
    devices: int  # of all processes together
    processes: int = 1
    separate: bool = False  # each process is a run of its own
    pinned: bool = False  # each process keeps to a core of its own
    seeds: int = 1  # in one program

    @property
    def name(self) -> str:
        """As the page calls it."""
        where = ", a core each" if self.pinned else ""
        if self.separate:
            return f"{self.processes} runs of one device at the same time{where}"
        devices = f"{self.devices} device{'s' if self.devices > 1 else ''}"
        if self.processes > 1:
            devices += f" of {self.processes} processes{where}"
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


def work(case: Case, address: str | None, index: int) -> None:
    """A process of a case: trains, sums, and prints how long both took, as JSON."""
    import jax

    from rnnmnist.config.command_line import ProcessSpec
    from rnnmnist.runtime.distributed import count, initialize
    from rnnmnist.runtime.mesh import make_mesh, set_cpu_devices

    if case.pinned:
        os.sched_setaffinity(0, {sorted(os.sched_getaffinity(0))[index]})
    place = (
        ProcessSpec(None, 1)
        if address is None
        else ProcessSpec(address, case.processes, index)
    )
    with initialize(place):
        set_cpu_devices(case.batch_size, case.devices, case.seeds, count())
        mesh = make_mesh(case.batch_size, case.devices, case.seeds)
        seconds = seconds_a_step(case, mesh)
        size, sum_seconds = seconds_a_sum(mesh)
    numbers = {"step": seconds, "sum": sum_seconds, "floats": size}
    if jax.device_count() != case.devices:
        raise RuntimeError(f"{jax.device_count()} devices, not {case.devices}")
    print(json.dumps(numbers))


def seconds_a_step(case: Case, mesh: Any) -> float:
    """The median over chunks of the seconds that an update of all seeds takes."""
    import jax
    import numpy as np

    from rnnmnist.config.schema import Config, DataConfig, TrainConfig
    from rnnmnist.data.batches import TrainingSplit
    from rnnmnist.models.classifier import make_model
    from rnnmnist.runtime.mesh import device_put, replicated
    from rnnmnist.training.preflight import noise
    from rnnmnist.training.state import create_state
    from rnnmnist.training.step import train_steps

    config = Config(
        num_seeds=case.seeds,
        data=DataConfig(name="mnist5k"),
        train=TrainConfig(batch_size=case.batch_size),
    )
    split = TrainingSplit.device_put(noise(EXAMPLES), config, mesh)
    state = create_state(config, make_model(config.model), mesh)
    # Of equal length on all processes, so that they stay together.
    images = case.seeds * case.batch_size
    chunk = max(1, 2560 // images)
    times = []
    for _ in range(1 + int(SECONDS * 10_000 / (chunk * images))):
        begin = time.perf_counter()
        steps = device_put(np.int32(chunk), replicated(mesh))
        state, metrics = train_steps(state, split, steps, mesh=mesh)
        jax.block_until_ready(metrics)
        times.append((time.perf_counter() - begin) / chunk)
    return statistics.median(times[1:])  # the first one compiles


def seconds_a_sum(mesh: Any) -> tuple[int, float]:
    """The length of the vector that an update sums over devices, and the seconds."""
    import jax
    import jax.numpy as jnp
    from jax.sharding import PartitionSpec as P

    from rnnmnist.config.schema import Config
    from rnnmnist.models.classifier import abstract_params, count_params, make_model
    from rnnmnist.runtime.mesh import BATCH, replicated

    model = make_model(Config().model)
    size = count_params(abstract_params(model, replicated(mesh))) + 2

    def one_shard(vector: jax.Array) -> jax.Array:
        def again(_: int, vector: jax.Array) -> jax.Array:
            return jax.lax.psum(vector, BATCH) / mesh.shape[BATCH]

        return jax.lax.fori_loop(0, SUMS, again, vector)

    sums = jax.jit(
        jax.shard_map(
            one_shard, mesh=mesh, in_specs=P(), out_specs=P(), check_vma=False
        )
    )
    vector = jax.jit(lambda: jnp.ones(size))()
    jax.block_until_ready(sums(vector))
    begin = time.perf_counter()
    jax.block_until_ready(sums(vector))
    return size, (time.perf_counter() - begin) / SUMS


def measure_once(case: Case) -> dict[str, float]:
    """Runs a case's processes to their end.

    Returns:
        Images a second, of all together; seconds a step and a sum of the first.
    """
    address = None
    if case.processes > 1 and not case.separate:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            address = f"127.0.0.1:{probe.getsockname()[1]}"
    # The first of several prints; where each is a run of its own, all do.
    processes = [
        subprocess.Popen(
            [sys.executable, __file__, "work", json.dumps([case, address, index])],
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            cwd=REPOSITORY,
        )
        for index in range(case.processes)
    ]
    outputs = [process.communicate()[0] for process in processes]
    if any(process.returncode for process in processes):
        raise RuntimeError(f"{case.name} has failed")
    found = [json.loads(text.splitlines()[-1]) for text in outputs if text]
    return {
        "images_per_second": sum(
            case.seeds * case.batch_size / numbers["step"] for numbers in found
        ),
        "step": found[0]["step"],
        "sum": found[0]["sum"],
        "floats": found[0]["floats"],
    }


def measure(rounds: int) -> dict[str, Any]:
    """All cases in turn, so that a slow minute of the machine meets all of them."""
    cases = list(dict.fromkeys(case for group in CASES.values() for case in group))
    found: dict[Case, list[dict[str, float]]] = {case: [] for case in cases}
    for number in range(rounds):
        for case in cases:
            numbers = measure_once(case)
            found[case].append(numbers)
            print(f"{number + 1}/{rounds}  {case.name}: {numbers}", flush=True)
    packages = ("jax", "flax", "optax", "numpy")
    return {
        "command": f"python tools/scaling.py measure --rounds={rounds}",
        "hardware": hardware(),
        "versions": {"python": platform.python_version()}
        | {package: version(package) for package in packages},
        "floats": found[ONE][0]["floats"],
        "cases": {case.name: found[case] for case in cases},
    }


def spread(values: Sequence[float], form: str) -> str:
    """The median, and from where to where."""
    middle, low, high = statistics.median(values), min(values), max(values)
    return f"{middle:{form}} ({low:{form}} to {high:{form}})"


def table(document: dict[str, Any]) -> str:
    """The page's tables: medians over the rounds, with the smallest and largest."""
    parts = []
    for group, cases in CASES.items():
        rows = [
            "| what | images/s | against the first row | ms a step | ms a sum |",
            "| --- | --- | --- | --- | --- |",
        ]
        first = document["cases"][cases[0].name]
        for case in cases:
            rounds = document["cases"][case.name]
            ratios = [
                one["images_per_second"] / other["images_per_second"]
                for one, other in zip(rounds, first, strict=True)
            ]
            speeds = spread([one["images_per_second"] for one in rounds], ",.0f")
            steps = spread([1000 * one["step"] for one in rounds], ".2f")
            sums = spread([1000 * one["sum"] for one in rounds], ".2f")
            rows.append(
                f"| {case.name} | {speeds} | {spread(ratios, '.2f')} | {steps} | "
                f"{sums if case.devices > 1 else ''} |"
            )
        parts.append("\n".join([f"**{group.capitalize()}**", "", *rows]))
    versions = ", ".join(
        f"{name} {text}" for name, text in document["versions"].items()
    )
    rounds = len(next(iter(document["cases"].values())))
    parts.append(
        f"On {document['hardware']}; {versions}; medians of {rounds} rounds in turn, "
        f"with the smallest and the largest: `{document['command']}`."
    )
    return "\n\n".join(parts) + "\n"


def rendered(page: str) -> str:
    """The page with the tables between its markers."""
    begin, end = "<!-- scaling -->\n", "<!-- /scaling -->"
    before, rest = page.split(begin)
    document = json.loads(NUMBERS.read_text())
    return before + begin + table(document) + end + rest.split(end, 1)[1]


def main() -> None:
    """Parses the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    commands = parser.add_subparsers(dest="command", required=True)
    measuring = commands.add_parser("measure")
    measuring.add_argument("--rounds", type=int, default=7)
    commands.add_parser("table")
    commands.add_parser("work").add_argument("what")
    arguments = parser.parse_args()
    if arguments.command == "work":
        case, address, index = json.loads(arguments.what)
        work(Case(*case), address, index)
    elif arguments.command == "measure":
        NUMBERS.write_text(json.dumps(measure(arguments.rounds), indent=1) + "\n")
    else:
        PAGE.write_text(rendered(PAGE.read_text()))


if __name__ == "__main__":
    main()
