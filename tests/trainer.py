"""A small training run for fault injection, compared with a reference run."""

import json
import os
import shutil
import socket
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from support import REPOSITORY, array_checksums, called, output_of

from rnnmnist.runs.checkpoints import read_arrays
from rnnmnist.runs.records import Record
from rnnmnist.runs.workdir import UNFINISHED_FOLDER, list_steps

STEPS = 120
SETTINGS = (
    "--config.model.hidden_size=48",
    "--config.train.batch_size=48",  # batches cross the ends of epochs
    f"--config.train.num_steps={STEPS}",
    "--config.train.ema_decay=0.9",  # evaluated and trained weights differ
    "--config.train.log_every_steps=7",
    "--config.train.eval_every_steps=20",
    "--config.execution.num_devices=2",  # the same results on every machine
)
# The first update is finite, and the second update is not.
WILD = (
    "--config.train.learning_rate=1e15",
    "--config.train.weight_decay=0.9",
    "--config.train.schedule=constant",
    "--config.train.warmup_fraction=0",
    "--config.data.max_shift=0",
)
# Hours pass before a validation, in calls of at most 100 updates. Tests with these
# settings share a compiled program.
ENDLESS = (
    "--config.train.num_steps=1000000",
    "--config.train.log_every_steps=1000000",
    "--config.train.eval_every_steps=1000000",
)
MAIN = ("-m", "rnnmnist.main")
SLOW_SAVE = (Path(__file__).parent / "faults" / "slow_save.py",)
# Programs outside of the repository's folder need the path of the package.
PYTHONPATH = f"{REPOSITORY}{os.pathsep}{Path(__file__).parent / 'every_process'}"


def arguments(workdir: Path, data_dir: Path, *more: str) -> list[str]:
    """Returns the command line of the run."""
    data = f"--config.data.data_dir={data_dir}"
    return [f"--workdir={workdir}", data, *SETTINGS, *more]


def run(workdir: Path, data_dir: Path, *more: str) -> str:
    """Starts or resumes the run in this process, and returns its output."""
    return output_of(called("main", *arguments(workdir, data_dir, *more)))


def popen(environment: dict[str, str], *argv: object) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, *map(str, argv)],
        env=environment,
        cwd=REPOSITORY,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


class Run(NamedTuple):
    """A run that a test starts in its own process or in child processes."""

    workdir: Path
    data_dir: Path
    environment: dict[str, str]

    def arguments(self, *more: str) -> list[str]:
        return arguments(self.workdir, self.data_dir, *more)

    def finish(self, *more: str) -> str:
        """Trains to the end in this process, and returns the output."""
        return run(self.workdir, self.data_dir, *more)

    def start(
        self,
        *more: str,
        program: Sequence[object] = MAIN,
        word: str = "loss",
        **variables: str,
    ) -> subprocess.Popen[str]:
        """Starts a process, and waits until it prints a line that contains `word`."""
        environment = self.environment | {"PYTHONPATH": PYTHONPATH} | variables
        process = popen(environment, *program, *self.arguments(*more))
        wait_for_training(process, word)
        return process

    def start_together(
        self, *more: str, count: int = 2, program: Sequence[object] = MAIN
    ) -> list[subprocess.Popen[str]]:
        """Starts the run in several processes; see the function `start_together`."""
        argvs = [self.arguments(*more)] * count
        return start_together(self.environment, argvs, program)


def wait_for_training(process: subprocess.Popen[str], word: str = "loss") -> None:
    """Waits until a process prints a line that contains `word`."""
    assert process.stdout is not None
    for line in process.stdout:
        if word in line:
            return
    _, stderr = process.communicate()
    raise AssertionError(stderr)


def variables_together(environment: dict[str, str]) -> dict[str, str]:
    """Adds the variables with which every process caches its compiled programs."""
    return environment | {"PYTHONPATH": PYTHONPATH, "KEEP_PROGRAMS": "1"}


def start_together(
    environment: dict[str, str],
    argvs: Sequence[Sequence[str]],
    program: Sequence[object] = MAIN,
) -> list[subprocess.Popen[str]]:
    """Starts the processes of one run on this machine, process 0 last.

    `argvs` contains the arguments of each process.
    """
    address, number = f"127.0.0.1:{free_port()}", len(argvs)
    variables = variables_together(environment)
    processes: list[subprocess.Popen[str]] = []
    for index in reversed(range(number)):
        flags = [
            f"--coordinator_address={address}",
            f"--num_processes={number}",
            f"--process_id={index}",
        ]
        argv = [*program, *argvs[index], *flags]
        processes.insert(0, popen(variables, *argv))
    return processes


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def outcomes(processes: list[subprocess.Popen[str]]) -> list[tuple[int, str, str]]:
    """Waits for processes; returns the exit code, stdout and stderr of each process."""
    try:
        ended = [process.communicate(timeout=120) for process in processes]
    finally:
        kill(*processes)
    codes = [process.returncode for process in processes]
    return [(code, *texts) for code, texts in zip(codes, ended, strict=True)]


def kill(*processes: subprocess.Popen[str]) -> None:
    """Kills processes, including stopped processes."""
    for process in processes:
        process.kill()
        process.communicate()


def copy_of(workdir: Path, target: Path) -> Path:
    """Copies a workdir, so that a test can change it."""
    shutil.copytree(workdir, target)
    return target


def cut_back(workdir: Path, step: int) -> None:
    """Removes the checkpoints after a step, and the results."""
    for folder in workdir.iterdir():
        if folder.name.isdecimal() and int(folder.name) > step:
            shutil.rmtree(folder)
    shutil.rmtree(workdir / "evaluation", ignore_errors=True)


def checksums(workdir: Path, step: int = STEPS) -> dict[str, Any]:
    """Returns a checkpoint's checksums of parameters and state, and its metrics."""
    return {
        "params": array_checksums(read_arrays(workdir, step, "params")),
        "state": array_checksums(read_arrays(workdir, step, "state")),
        "metrics": Record(workdir).headers[step].metrics,
    }


def assert_sealed(workdir: Path) -> None:
    """Checks the files of all checkpoints as a user would, with `sha256sum`."""
    check = ("sha256sum", "--check", "--strict", "--quiet", "SHA256SUMS")
    for step in list_steps(workdir):
        subprocess.run(check, cwd=workdir / str(step), check=True)


def metrics(workdir: Path) -> list[dict[str, Any]]:
    """Returns the lines of `metrics.jsonl` without the training speed."""
    text = (workdir / "metrics.jsonl").read_text()
    lines = [json.loads(line) for line in text.splitlines()]
    for line in lines:
        line.pop("examples_per_second", None)
    return lines


def result(workdir: Path, split: str = "test") -> dict[str, Any]:
    """Returns the only result of a split of the run's own data."""
    paths = (workdir / "evaluation").glob(f"{split}-*.json")
    (path,) = (path for path in paths if path.stem.count("-") == 1)
    content: dict[str, Any] = json.loads(path.read_text())
    return content


def assert_same_end(workdir: Path, reference_run: Path, step: int = STEPS) -> None:
    """Asserts that a checkpoint, the log and the results equal the reference run's."""
    assert checksums(workdir, step) == checksums(reference_run, step)
    assert metrics(workdir) == metrics(reference_run)
    found, expected = (
        {path.name: path.read_text() for path in folder.glob("evaluation/[!.]*")}
        for folder in (workdir, reference_run)
    )
    assert found == expected
    assert not (workdir / UNFINISHED_FOLDER).exists()
