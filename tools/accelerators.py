"""Compiles the programs for accelerators, without having one, and counts their cost.

    python tools/accelerators.py v5e h100 t4

Compiles training and evaluation for the named targets, and replaces their rows in
results/accelerators.json. No accelerator is needed, only the packages that contain the
compilers: `jax[tpu]` for v5e, `jax[cuda12]` for h100 and t4. In an environment with
Colab's versions, it replaces Colab's rows of v5e.

For a TPU, the compiler estimates the cycles of every instruction. For a GPU, the
instructions that launch kernels are counted. Nothing is executed.
"""

import argparse
import datetime
import json
import math
import os
import re
import time
from collections.abc import Collection, Iterator
from importlib import metadata
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import page_tables
from jax.experimental import topologies
from jax.sharding import AxisType, Mesh, NamedSharding

from rnnmnist.config.platforms import Execution
from rnnmnist.config.schema import Config
from rnnmnist.data.batches import SHARDED, Batch, Chunk, gather_batches
from rnnmnist.data.image_sets import image_task
from rnnmnist.data.placement import chunk_updates
from rnnmnist.evaluation.predictions import predict_batches
from rnnmnist.main import parse
from rnnmnist.runtime.machine import installed_versions
from rnnmnist.runtime.mesh import BATCH, SEEDS
from rnnmnist.training.state import (
    STATE_SPECS,
    Program,
    abstract_state,
    evaluated_trees,
)
from rnnmnist.training.step import train_steps

REPOSITORY = Path(__file__).resolve().parent.parent
NUMBERS = REPOSITORY / "results/accelerators.json"
COLAB = REPOSITORY / "tests/constraints/colab-2026-08.txt"
# The environment of the TPU compiler, without which it looks for a TPU and lets only
# one process load it.
TPU = {
    "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",
    "TPU_SKIP_MDS_QUERY": "1",
    "TPU_ACCELERATOR_TYPE": "v5litepod-4",
    "TPU_WORKER_HOSTNAMES": "localhost",
}
# XLA's GpuTargetConfigProto: what the compiler has to know of a GPU.
GPU = """
gpu_device_info {{
  threads_per_block_limit: 1024 threads_per_warp: 32
  shared_memory_per_block: 49152 shared_memory_per_core: {shared_memory}
  shared_memory_per_block_optin: {shared_memory_optin}
  threads_per_core_limit: {threads} core_count: {cores} fpus_per_core: {fpus}
  block_dim_limit_x: 2147483647 block_dim_limit_y: 65535 block_dim_limit_z: 65535
  memory_bandwidth: {bandwidth} l2_cache_size: {l2_cache} clock_rate_ghz: {clock}
  device_memory_size: {memory}
  cuda_compute_capability {{ major: {major} minor: {minor} }}
  registers_per_core_limit: 65536 registers_per_block_limit: 65536
}}
platform_name: "CUDA"
dnn_version_info {{ major: 9 minor: 8 patch: 0 }}
runtime_version {{ major: 12 minor: 8 patch: 0 }}
device_description_str: "{name}"
"""
H100 = GPU.format(
    **{"name": "NVIDIA H100 80GB HBM3", "major": 9, "minor": 0},
    **{"cores": 132, "fpus": 128, "threads": 2048, "clock": 1.98},
    **{"shared_memory": 233_472, "shared_memory_optin": 232_448},
    **{"memory": 84_978_434_048, "bandwidth": 3_352_320_000_000},
    l2_cache=52_428_800,
)
T4 = GPU.format(
    **{"name": "Tesla T4", "major": 7, "minor": 5},
    **{"cores": 40, "fpus": 64, "threads": 1024, "clock": 1.59},
    **{"shared_memory": 65_536, "shared_memory_optin": 65_536},
    **{"memory": 15_655_829_504, "bandwidth": 320_064_000_000},
    l2_cache=4_194_304,
)
TARGETS = {"v5e": "TPU v5e", "h100": "H100", "t4": "T4"}
# The distribution that contains the compiler of a target.
COMPILERS = {"v5e": "libtpu", "h100": "jax-cuda12-plugin", "t4": "jax-cuda12-plugin"}
# The most cycles or kernels of the default training step on one device. They leave some
# room for the compilers of other versions.
BOUNDS = {"v5e": 400_000, "h100": 300, "t4": 300}


def find_devices(target: str) -> list[Any]:
    """Returns the devices of a target's topology, for compilation only.

    Configures jax and the environment of this process. Fails without the compiler.
    """
    jax.config.update("jax_platforms", "cpu")  # do not look for an accelerator
    jax.config.update("jax_enable_compilation_cache", False)
    if target == "v5e":
        os.environ.update(TPU)
        topology = topologies.get_topology_desc(platform="tpu", topology_name="v5e:2x2")
    else:
        topology = topologies.get_topology_desc(
            platform="cuda",
            topology_name="",
            topology="1x1x1",
            target_config={"h100": H100, "t4": T4}[target],
        )
    return list(topology.devices)


