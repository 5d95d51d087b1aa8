"""Measures the speed of rnnmnist, PyTorch and a plain Flax loop on this machine.

    python benchmarks/measure.py --data=FOLDER --peers=PYTHON

Writes benchmarks/results.json. FOLDER contains the four original MNIST files. PYTHON is
an interpreter with the packages of benchmarks/requirements.txt; the default is the
running interpreter.
"""

import argparse
import contextlib
import datetime
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from speed_tables import NUMBERS, PRODUCT_SIZE, TARGET_COUNTS, speeds
from worker import Recipe

from rnnmnist.config.files import load_config
from rnnmnist.config.resolving import resolve
from rnnmnist.data.image_datasets import image_task
from rnnmnist.runtime.machine import describe_processor, installed_versions

BENCHMARKS = Path(__file__).resolve().parent
REPOSITORY = BENCHMARKS.parent
OURS, FLAX, PYTORCH = "run_ours.py", "run_flax.py", "run_pytorch.py"
PEERS = {"Flax": FLAX, "PyTorch": PYTORCH}
RECIPES = {
    target: f"benchmarks/recipes/accuracy_{target.replace('.', '_')}.py"
    for target in TARGET_COUNTS
}
EPOCH_STEPS = 430  # 55,000 images in batches of 128
LONG_ROUNDS = 3  # for measurements that take a minute
PAUSE_SECONDS = 0.3  # for the threads of the previous worker to go to sleep
# Workers use only the CPU, with the default kernels of their libraries.
UNSET = {
    "OPENBLAS_CORETYPE",
    "OPENBLAS_L2_SIZE",
    "XLA_FLAGS",
    "JAX_COMPILATION_CACHE_DIR",
}
ENVIRONMENT = {
    name: value for name, value in os.environ.items() if name not in UNSET
} | {"JAX_PLATFORMS": "cpu", "CUDA_VISIBLE_DEVICES": ""}


class Worker(NamedTuple):
    """A process that repeats a task on request."""

    name: str
    script: str
    task: str
    settings: dict[str, Any]


PRODUCTS = (
    Worker("product, NumPy", OURS, "product_numpy", {"size": PRODUCT_SIZE}),
    Worker("product, PyTorch", PYTORCH, "product", {"size": PRODUCT_SIZE}),
    Worker("product, XLA", OURS, "product_xla", {"size": PRODUCT_SIZE}),
)


def read_json(process: subprocess.Popen[str]) -> dict[str, Any]:
    """Reads and parses the next line of a process's output."""
    assert process.stdout is not None
    content: dict[str, Any] = json.loads(process.stdout.readline())
    return content


def log_seconds(found: dict[str, list[float]], name: str, seconds: float) -> None:
    """Adds a measurement and prints it."""
    found.setdefault(name, []).append(seconds)
    print(f"{name}: {seconds:.2f} s", flush=True)


class Bench(NamedTuple):
    """The settings of a benchmark, and methods that run processes."""

    peers: str  # an interpreter with the peers' packages
    rounds: int
    data: str = ""
    seeds: int = 0

    def argv(self, script: str, task: str, settings: dict[str, Any]) -> list[str]:
        """Returns the command that runs a task in a script."""
        python = sys.executable if script in (OURS, FLAX) else self.peers
        return [python, str(BENCHMARKS / script), task, json.dumps(settings)]

    def train_argv(self, config: str, workdir: str, *overrides: str) -> list[str]:
        """Returns the command that trains a configuration on the original files."""
        return [
            sys.executable,
            "-m",
            "rnnmnist.main",
            f"--config={config}",
            f"--workdir={workdir}",
            f"--config.data.manual_dir={self.data}",
            *overrides,
        ]

    def train(self, config: str, *overrides: str, **environment: str) -> dict[str, Any]:
        """Trains a configuration in a new process.

        Returns:
            The `seconds`, and the `correct` predictions on the test split.
        """
        with tempfile.TemporaryDirectory() as folder:
            argv = self.train_argv(config, folder, *overrides)
            seconds, _ = self.run(argv, **environment)
            (path,) = (Path(folder) / "evaluation").glob("test-*.json")
            correct = json.loads(path.read_text())["correct"]
        return {"seconds": seconds, "correct": correct}

    def measure(self, workers: Sequence[Worker]) -> dict[str, list[dict[str, float]]]:
        """Runs one worker after another, once per round.

        Returns:
            For each worker, the `seconds`, `amount` and `peak_mib` of each round.
        """
        found: dict[str, list[dict[str, float]]] = {}
        with contextlib.ExitStack() as stack:
            processes = {}
            for worker in workers:
                argv = self.argv(worker.script, worker.task, worker.settings)
                process = stack.enter_context(self.process(argv))
                read_json(process)  # waits until the worker is ready
                processes[worker.name] = process
            for _ in range(self.rounds):
                for name, process in processes.items():
                    time.sleep(PAUSE_SECONDS)
                    print("now", file=process.stdin, flush=True)
                    found.setdefault(name, []).append(read_json(process))
        for name, rounds in found.items():
            speed = statistics.median(speeds(rounds))
            print(f"{name}: {speed:,.1f} per second", flush=True)
        return found

    @contextlib.contextmanager
    def process(
        self, argv: Sequence[str], **environment: str
    ) -> Iterator[subprocess.Popen[str]]:
        """Starts a process, and kills it at the end of the block."""
        process = subprocess.Popen(
            argv,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            cwd=REPOSITORY,
            env=ENVIRONMENT | environment,
        )
        try:
            yield process
        finally:
            process.kill()
            process.wait()

    def run(self, argv: Sequence[str], **environment: str) -> tuple[float, str]:
        """Runs a process until it exits, and returns the seconds and its output."""
        begin = time.monotonic()
        finished = subprocess.run(
            argv,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            text=True,
            cwd=REPOSITORY,
            env=ENVIRONMENT | environment,
            check=True,
        )
        return time.monotonic() - begin, finished.stdout

    def origin(self, command: str) -> dict[str, Any]:
        """Describes the origin of the measurements: command, hardware and versions."""
        _, commit = self.run(["git", "rev-parse", "--short", "HEAD"])
        code = "from importlib.metadata import version; print(version('torch'))"
        _, torch = self.run([self.peers, "-c", code])
        return {
            "command": command,
            "hardware": describe_processor(),
            "date": datetime.date.today().isoformat(),
            "commit": commit.strip(),
            "versions": installed_versions(),
            "torch": torch.strip(),
        }


