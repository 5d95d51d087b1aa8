"""Measures this project beside its peers on this machine, all in turn, in one run.

    python benchmarks/measure.py run --data=FOLDER --peers=PYTHON
    python benchmarks/measure.py table

`run` writes benchmarks/results.json, `table` renders it between the markers in
benchmarks/README.md and docs/results.md. FOLDER holds the four original MNIST files;
PYTHON is an interpreter that has benchmarks/requirements.txt, by default this one.
"""

import argparse
import contextlib
import json
import os
import platform
import re
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple

from tables import MARKS, best, rendered, summarized

from rnnmnist.runtime.hardware import hardware

HERE = Path(__file__).resolve().parent
REPOSITORY = HERE.parent
PAGE, NUMBERS = HERE / "README.md", HERE / "results.json"
SUMMARY = REPOSITORY / "docs/results.md"
PACKAGES = ("jax", "flax", "optax", "orbax-checkpoint", "numpy")
PEERS = ("torch", "tensorflow", "keras", "numpy")
LONG_ROUNDS = 3  # of what takes a minute
OURS_AND_PYTORCH = (("rnnmnist", "run_ours.py"), ("PyTorch", "run_pytorch.py"))
REST = 0.3  # seconds in which the threads of the last turn fall asleep


class Contestant(NamedTuple):
    """A process that works when it is its turn."""

    name: str
    script: str
    task: str
    settings: dict[str, Any]


class Finished(NamedTuple):
    """What a process did."""

    seconds: float
    exit_code: int
    output: str
    errors: str

    def well(self) -> "Finished":
        """Itself, if it did what it was asked for."""
        if self.exit_code:
            raise RuntimeError(f"exit code {self.exit_code}: {self.errors[-2000:]}")
        return self


def answer(process: subprocess.Popen[str]) -> dict[str, float]:
    """The next line of a contestant."""
    assert process.stdout is not None
    return json.loads(process.stdout.readline())


def number_in(pattern: str, text: str) -> float:
    """The number that a pattern's first group finds in what a process printed."""
    found = re.search(pattern, text)
    if found is None:
        raise RuntimeError(f"{pattern} is not in {text[-2000:]!r}")
    return float(found[1])


class Bench:
    """The interpreters, the data, how often, and what was found."""

    def __init__(self, options: argparse.Namespace) -> None:
        self.peers: str = options.peers
        self.data = str(options.data.absolute())
        self.rounds: int = options.rounds
        self.cap: float = options.cap
        self.seeds: int = options.seeds
        self.found: dict[str, dict[str, Any]] = {}  # by section
        # The core's own kernels, whatever a machine's image has chosen; and its cores
        # alone, whatever else it has.
        hidden = ("OPENBLAS_CORETYPE", "OPENBLAS_L2_SIZE", "XLA_FLAGS")
        self.environment = {
            name: value for name, value in os.environ.items() if name not in hidden
        } | {"JAX_PLATFORMS": "cpu", "CUDA_VISIBLE_DEVICES": ""}

    def words(self, script: str, *rest: str) -> list[str]:
        """The command line of a contestant."""
        python = sys.executable if script == "run_ours.py" else self.peers
        return [python, str(HERE / script), *rest]

    def in_turn(
        self, contestants: Sequence[Contestant]
    ) -> dict[str, list[dict[str, float]]]:
        """Lets each work in every round, one at a time.

        Returns:
            For each contestant its turns: `seconds`, `amount` and `peak_mib`.
        """
        found: dict[str, list[dict[str, float]]] = {}
        with contextlib.ExitStack() as stack:
            processes = {
                one.name: stack.enter_context(self.waiting(one)) for one in contestants
            }
            for _ in range(self.rounds):
                for name, process in processes.items():
                    time.sleep(REST)
                    print("now", file=process.stdin, flush=True)
                    found.setdefault(name, []).append(answer(process))
        for name, turns in found.items():
            speeds = [turn["amount"] / turn["seconds"] for turn in turns]
            print(f"{name}: {statistics.median(speeds):,.1f} a second", flush=True)
        return found

    @contextlib.contextmanager
    def waiting(self, one: Contestant) -> Iterator[subprocess.Popen[str]]:
        """A contestant's process, which has warmed up and waits for its turn."""
        with tempfile.TemporaryFile("w+") as errors:
            process = subprocess.Popen(
                self.words(one.script, one.task, json.dumps(one.settings)),
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
                text=True,
                cwd=REPOSITORY,
                env=self.environment,
            )
            try:
                answer(process)
                yield process
            except json.JSONDecodeError as error:
                errors.seek(0)
                raise RuntimeError(
                    f"{one.name} fails: {errors.read()[-2000:]}"
                ) from error
            finally:
                process.kill()
                process.wait()

    def timed(self, words: Sequence[str], **environment: str) -> Finished:
        """Runs a process to its end."""
        begin = time.monotonic()
        finished = subprocess.run(
            words,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            cwd=REPOSITORY,
            env=self.environment | environment,
            check=False,
        )
        seconds = time.monotonic() - begin
        return Finished(seconds, finished.returncode, finished.stdout, finished.stderr)

    def main(self, config: str, workdir: str, *rest: str) -> list[str]:
        """The command that trains by a configuration on the originals."""
        return [
            *(sys.executable, "-m", "rnnmnist.main", f"--config={config}"),
            *(f"--workdir={workdir}", f"--config.data.manual_dir={self.data}", *rest),
        ]


