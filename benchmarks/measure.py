"""Measures the speed of rnnmnist, PyTorch, Keras and a plain Flax loop on this machine.

    python benchmarks/measure.py validate --data=FOLDER --peers=PYTHON
    python benchmarks/measure.py run --data=FOLDER --peers=PYTHON

`validate` prints the validation accuracies of Flax and PyTorch with our recipes. `run`
writes benchmarks/results.json. FOLDER contains the four original MNIST files; PYTHON is
an interpreter that has benchmarks/requirements.txt, by default this one.
"""

import argparse
import contextlib
import datetime
import json
import os
import re
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from speed_tables import NUMBERS, TARGET_COUNTS, fastest_mode
from worker import VALIDATION, Recipe

from rnnmnist.config.python_files import load_config
from rnnmnist.runtime.machine import describe_processor, installed_versions

BENCHMARKS = Path(__file__).resolve().parent
REPOSITORY = BENCHMARKS.parent
PEERS = ("torch", "tensorflow", "keras", "numpy")
OURS, FLAX = "run_ours.py", "run_flax.py"
PYTORCH, KERAS = "run_pytorch.py", "run_keras.py"
RECIPE_PEERS = {"PyTorch": PYTORCH, "Flax": FLAX}
EPOCH_STEPS = 430  # of 128 images, which are 55,000 in all
VALIDATION_SEEDS = 3
LONG_ROUNDS = 3  # of measurements that take a minute
PAUSE_SECONDS = 0.3  # in which the threads of the previous worker go to sleep


class Worker(NamedTuple):
    """A process that repeats a task when it is told to."""

    name: str
    script: str
    task: str
    settings: dict[str, Any]


class Finished(NamedTuple):
    """The duration and the output of a process."""

    seconds: float
    output: str

    def number(self, pattern: str) -> float:
        """Returns the number that the first group of a pattern matches."""
        found = re.search(pattern, self.output)
        if found is None:
            raise RuntimeError(f"{pattern} is not in {self.output[-2000:]!r}")
        return float(found[1])


def read_json(process: subprocess.Popen[str]) -> dict[str, Any]:
    """Reads the next line of a process's output.

    Raises:
        EOFError: if the process has ended.
    """
    assert process.stdout is not None
    line = process.stdout.readline()
    if not line:
        raise EOFError
    return json.loads(line)


def record(found: dict[str, list[float]], name: str, seconds: float) -> None:
    """Adds a measurement and prints it."""
    found.setdefault(name, []).append(seconds)
    print(f"{name}: {seconds:.2f} s", flush=True)