def throughput(bench: Bench) -> dict[str, Any]:
    """Measures training with batch size 128, and matrix products."""
    steps = {"steps": 100}
    return bench.measure(
        [
            Worker("rnnmnist", OURS, "train", steps),
            Worker("rnnmnist, Flax's cell", OURS, "train", steps | {"flax_cell": True}),
            Worker("Flax", FLAX, "train", steps),
            Worker("PyTorch", PYTORCH, "train", steps),
            Worker("PyTorch, compiled", PYTORCH, "train", steps | {"compiled": True}),
            Worker("PyTorch, oneDNN off", PYTORCH, "train", steps | {"onednn": False}),
            *PRODUCTS,
        ]
    )


def evaluation(bench: Bench) -> dict[str, Any]:
    """Measures the evaluation of 10,000 images; for peers, with two batch sizes."""
    workers = [Worker("rnnmnist", OURS, "evaluate", {"images": 10_000})]
    for size in (128, 1000):
        work = {"images": 10_000, "batch": size}
        off = work | {"onednn": False}
        workers += [
            Worker(f"Flax, batch {size}", FLAX, "evaluate", work),
            Worker(f"PyTorch, batch {size}", PYTORCH, "evaluate", work),
            Worker(f"PyTorch, batch {size}, oneDNN off", PYTORCH, "evaluate", off),
        ]
    return bench.measure(workers)