def throughput(bench: Bench) -> dict[str, Any]:
    """Training at batch 128, beside the peers and the machine's matrix product."""
    ours, torch, keras = "run_ours.py", "run_pytorch.py", "run_keras.py"
    steps, size = {"steps": 100}, {"size": 1024}
    flax = {"model": {"recurrence": "flax"}}
    return bench.in_turn(
        [
            Contestant("rnnmnist", ours, "train", steps),
            Contestant("rnnmnist, Flax's cell", ours, "train", steps | flax),
            Contestant("PyTorch", torch, "train", steps),
            Contestant("PyTorch, compiled", torch, "train", steps | {"compiled": True}),
            Contestant("Keras", keras, "train", steps),
            Contestant("Keras, jit_compile", keras, "train", steps | {"jit": True}),
            Contestant("product, NumPy", ours, "product_numpy", size),
            Contestant("product, PyTorch", torch, "product", size),
            Contestant("product, XLA", ours, "product_xla", size),
        ]
    )


def evaluation(bench: Bench) -> dict[str, Any]:
    """Scoring 10,000 images; the peers by batches of several sizes."""
    images = {"images": 10_000}
    jit = images | {"jit": True}
    return bench.in_turn(
        [
            Contestant("rnnmnist", "run_ours.py", "evaluate", images),
            *(
                Contestant(f"{name}, batch {size}", script, "evaluate", own)
                for size in (128, 1000)
                for name, script, own in (
                    ("PyTorch", "run_pytorch.py", images | {"batch": size}),
                    ("Keras", "run_keras.py", images | {"batch": size}),
                    ("Keras, jit_compile", "run_keras.py", jit | {"batch": size}),
                )
            ),
        ]
    )