class Bench:
    """The settings of a benchmark, and its measurements so far."""

    def __init__(
        self, peers: str, rounds: int, data: str = "", cap: float = 0, seeds: int = 0
    ) -> None:
        self.peers, self.rounds, self.data = peers, rounds, data
        self.cap, self.seeds = cap, seeds
        self.found: dict[str, dict[str, Any]] = {}  # by section
        # Use the CPU only, with the kernels that its libraries choose by default.
        hidden = {
            *("OPENBLAS_CORETYPE", "OPENBLAS_L2_SIZE"),
            *("XLA_FLAGS", "JAX_COMPILATION_CACHE_DIR"),
        }
        self.environment = {
            name: value for name, value in os.environ.items() if name not in hidden
        } | {"JAX_PLATFORMS": "cpu", "CUDA_VISIBLE_DEVICES": ""}

    def argv(self, script: str, task: str, settings: dict[str, Any]) -> list[str]:
        """Returns the command that runs a task of a script."""
        python = sys.executable if script in (OURS, FLAX) else self.peers
        return [python, str(BENCHMARKS / script), task, json.dumps(settings)]

    def train_argv(self, config: str, workdir: str, *overrides: str) -> list[str]:
        """Returns the command that trains a configuration on the original files."""
        return [
            *(sys.executable, "-m", "rnnmnist.main", f"--config={config}"),
            *(f"--workdir={workdir}", f"--config.data.manual_dir={self.data}"),
            *overrides,
        ]

    def measure(self, workers: Sequence[Worker]) -> dict[str, list[dict[str, float]]]:
        """Runs each worker once per round, one at a time.

        Returns:
            By the worker's name, the `seconds`, `amount` and `peak_mib` of each round.
        """
        found: dict[str, list[dict[str, float]]] = {}
        with contextlib.ExitStack() as stack:
            processes = {}
            for worker in workers:
                argv = self.argv(worker.script, worker.task, worker.settings)
                process = stack.enter_context(self.process(argv))
                read_json(process)  # it is ready
                processes[worker.name] = process
            for _ in range(self.rounds):
                for name, process in processes.items():
                    time.sleep(PAUSE_SECONDS)
                    print("now", file=process.stdin, flush=True)
                    found.setdefault(name, []).append(read_json(process))
        for name, rounds in found.items():
            speeds = [one["amount"] / one["seconds"] for one in rounds]
            print(f"{name}: {statistics.median(speeds):,.1f} per second", flush=True)
        return found

    @contextlib.contextmanager
    def process(
        self, argv: Sequence[str], **environment: str
    ) -> Iterator[subprocess.Popen[str]]:
        """Starts a process, and kills it at the end of the block.

        Raises:
            RuntimeError: if the process has ended when the block expects output.
        """
        with tempfile.TemporaryFile("w+") as errors:
            process = subprocess.Popen(
                argv,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
                text=True,
                cwd=REPOSITORY,
                env=self.environment | environment,
            )
            try:
                yield process
            except (EOFError, BrokenPipeError) as error:
                errors.seek(0)
                raise RuntimeError(f"{argv}: {errors.read()[-2000:]}") from error
            finally:
                process.kill()
                process.wait()

    def run(
        self, argv: Sequence[str], exit_code: int = 0, **environment: str
    ) -> Finished:
        """Runs a process to its end.

        Raises:
            RuntimeError: if it does not exit with the expected code.
        """
        begin = time.monotonic()
        finished = subprocess.run(
            argv,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            cwd=REPOSITORY,
            env=self.environment | environment,
            check=False,
        )
        seconds = time.monotonic() - begin
        if finished.returncode != exit_code:
            errors = finished.stderr[-2000:]
            raise RuntimeError(f"{argv}: exit code {finished.returncode}: {errors}")
        return Finished(seconds, finished.stdout)


def throughput(bench: Bench) -> dict[str, Any]:
    """Measures training with batch 128, and matrix products."""
    steps, size = {"steps": 100}, {"size": 1024}
    return bench.measure(
        [
            Worker("rnnmnist", OURS, "train", steps),
            Worker("rnnmnist, Flax's cell", OURS, "train", steps | {"flax_cell": True}),
            Worker("Flax", FLAX, "train", steps),
            Worker("PyTorch", PYTORCH, "train", steps),
            Worker("PyTorch, compiled", PYTORCH, "train", steps | {"compiled": True}),
            Worker("Keras", KERAS, "train", steps),
            Worker("Keras, jit_compile", KERAS, "train", steps | {"jit": True}),
            Worker("product, NumPy", OURS, "product_numpy", size),
            Worker("product, PyTorch", PYTORCH, "product", size),
            Worker("product, XLA", OURS, "product_xla", size),
        ]
    )


def evaluation(bench: Bench) -> dict[str, Any]:
    """Measures the evaluation of 10,000 images; peers with two batch sizes."""
    workers = [Worker("rnnmnist", OURS, "evaluate", {"images": 10_000})]
    for size in (128, 1000):
        work = {"images": 10_000, "batch": size}
        jit = work | {"jit": True}
        workers += [
            Worker(f"Flax, batch {size}", FLAX, "evaluate", work),
            Worker(f"PyTorch, batch {size}", PYTORCH, "evaluate", work),
            Worker(f"Keras, batch {size}", KERAS, "evaluate", work),
            Worker(f"Keras, jit_compile, batch {size}", KERAS, "evaluate", jit),
        ]
    return bench.measure(workers)