def seeds(bench: Bench) -> dict[str, Any]:
    """Measures training of ensembles, with one program for all members."""
    return bench.measure(
        [
            Worker(str(n), OURS, "train", {"steps": 120 // n, "seeds": n})
            for n in (1, 2, 4, 8)
        ]
    )


def batches(bench: Bench) -> dict[str, Any]:
    """Measures training at several batch sizes, also for PyTorch, the faster peer.

    The matrix products are measured in the same rounds.
    """
    workers = list(PRODUCTS)
    for size in (32, 64, 128, 256, 512, 1024, 2048):
        work = {"steps": max(2, 8192 // size), "batch": size}
        off = {"onednn": False}
        workers += [
            Worker(f"rnnmnist {size}", OURS, "train", work),
            Worker(f"PyTorch {size}", PYTORCH, "train", work),
            Worker(f"PyTorch, oneDNN off {size}", PYTORCH, "train", work | off),
        ]
    return bench.measure(workers)


def jobs(bench: Bench) -> dict[str, Any]:
    """Measures processes that train for the tutorial's 781 steps and evaluate."""
    found: dict[str, list[float]] = {}

    def train(name: str, cache: str, *overrides: str) -> None:
        run = bench.train("tutorial", *overrides, JAX_COMPILATION_CACHE_DIR=cache)
        log_seconds(found, name, run["seconds"])

    with tempfile.TemporaryDirectory() as folder:
        for number in range(LONG_ROUNDS):
            train("rnnmnist, cold cache", f"{folder}/{number}")
            train("rnnmnist, warm cache", f"{folder}/{number}")
            cache = f"{folder}/seeds{number}"
            train("8 seeds, cold cache", cache, "--config.num_seeds=8")
            settings = {"data": bench.data, "steps": 781}
            for peer, script in PEERS.items():
                seconds, _ = bench.run(bench.argv(script, "job", settings))
                log_seconds(found, peer, seconds)
    return found


def starts(bench: Bench) -> dict[str, Any]:
    """Measures the time before the first step."""
    found: dict[str, list[float]] = {}
    for _ in range(bench.rounds):
        with tempfile.TemporaryDirectory() as folder:
            for state in ("cold", "warm"):
                seconds = first_line(bench, Path(folder) / state, f"{folder}/cache")
                log_seconds(found, f"first step, {state} cache", seconds)
    return found


def default_run(bench: Bench) -> dict[str, Any]:
    """Measures the default run on all cores and on one core."""
    cores = os.sched_getaffinity(0)
    found = {}
    for name, used in (("all cores", cores), ("one core", {min(cores)})):
        os.sched_setaffinity(0, used)  # child processes inherit it
        before = os.times()
        run = bench.train("default")
        after = os.times()
        user = after.children_user - before.children_user
        system = after.children_system - before.children_system
        found[name] = {"seconds": run["seconds"], "processor_seconds": user + system}
        print(f"default run, {name}: {found[name]}", flush=True)
    os.sched_setaffinity(0, cores)
    return found


def first_line(bench: Bench, workdir: Path, cache: str) -> float:
    """Returns the seconds from the start of a run to its first line of metrics."""
    log_every_step = "--config.train.log_every_steps=1"
    argv = bench.train_argv("default", str(workdir), log_every_step)
    metrics = workdir / "metrics.jsonl"
    begin = time.monotonic()
    with bench.process(argv, JAX_COMPILATION_CACHE_DIR=cache) as process:
        while not (metrics.exists() and metrics.stat().st_size):
            if process.poll() is not None:
                raise subprocess.CalledProcessError(process.returncode, argv)
            time.sleep(0.005)
        return time.monotonic() - begin


def accuracy(bench: Bench) -> dict[str, Any]:
    """Measures seconds and accuracy of each recipe, framework and seed.

    Each run is evaluated once, on all test images. The number of steps in a recipe was
    selected on the validation split, with rnnmnist.
    """
    recipes: dict[str, Any] = {target: {} for target in TARGET_COUNTS}
    with tempfile.TemporaryDirectory() as folder:
        for seed in range(bench.seeds):
            for target, found in recipes.items():
                recipe, seeded = RECIPES[target], f"--config.seed={seed}"
                cache = f"{folder}/{target}-{seed}"
                runs = {
                    f"rnnmnist, {state} cache": bench.train(
                        recipe, seeded, JAX_COMPILATION_CACHE_DIR=cache
                    )
                    for state in ("cold", "warm")
                } | {peer: train_peer(bench, peer, target, seed) for peer in PEERS}
                config = load_config(REPOSITORY / recipe)
                train = resolve(config, image_task(config.data)).train
                origin = {"seed": seed, "epochs": train.num_steps // EPOCH_STEPS}
                for name, run in runs.items():
                    found.setdefault(name, []).append(origin | run)
                print(f"{target} %, seed {seed}: {found}", flush=True)
    return recipes


def train_peer(bench: Bench, peer: str, target: str, seed: int) -> dict[str, Any]:
    """Trains a peer with a recipe; returns its seconds and correct predictions."""
    config = load_config(REPOSITORY / RECIPES[target])
    values = vars(config.data) | vars(resolve(config, image_task(config.data)).train)
    settings = {
        "data": bench.data,
        "seed": seed,
        "recipe": {name: values[name] for name in Recipe._fields},
        "steps": values["num_steps"],
    }
    seconds, output = bench.run(bench.argv(PEERS[peer], "job", settings))
    return {"seconds": seconds} | json.loads(output)


def main() -> None:
    """Measures all sections, and writes the file after each section."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True, metavar="FOLDER")
    parser.add_argument("--peers", default=sys.executable, metavar="PYTHON")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--seeds", type=int, default=5, help="per target accuracy")
    args = parser.parse_args()
    data = str(args.data.absolute())
    bench = Bench(args.peers, args.rounds, data, args.seeds)
    measured = bench.origin(
        "python benchmarks/measure.py --data=FOLDER --peers=PYTHON"
        f" --rounds={bench.rounds} --seeds={bench.seeds}"
    )
    sections = (
        throughput,
        evaluation,
        seeds,
        default_run,
        starts,
        batches,
        jobs,
        accuracy,
    )
    for section in sections:
        measured[section.__name__] = section(bench)
        NUMBERS.write_text(json.dumps(measured, indent=1) + "\n")


if __name__ == "__main__":
    main()