IMAGE = (28, 28)
TRIPS = re.compile(r'"known_trip_count":{"n":"(\d+)"}')


class Case(NamedTuple):
    """A program to compile, and what differs from the default one as KEY=VALUE."""

    program: str  # train: one update; evaluate: one batch
    settings: tuple[str, ...] = ()  # of configs/default.py
    execution: tuple[str, ...] = ()  # of the platform's `Execution`
    devices: int = 1

    @classmethod
    def of_row(cls, row: dict[str, Any]) -> "Case":
        """Returns the case of a row of results/accelerators.json."""
        settings, execution = row["settings"], row.get("execution", ())
        return cls(row["program"], tuple(settings), tuple(execution), row["devices"])

    @property
    def config(self) -> Config:
        """The configuration."""
        flags = [f"--config.{setting}" for setting in self.settings]
        return parse(["--config=default", *flags]).config

    def execution_on(self, platform: str) -> Execution:
        """Returns how the program executes on a platform."""
        pairs = (text.split("=") for text in self.execution)
        changes = {name: json.loads(value) for name, value in pairs}
        return Execution.create(self.config, platform)._replace(**changes)


# The programs, on each number of devices of a target.
PROGRAMS = (
    Case("train"),
    Case("train", ("train.batch_size=1024",)),
    Case("train", ("num_seeds=8",)),
    Case("train", ("execution.precision=float32",)),
    Case("train", execution=("unroll=1",)),
    Case("evaluate"),
    Case("evaluate", ("num_seeds=8",)),
)
CASES = {
    target: [case._replace(devices=devices) for devices in counts for case in PROGRAMS]
    for target, counts in {"v5e": (1, 4), "h100": (1,), "t4": (1,)}.items()
}
# Training at 784 time steps, with the sizes of benchmarks/long_sequences.py.
LRU = "model.cell=lru model.hidden_size=64 model.num_layers=3"
SEQUENTIAL = ("parallel_scan=false",)


def pixels(settings: str, execution: tuple[str, ...] = ()) -> Case:
    """Returns the training that reads a pixel per time step, with some settings."""
    return Case("train", ("data.view=pixels", *settings.split()), execution)


PIXELS = {
    "`lstm`": pixels(""),
    "`mingru`": pixels("model.cell=mingru model.hidden_size=64 model.num_layers=4"),
    "`lru`": pixels(LRU),
    "`lru`, sequential scan, one block": pixels(
        f"{LRU} execution.remat_steps=784", SEQUENTIAL
    ),
    "`lru`, sequential scan, blocks of 28 time steps": pixels(
        f"{LRU} execution.remat_steps=28", SEQUENTIAL
    ),
}
CASES |= {target: [*CASES[target], *PIXELS.values()] for target in ("v5e", "h100")}