def seeds(bench: Bench) -> dict[str, Any]:
    """Measures several seeds in one program."""
    return bench.measure(
        [
            Worker(str(n), OURS, "train", {"steps": 120 // n, "seeds": n})
            for n in (1, 2, 4, 8)
        ]
    )


def batches(bench: Bench) -> dict[str, Any]:
    """Measures several batch sizes, also of PyTorch, the faster peer."""
    workers = []
    for size in (32, 64, 128, 256, 512, 1024, 2048):
        work = {"steps": max(2, 8192 // size), "batch": size}
        workers += [
            Worker(f"rnnmnist {size}", OURS, "train", work),
            Worker(f"PyTorch {size}", PYTORCH, "train", work),
        ]
    return bench.measure(workers)


def lengths(bench: Bench) -> dict[str, Any]:
    """Measures several sequence lengths, and the memory of the processes."""
    workers = []
    for rows in (28, 56, 112, 196, 392, 784):
        work = {"steps": max(2, 28 * 40 // rows), "rows": rows}
        in_blocks = work | {"execution": {"remat_steps": 28}}
        workers += [
            Worker(f"rnnmnist {rows}", OURS, "train", work),
            Worker(f"PyTorch {rows}", PYTORCH, "train", work),
            Worker(f"in blocks {rows}", OURS, "train", in_blocks),
        ]
    return bench.measure(workers)


def checkpoints(bench: Bench) -> dict[str, Any]:
    """Measures epochs with and without a checkpoint after each."""
    work = {"steps": 430, "epochs": 2}
    return bench.measure(
        [
            Worker(name, OURS, "save", work | {"saving": name == "with"})
            for name in ("without", "with")
        ]
    )


def jobs(bench: Bench) -> dict[str, Any]:
    """Measures processes that train the tutorial's 781 steps and evaluate."""
    found: dict[str, list[float]] = {}

    def train(name: str, cache: str, *overrides: str) -> None:
        with tempfile.TemporaryDirectory() as workdir:
            argv = bench.train_argv("tutorial", workdir, *overrides)
            finished = bench.run(argv, JAX_COMPILATION_CACHE_DIR=cache)
        record(found, name, finished.seconds)

    with tempfile.TemporaryDirectory() as folder:
        for number in range(LONG_ROUNDS):
            train("rnnmnist, cold cache", f"{folder}/{number}")
            train("rnnmnist, warm cache", f"{folder}/{number}")
            seeds = f"{folder}/seeds{number}"
            train("8 seeds, cold cache", seeds, "--config.num_seeds=8")
            for name, script, settings in peers(bench):
                settings |= {"data": bench.data, "steps": 781}
                finished = bench.run(bench.argv(script, "job", settings))
                record(found, name, finished.seconds)
    return found


def peers(bench: Bench) -> list[tuple[str, str, dict[str, Any]]]:
    """Returns Flax, PyTorch and the faster mode of Keras, with script and settings.

    PyTorch is eager: in a few minutes, compilation costs more than it saves.
    """
    keras = fastest_mode(bench.found["throughput"], "Keras")
    return [
        ("Flax", FLAX, {}),
        ("PyTorch", PYTORCH, {}),
        (keras, KERAS, {"jit": "jit" in keras}),
    ]


def starts(bench: Bench) -> dict[str, Any]:
    """Measures the time before the first step, and commands that do not train."""
    found: dict[str, list[float]] = {}
    python = [sys.executable, "-c"]
    main = [sys.executable, "-m", "rnnmnist.main"]
    doctor = [sys.executable, "-m", "rnnmnist.doctor", "--config=default"]
    for _ in range(bench.rounds):
        with tempfile.TemporaryDirectory() as folder:
            for state in ("cold", "warm"):
                cache, workdir = f"{folder}/cache", f"{folder}/{state}"
                log_every_step = "--config.train.log_every_steps=1"
                argv = bench.train_argv("default", workdir, log_every_step)
                seconds = first_line(bench, argv, Path(workdir), cache)
                record(found, f"first step, {state} cache", seconds)
            for state in ("cold", "warm"):
                cache = f"{folder}/doctor"
                finished = bench.run(doctor, JAX_COMPILATION_CACHE_DIR=cache)
                seconds = finished.number(r"compiled in ([0-9.]+) s")
                record(found, f"compile the training program, {state} cache", seconds)
        record(found, "bare python", bench.run([*python, ""]).seconds)
        modules = "import rnnmnist.main, rnnmnist.training.loop"
        record(found, "imports", bench.run([*python, modules]).seconds)
        record(found, "--help", bench.run([*main, "--help"]).seconds)
        unknown = [*main, "--config.train.learning_rte=0.01"]
        record(found, "an unknown setting", bench.run(unknown, exit_code=2).seconds)
    return found


def default_run(bench: Bench) -> dict[str, Any]:
    """Measures the default run on all cores and on one: seconds and peak memory."""
    code = (
        "import json, os, sys, time, worker; from rnnmnist.main import main; "
        "os.sched_setaffinity(0, json.loads(sys.argv[1])); main(sys.argv[2:]); "
        "print('processor', time.process_time(), 'peak', worker.peak_mib())"
    )
    path = os.pathsep.join([str(BENCHMARKS), str(REPOSITORY)])
    cores, found = os.sched_getaffinity(0), dict[str, Any]()
    for name, used in (("all cores", cores), ("one core", {min(cores)})):
        with tempfile.TemporaryDirectory() as folder:
            settings = bench.train_argv("default", folder)[3:]
            argv = [sys.executable, "-c", code, json.dumps([*used]), *settings]
            finished = bench.run(argv, PYTHONPATH=path)
        found[name] = {
            "seconds": finished.seconds,
            "processor_seconds": finished.number(r"processor ([0-9.]+)"),
            "peak_mib": finished.number(r"peak ([0-9.]+)"),
        }
        print(f"default run, {name}: {found[name]}", flush=True)
    return found


def first_line(bench: Bench, argv: list[str], workdir: Path, cache: str) -> float:
    """Returns the seconds from a process's start to its first line of metrics."""
    begin = time.monotonic()
    metrics = workdir / "metrics.jsonl"
    with bench.process(argv, JAX_COMPILATION_CACHE_DIR=cache) as process:
        while not (metrics.exists() and metrics.stat().st_size):
            if process.poll() is not None:
                raise EOFError
            time.sleep(0.005)
        return time.monotonic() - begin


def accuracy(bench: Bench) -> dict[str, Any]:
    """Measures the seconds to a mean accuracy on all test images, seed by seed.

    A run that follows a recipe is evaluated once. The recipe's length was selected on
    validation, for rnnmnist. Other runs of the peers, Keras in its faster mode, are
    evaluated after each epoch, until the cap.
    """
    recipes: dict[str, Any] = {target: {} for target in TARGET_COUNTS}
    epochs: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as folder:
        for seed in range(bench.seeds):
            for target, found in recipes.items():
                cache = f"{folder}/{target}-{seed}"
                runs = {
                    f"rnnmnist, {state} cache": train_recipe(bench, target, seed, cache)
                    for state in ("cold", "warm")
                } | {
                    peer: train_peer(bench, peer, target, seed, "test")
                    for peer in RECIPE_PEERS
                }
                origin = {"seed": seed, "epochs": recipe_epochs(target)}
                for name, run in runs.items():
                    found.setdefault(name, []).append(origin | run)
                print(f"{target} %, seed {seed}: {found}", flush=True)
            for name, script, settings in peers(bench):
                settings |= {"data": bench.data, "seed": seed}
                own = epochs.setdefault(name, [])
                own.append(train_epochs(bench, script, settings))
                print(f"{name}: {own[-1]}", flush=True)
    return {"cap": bench.cap, "recipes": recipes, "epochs": epochs}


def recipe_path(target: str) -> str:
    """Returns the path of the configuration for a target accuracy."""
    return f"benchmarks/recipes/accuracy_{target.replace('.', '_')}.py"


def recipe_epochs(target: str) -> int:
    """Returns the number of epochs of the configuration for a target accuracy."""
    return load_config(REPOSITORY / recipe_path(target)).train.num_steps // EPOCH_STEPS


def train_recipe(bench: Bench, target: str, seed: int, cache: str) -> dict[str, Any]:
    """Returns a recipe's seconds as a process, and its correct predictions."""
    with tempfile.TemporaryDirectory() as folder:
        seeded = f"--config.seed={seed}"
        argv = bench.train_argv(recipe_path(target), folder, seeded)
        seconds = bench.run(argv, JAX_COMPILATION_CACHE_DIR=cache).seconds
        (path,) = (Path(folder) / "evaluation").glob("test-*.json")
        correct = json.loads(path.read_text())["correct"]
    return {"seconds": seconds, "correct": correct}


def train_peer(
    bench: Bench, peer: str, target: str, seed: int, split: str
) -> dict[str, Any]:
    """Returns the seconds and correct predictions of a peer that follows a recipe."""
    config = load_config(REPOSITORY / recipe_path(target))
    values = {**vars(config.data), **vars(config.train)}
    settings = {
        "data": bench.data,
        "seed": seed,
        "split": split,
        "recipe": {name: values[name] for name in Recipe._fields},
    }
    finished = bench.run(bench.argv(RECIPE_PEERS[peer], "follow_recipe", settings))
    return {"seconds": finished.seconds} | json.loads(finished.output)


def train_epochs(
    bench: Bench, script: str, settings: dict[str, Any]
) -> list[dict[str, Any]]:
    """Returns, per epoch, the seconds since the start and the correct predictions."""
    begin, found = time.monotonic(), list[dict[str, Any]]()
    with bench.process(bench.argv(script, "epochs", settings)) as process:
        while True:
            epoch = read_json(process)
            seconds = time.monotonic() - begin
            if seconds > bench.cap:
                return found
            found.append(epoch | {"seconds": seconds})


def validate(args: argparse.Namespace) -> None:
    """Prints the mean validation accuracy of peers that follow the recipes."""
    bench = Bench(args.peers, rounds=1, data=str(args.data.absolute()))
    for target in TARGET_COUNTS:
        for peer in RECIPE_PEERS:
            correct = [
                train_peer(bench, peer, target, seed, "validation")["correct"]
                for seed in range(VALIDATION_SEEDS)
            ]
            percent = 100 * statistics.mean(correct) / VALIDATION
            print(f"{target} %, {peer}: {percent:.2f} %, {correct}", flush=True)


SECTIONS: dict[str, Callable[[Bench], dict[str, Any]]] = {
    "throughput": throughput,
    "evaluation": evaluation,
    "seeds": seeds,
    "checkpoints": checkpoints,
    "default_run": default_run,
    "starts": starts,
    "batches": batches,
    "lengths": lengths,
    "jobs": jobs,
    "accuracy": accuracy,
}


def run(args: argparse.Namespace) -> None:
    """Measures all sections and saves each; an interrupted run is continued."""
    data = str(args.data.absolute())
    bench = Bench(args.peers, args.rounds, data, args.cap, args.seeds)
    begin = time.monotonic()
    code = "import sys; from importlib.metadata import version as v; " + (
        "print(*map(v, sys.argv[1:]))"
    )
    versions = bench.run([bench.peers, "-c", code, *PEERS]).output
    metadata = {
        "command": "python benchmarks/measure.py run --data=FOLDER --peers=PYTHON"
        f" --rounds={bench.rounds} --cap={bench.cap:.0f} --seeds={bench.seeds}",
        "hardware": describe_processor(),
        "versions": installed_versions(),
        "peers": dict(zip(PEERS, versions.split(), strict=True)),
    }
    before = read_interrupted(args.output, metadata)
    date = before.get("date", datetime.date.today().isoformat())
    bench.found = {name: before[name] for name in SECTIONS if name in before}
    for name, section in SECTIONS.items():
        if name not in bench.found:
            bench.found[name] = section(bench)
        minutes = before.get("minutes", 0) + (time.monotonic() - begin) / 60
        measured = metadata | {"date": date, "minutes": round(minutes)} | bench.found
        args.output.write_text(json.dumps(measured, indent=1) + "\n")


def read_interrupted(path: Path, metadata: dict[str, Any]) -> dict[str, Any]:
    """Reads the sections of an interrupted run that has the same metadata."""
    with contextlib.suppress(OSError, ValueError):
        before = json.loads(path.read_text())
        if before | metadata == before and not before.keys() >= SECTIONS.keys():
            return before
    return {}


def main() -> None:
    """Parses the command line and runs a subcommand."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    commands = parser.add_subparsers(dest="command", required=True)
    running = commands.add_parser("run")
    for command in (running, commands.add_parser("validate")):
        command.add_argument("--data", type=Path, required=True, metavar="FOLDER")
        command.add_argument("--peers", default=sys.executable, metavar="PYTHON")
    running.add_argument("--rounds", type=int, default=7)
    running.add_argument("--cap", type=float, default=240, help="a peer's seconds")
    running.add_argument("--seeds", type=int, default=5, help="per target accuracy")
    running.add_argument("--output", type=Path, default=NUMBERS)
    args = parser.parse_args()
    {"run": run, "validate": validate}[args.command](args)


if __name__ == "__main__":
    main()