def seeds(bench: Bench) -> dict[str, Any]:
    """Several networks in one program."""
    return bench.in_turn(
        [
            Contestant(
                str(count),
                "run_ours.py",
                "train",
                {"steps": 120 // count, "seeds": count},
            )
            for count in (1, 2, 4, 8)
        ]
    )


def batches(bench: Bench) -> dict[str, Any]:
    """Batches of other sizes, beside the faster peer."""
    return bench.in_turn(
        [
            Contestant(
                f"{name} {size}",
                script,
                "train",
                {"steps": max(2, 8192 // size), "batch": size},
            )
            for size in (32, 64, 128, 256, 512, 1024, 2048)
            for name, script in OURS_AND_PYTORCH
        ]
    )


def lengths(bench: Bench) -> dict[str, Any]:
    """Sequences of other lengths, forward and backward, and the processes' memory."""
    contestants = []
    for rows in (28, 56, 112, 196, 392, 784):
        work = {"steps": max(2, 28 * 40 // rows), "rows": rows}
        in_blocks = work | {"model": {"remat_rows": 28}}
        contestants += [
            *(
                Contestant(f"{name} {rows}", script, "train", work)
                for name, script in OURS_AND_PYTORCH
            ),
            Contestant(f"in blocks {rows}", "run_ours.py", "train", in_blocks),
        ]
    return bench.in_turn(contestants)


def checkpoints(bench: Bench) -> dict[str, Any]:
    """Epochs with a checkpoint after each, and without."""
    work = {"steps": 430, "epochs": 2}
    return bench.in_turn(
        [
            Contestant(name, "run_ours.py", "save", work | {"saving": name == "with"})
            for name in ("without", "with")
        ]
    )


def jobs(bench: Bench) -> dict[str, Any]:
    """The tutorial's 781 steps and all test images, from start to end of a process."""
    found: dict[str, list[float]] = {}

    def keep(name: str, seconds: float) -> None:
        found.setdefault(name, []).append(seconds)
        print(f"{name}: {seconds:.1f} s", flush=True)

    def ours(name: str, cache: str, *rest: str) -> None:
        with tempfile.TemporaryDirectory() as workdir:
            words = bench.main("tutorial", workdir, *rest)
            keep(
                name, bench.timed(words, JAX_COMPILATION_CACHE_DIR=cache).well().seconds
            )

    with tempfile.TemporaryDirectory() as folder:
        for number in range(bench.rounds):
            ours("rnnmnist, cold cache", f"{folder}/{number}")
            ours("rnnmnist, warm cache", f"{folder}/{number}")
            if number < LONG_ROUNDS:
                cache = f"{folder}/stack{number}"
                ours("8 seeds, cold cache", cache, "--config.num_seeds=8")
            for name, script, settings in peers(bench):
                settings |= {"data": bench.data, "steps": 781}
                words = bench.words(script, "job", json.dumps(settings))
                keep(name, bench.timed(words).well().seconds)
    return found


def peers(bench: Bench) -> list[tuple[str, str, dict[str, Any]]]:
    """PyTorch and the better mode of Keras, with script and settings.

    PyTorch is eager: compiling costs more than it can gain in so few minutes.
    """
    modes = ["Keras", "Keras, jit_compile"]
    faster = best(bench.found["throughput"], modes)
    jit = {"jit": faster == modes[1]}
    return [("PyTorch", "run_pytorch.py", {}), (faster, "run_keras.py", jit)]


def starts(bench: Bench) -> dict[str, Any]:
    """What a start costs before the first step, and the default run's memory."""
    found: dict[str, list[float]] = {}

    def keep(name: str, value: float) -> None:
        found.setdefault(name, []).append(value)
        print(f"{name}: {value:.2f}", flush=True)

    python = [sys.executable, "-c"]
    run = [sys.executable, "-m", "rnnmnist.main"]
    doctor = [sys.executable, "-m", "rnnmnist.doctor", "--config=default"]
    for _ in range(bench.rounds):
        with tempfile.TemporaryDirectory() as folder:
            for cache in ("cold", "warm"):
                there = {"JAX_COMPILATION_CACHE_DIR": f"{folder}/cache"}
                each = "--config.train.log_every_steps=1"
                words = bench.main("default", f"{folder}/{cache}", each)
                seconds = first_line(bench, words, Path(folder) / cache, there)
                keep(f"first step, {cache} cache", seconds)
            for cache in ("cold", "warm"):
                there = {"JAX_COMPILATION_CACHE_DIR": f"{folder}/doctor"}
                text = bench.timed(doctor, **there).well().output
                spent = number_in(r"compiled in ([0-9.]+) s", text)
                keep(f"compile the chunk, {cache} cache", spent)
        keep("bare python", bench.timed([*python, ""]).well().seconds)
        modules = "import rnnmnist.main, rnnmnist.training.loop"
        keep("imports", bench.timed([*python, modules]).well().seconds)
        keep("--help", bench.timed([*run, "--help"]).well().seconds)
        wrong = bench.timed([*run, "--config.train.learning_rte=0.01"])
        if wrong.exit_code != 2:
            raise RuntimeError(f"an unknown setting gives {wrong}")
        keep("an unknown setting", wrong.seconds)
    return found


def memory(bench: Bench) -> dict[str, Any]:
    """The most memory that the default run has, in MiB, and its seconds."""
    code = (
        "import sys, turns; from rnnmnist.main import main; "
        "main(sys.argv[1:]); print('peak', turns.peak_mib())"
    )
    with tempfile.TemporaryDirectory() as folder:
        _, _, _, *words = bench.main("default", folder)
        here = {"PYTHONPATH": os.pathsep.join([str(HERE), str(REPOSITORY)])}
        ended = bench.timed([sys.executable, "-c", code, *words], **here).well()
    peak = number_in(r"peak ([0-9.]+)", ended.output)
    print(f"default run: {ended.seconds:.1f} s, {peak:.0f} MiB", flush=True)
    return {"seconds": ended.seconds, "peak_mib": peak}


def first_line(
    bench: Bench, words: list[str], workdir: Path, environment: dict[str, str]
) -> float:
    """Seconds from a process's start to its first line of metrics; then it is ended."""
    begin = time.monotonic()
    process = subprocess.Popen(
        words,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        cwd=REPOSITORY,
        env=bench.environment | environment,
    )
    metrics = workdir / "metrics.jsonl"
    try:
        while not (metrics.exists() and metrics.stat().st_size):
            if process.poll() is not None:
                raise RuntimeError(f"{words} ended with {process.returncode}")
            time.sleep(0.005)
        return time.monotonic() - begin
    finally:
        process.kill()
        process.wait()


def accuracy(bench: Bench) -> dict[str, Any]:
    """Seconds to a mean of 98.5 % and of 99.0 % of all test images, seed by seed.

    Ours are recipes whose length was fixed on validation. The peers, Keras in its
    better mode, train on and are scored after each epoch, until the cap.
    """
    found: dict[str, Any] = {"cap": bench.cap}
    for mark in MARKS:
        our_run(bench, mark, 0)  # fills the cache
    for seed in range(bench.seeds):
        for mark in MARKS:
            found.setdefault(f"rnnmnist {mark}", []).append(our_run(bench, mark, seed))
        for name, script, settings in peers(bench):
            settings |= {"data": bench.data, "seed": seed, "most": 1000}
            found.setdefault(name, []).append(epochs(bench, script, settings))
            print(f"{name}: {found[name][-1]}", flush=True)
    return found


def our_run(bench: Bench, mark: str, seed: int) -> dict[str, Any]:
    """A recipe's seconds, from a process's start to its end, and right answers."""
    recipe = f"benchmarks/recipes/accuracy_{mark.replace('.', '_')}.py"
    with tempfile.TemporaryDirectory() as folder:
        words = bench.main(recipe, folder, f"--config.seed={seed}")
        seconds = bench.timed(words).well().seconds
        (path,) = (Path(folder) / "evaluation").glob("test-*.json")
        correct = json.loads(path.read_text())["correct"]
    print(f"{mark} %, seed {seed}: {seconds:.1f} s, {correct}", flush=True)
    return {"seed": seed, "seconds": seconds, "correct": correct}


def epochs(bench: Bench, script: str, settings: dict[str, Any]) -> list[dict[str, Any]]:
    """A peer's epochs until the cap: seconds since its start, and right answers."""
    begin, found = time.monotonic(), list[dict[str, Any]]()
    with tempfile.TemporaryFile("w+") as errors:
        process = subprocess.Popen(
            bench.words(script, "epochs", json.dumps(settings)),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=errors,
            text=True,
            cwd=REPOSITORY,
            env=bench.environment,
        )
        assert process.stdout is not None
        try:
            for line in process.stdout:
                seconds = time.monotonic() - begin
                if seconds > bench.cap:
                    return found
                found.append(json.loads(line) | {"seconds": seconds})
        finally:
            process.kill()
            process.wait()
        errors.seek(0)
        raise RuntimeError(f"{script} ended early: {errors.read()[-2000:]}")


SECTIONS: dict[str, Callable[[Bench], dict[str, Any]]] = {
    "throughput": throughput,
    "evaluation": evaluation,
    "seeds": seeds,
    "checkpoints": checkpoints,
    "memory": memory,
    "starts": starts,
    "batches": batches,
    "lengths": lengths,
    "jobs": jobs,
    "accuracy": accuracy,
}


def run(options: argparse.Namespace) -> None:
    """All sections, one after the other, each kept when it ends.

    A run that was stopped goes on with the sections that it has not.
    """
    bench = Bench(options)
    begin = time.monotonic()
    predict = "import sys; from importlib.metadata import version as v; " + (
        "print(*map(v, sys.argv[1:]))"
    )
    versions = bench.timed([bench.peers, "-c", predict, *PEERS]).well().output
    document = {
        "command": "python benchmarks/measure.py run --data=FOLDER --peers=PYTHON"
        f" --rounds={bench.rounds} --cap={bench.cap:.0f} --seeds={bench.seeds}",
        "hardware": hardware(),
        "versions": {"python": platform.python_version()}
        | {package: version(package) for package in PACKAGES},
        "peers": dict(zip(PEERS, versions.split(), strict=True)),
    }
    before = kept(options.output, document)
    bench.found = {name: before[name] for name in SECTIONS if name in before}
    for name, section in SECTIONS.items():
        if name not in bench.found:
            bench.found[name] = section(bench)
        spent = before.get("minutes", 0) + (time.monotonic() - begin) / 60
        whole = document | {"minutes": round(spent)} | bench.found
        options.output.write_text(json.dumps(whole, indent=1) + "\n")


def kept(path: Path, document: dict[str, Any]) -> dict[str, Any]:
    """What a run that was stopped has found, if it was the same run here."""
    with contextlib.suppress(OSError, ValueError):
        before = json.loads(path.read_text())
        if before | document == before and not before.keys() >= SECTIONS.keys():
            return before
    return {}


def main() -> None:
    """Parses the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    commands = parser.add_subparsers(dest="command", required=True)
    running = commands.add_parser("run")
    running.add_argument("--data", type=Path, required=True, metavar="FOLDER")
    running.add_argument("--peers", default=sys.executable, metavar="PYTHON")
    running.add_argument("--rounds", type=int, default=7)
    running.add_argument("--cap", type=float, default=240, help="a peer's seconds")
    running.add_argument("--seeds", type=int, default=5, help="to an accuracy")
    running.add_argument("--output", type=Path, default=NUMBERS)
    commands.add_parser("table")
    options = parser.parse_args()
    if options.command == "run":
        run(options)
        return
    document = json.loads(NUMBERS.read_text())
    for page, render in ((PAGE, rendered), (SUMMARY, summarized)):
        page.write_text(render(page.read_text(), document))


if __name__ == "__main__":
    main()