def lower(case: Case, devices: list[Any]) -> list[jax.stages.Lowered]:
    """Lowers a program for some devices, with abstract arrays of MNIST's shapes.

    The program that gathers a chunk follows that of `train`.
    """
    config = case.config
    task = image_task(config.data)
    mesh = Mesh(
        np.array(devices[: case.devices]).reshape(_grid(case)),
        (SEEDS, BATCH),
        axis_types=(AxisType.Auto,) * 2,
    )
    execution = case.execution_on(devices[0].platform)
    program = Program.create(config, task, mesh, execution)
    state = _place(abstract_state(config, program), STATE_SPECS, mesh)

    def array(shape: tuple[int, ...], dtype: Any, spec: jax.P) -> Any:
        return _place(jax.ShapeDtypeStruct(shape, dtype), spec, mesh)

    if case.program == "evaluate":
        size = execution.eval_batch_size * mesh.shape[BATCH]
        count = -(-task.examples["test"] // size)
        images = array((count, size, *IMAGE), jnp.uint8, jax.P(None, BATCH))
        params = evaluated_trees.eval_shape(state, model=program.model)
        evaluation = predict_batches.lower(
            _place(params, jax.P(SEEDS), mesh),
            (images, None),
            model=program.model,
            view=program.transform.view,
            mesh=mesh,
            every_step=False,
        )
        return [evaluation]

    def examples(count: tuple[int, ...], spec: jax.P) -> Batch:
        images = array((*count, math.prod(IMAGE)), jnp.uint8, spec)
        return Batch(images, array(count, jnp.int32, spec), None)

    seeds = array((config.num_seeds,), jnp.uint32, jax.P(SEEDS))
    number = array((), jnp.int32, jax.P())
    updates, batch_size = _updates(case), config.train.batch
    gather = gather_batches.lower(
        examples((task.examples["train"],), jax.P()),
        seeds,
        number,
        updates=updates,
        batch_size=batch_size,
        sharding=NamedSharding(mesh, SHARDED),
    )
    batches = examples((updates, config.num_seeds, batch_size), SHARDED)
    chunk = Chunk(batches, seeds, number)
    rates = array((updates,), jnp.float32, jax.P())
    return [train_steps.lower(state, chunk, rates, number, program=program), gather]


def _updates(case: Case) -> int:
    """Returns the number of updates in a chunk."""
    images = case.config.num_seeds * case.config.train.batch
    return chunk_updates(math.prod(IMAGE) * images)


def _grid(case: Case) -> tuple[int, int]:
    """Returns the shape of the mesh, as `make_mesh` chooses it."""
    seeds = math.gcd(case.devices, case.config.num_seeds)
    return seeds, case.devices // seeds


def _place(tree: Any, specs: Any, mesh: Mesh) -> Any:
    """Adds the shardings of a mesh to abstract arrays."""

    def place(spec: jax.P, part: Any) -> Any:
        sharding = NamedSharding(mesh, spec)
        return jax.tree.map(lambda leaf: leaf.update(sharding=sharding), part)

    return jax.tree.map(
        place, specs, tree, is_leaf=lambda node: isinstance(node, jax.P)
    )


class Instruction(NamedTuple):
    """An instruction of a compiled program."""

    opcode: str
    trips: int  # how often it is executed in one iteration of the outer loop
    text: str

    @property
    def estimated_cycles(self) -> int:
        """The cycles of all trips, by the estimate of the TPU compiler; 0 without."""
        found = re.search(r'"estimated_cycles":"(\d+)"', self.text)
        return self.trips * int(found[1]) if found else 0

    @property
    def kernels(self) -> int:
        """The kernels that all trips launch on a GPU."""
        started = self.opcode.removesuffix("-start")  # an asynchronous one
        return self.trips if started in ("fusion", "copy", "custom-call") else 0


def step_instructions(program: str) -> list[Instruction]:
    """Returns the instructions of one iteration of the outer loop of a program.

    Those of its condition, of inner loops and of called computations are included.

    Args:
        program: the text of an optimized HLO module whose entry has one loop.

    Raises:
        ValueError: if its entry has another number of loops, the trips of an inner
            loop are unknown, or there is a conditional.
    """
    computations = _computations(program)
    (loop,) = [line for line in computations["ENTRY"] if " while(" in line]
    # A loop of known trips does not compute its condition.
    roles = ["body"] if TRIPS.search(loop) else ["condition", "body"]
    return [
        instruction
        for role in roles
        for instruction in _walk(_called(role, loop), 1, computations)
    ]


def _walk(
    name: str, trips: int, computations: dict[str, list[str]]
) -> Iterator[Instruction]:
    for line in computations[name]:
        found = re.match(r"  (?:ROOT )?%?[\w.-]+ = .*? ([a-z][a-z-]*)\(", line)
        opcode = found[1] if found else ""
        yield Instruction(opcode, trips, line)
        if opcode == "conditional":
            raise ValueError(f"a branch has no known trips: {line.strip()[:80]}")
        if opcode == "while":
            count = _trips(line, computations)
            yield from _walk(_called("body", line), trips * count, computations)
        elif opcode in ("call", "call-start", "async-start"):
            for called in re.findall(r"(?:to_apply|calls)=%?([\w.-]+)", line):
                yield from _walk(called, trips, computations)


def _computations(program: str) -> dict[str, list[str]]:
    """Returns the lines of each computation, by name; the entry's name is ENTRY."""
    computations = {}
    for line in program.splitlines():
        if found := re.match(r"%?([\w.-]+) .*{$", line):
            lines = computations[found[1]] = list[str]()
        elif line.startswith("  "):
            lines.append(line)
    return computations


def _called(role: str, line: str) -> str:
    """Returns the name of a computation that an instruction calls."""
    (name,) = re.findall(rf"{role}=%?([\w.-]+)", line)
    return name


def _trips(line: str, computations: dict[str, list[str]]) -> int:
    """Returns the trips of a loop: as stated, or the bound in its condition.

    The counters of jax's scans start at 0 and increase by 1.
    """
    if found := TRIPS.search(line):
        return int(found[1])
    condition = "\n".join(computations[_called("condition", line)])
    bounds = re.findall(r"constant\((\d+)\)", condition)
    if len(bounds) != 1 or "direction=LT" not in condition:
        raise ValueError(f"a loop has no known trips: {line.strip()[:80]}")
    return int(bounds[0])


def compile_case(
    target: str, case: Case, devices: list[Any]
) -> tuple[dict[str, Any], list[Instruction]]:
    """Compiles a program.

    Returns:
        Its row of results/accelerators.json, and the instructions of a step. Those of
        `train` include the program that gathers a chunk, the row its share of the cost.
    """
    lowered = lower(case, devices)
    start = time.process_time()
    compiled = [program.compile() for program in lowered]
    seconds = time.process_time() - start
    memory: list[Any] = [program.memory_analysis() for program in compiled]
    step, *gather = [program.as_text() or "" for program in compiled]
    instructions = step_instructions(step)
    gathering = list[Instruction]()
    for text in gather:
        gathering += _walk("ENTRY", 1, _computations(text))
    config, platform = case.config, devices[0].platform
    execution = case.execution_on(platform)
    batch_size = {
        "train": config.train.batch,
        "evaluate": execution.eval_batch_size * _grid(case)[1],
    }
    cost = "estimated_cycles" if platform == "tpu" else "kernels"
    total = sum(getattr(one, cost) for one in instructions)
    total += math.ceil(sum(getattr(one, cost) for one in gathering) / _updates(case))
    compiler = COMPILERS[target]
    row = {
        "target": target,
        "date": datetime.date.today().isoformat(),
        "devices": case.devices,
        "program": case.program,
        "batch_size": batch_size[case.program],
        "num_seeds": config.num_seeds,
        "precision": execution.precision,
        "settings": list(case.settings),
        "versions": installed_versions() | {compiler: metadata.version(compiler)},
        "compile_seconds": round(seconds, 1),
        "temporary_bytes": max(one.temp_size_in_bytes for one in memory),
        cost: total,
    }
    if case.execution:
        row["execution"] = list(case.execution)
    return row, instructions + gathering


def is_colab(row: dict[str, Any]) -> bool:
    """Whether a row was measured with the versions of Colab."""
    return f"jax=={row['versions']['jax']}\n" in COLAB.read_text()


def measure(target: str) -> None:
    """Compiles all cases of a target and replaces their rows."""
    devices = find_devices(target)
    new = []
    for case in CASES[target]:
        row, _ = compile_case(target, case, devices)
        new.append(row)
        print(json.dumps(row), flush=True)

    def place(row: dict[str, Any]) -> tuple[bool, int]:
        return is_colab(row), list(TARGETS).index(row["target"])

    rows = json.loads(NUMBERS.read_text())
    kept = [row for row in rows if place(row) != place(new[0])]
    NUMBERS.write_text(json.dumps(sorted(kept + new, key=place), indent=1) + "\n")


def table(targets: Collection[str], cost: str) -> str:
    """Returns a table of the rows of some targets, without those of `PIXELS`."""
    title = cost.removeprefix("estimated_")
    header = ["target", "jax", "devices", "program", "batch", "settings", "products"]
    header += [title, f"{title} per image", "compiled in", "temporary"]
    lines, dates = [], set()
    for row in json.loads(NUMBERS.read_text()):
        case = Case.of_row(row)
        is_slice = is_colab(row) and row["devices"] > 1  # Colab's TPU is one chip
        if row["target"] not in targets or case in PIXELS.values() or is_slice:
            continue
        dates.add(row["date"])
        images = row["num_seeds"] * row["batch_size"] / row["devices"]
        per_image = row[cost] / images
        lines.append(
            [
                *(TARGETS[row["target"]], row["versions"]["jax"], str(row["devices"])),
                *(row["program"], f"{row['batch_size']:,}"),
                ", ".join(f"`{change}`" for change in case.settings + case.execution),
                *(row["precision"], f"{row[cost]:,}"),
                f"{per_image:,.0f}" if per_image > 100 else f"{per_image:.2f}",
                f"{row['compile_seconds']:.0f} s",
                f"{row['temporary_bytes'] / 2**20:.0f} MiB",
            ]
        )
    days = " and ".join(sorted(dates))
    return f"{page_tables.table(header, lines)}\nCompiled on {days}.\n"


def table_at_784_steps() -> str:
    """Returns the table of `PIXELS`, with the newest versions."""
    rows = [row for row in json.loads(NUMBERS.read_text()) if not is_colab(row)]
    costs = {(row["target"], Case.of_row(row)): row for row in rows}
    lines = []
    for name, case in PIXELS.items():
        cycles = costs["v5e", case]["estimated_cycles"]
        kernels = costs["h100", case]["kernels"]
        lines.append([name, f"{cycles / 1e6:.1f}", f"{kernels:,}"])
    header = ["recurrence", "TPU v5e, million cycles", "H100, kernels"]
    version, date = rows[0]["versions"]["jax"], rows[0]["date"]
    source = f"With the compilers of jax {version}, on {date}."
    return f"{page_tables.table(header, lines)}\n{source}\n"


def main() -> None:
    """Parses the command line and measures."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("targets", nargs="+", choices=list(TARGETS))
    for target in parser.parse_args().targets:
        measure(target)


if __name__ == "__main__":
    main()
