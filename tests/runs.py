"""A run that faults are injected into, and its unbroken twin to compare with."""

import json
import shutil
import socket
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

REPOSITORY = Path(__file__).resolve().parent.parent
STEPS = 120
SETTINGS = (
    "--config.model.hidden_size=48",
    "--config.train.batch_size=48",  # epochs end in the middle of batches
    f"--config.train.num_steps={STEPS}",
    "--config.train.ema_decay=0.9",  # so that weights and parameters differ
    "--config.train.log_every_steps=7",
    "--config.train.eval_every_steps=20",
    "--config.train.num_devices=2",  # the same bits on every machine
)
SLOW_SAVE = Path(__file__).parent / "faults" / "slow_save.py"


def words(workdir: Path, data_dir: Path, *more: str) -> list[str]:
    """The arguments of the run."""
    place = f"--config.data.data_dir={data_dir}"
    return [f"--workdir={workdir}", place, *SETTINGS, *more]


def start(
    environment: dict[str, str], arguments: list[str], program: Path | None = None
) -> subprocess.Popen[str]:
    """A process of the run, as soon as it has shown its first line of training."""
    what = ["-m", "rnnmnist.main"] if program is None else [str(program)]
    process = subprocess.Popen(
        [sys.executable, *what, *arguments],
        env=environment | {"PYTHONPATH": str(REPOSITORY)},
        cwd=REPOSITORY,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    wait_for_training(process)
    return process


def wait_for_training(process: subprocess.Popen[str], word: str = "loss") -> None:
    """Returns when a process has shown a line of training with a word in it."""
    assert process.stdout is not None
    for line in process.stdout:
        if word in line:
            return
    _, stderr = process.communicate()
    raise AssertionError(stderr)


def start_together(
    environment: dict[str, str],
    arguments: Sequence[Sequence[str]],
    variables: Sequence[dict[str, str]] = (),
    program: Sequence[str] = ("-m", "rnnmnist.main"),
) -> list[subprocess.Popen[str]]:
    """The processes of one run, on loopback; the first is started last.

    Args:
        environment: of all, whose proxies are for other hosts.
        arguments: of each.
        variables: of each besides, where they say its place; flags do otherwise.
        program: that each runs.
    """
    address, number = f"127.0.0.1:{free_port()}", len(arguments)
    clean = {
        name: value
        for name, value in environment.items()
        if "proxy" not in name.lower()
    }
    processes: list[subprocess.Popen[str]] = []
    for index in reversed(range(number)):
        place = [
            f"--coordinator_address={address}",
            f"--num_processes={number}",
            f"--process_id={index}",
        ]
        words = [*arguments[index], *([] if variables else place)]
        process = subprocess.Popen(
            [sys.executable, *program, *words],
            env=clean
            | {"PYTHONPATH": str(REPOSITORY)}
            | (variables[index] if variables else {}),
            cwd=REPOSITORY,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        processes.insert(0, process)
    return processes


def free_port() -> int:
    """A port that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def outcomes(processes: list[subprocess.Popen[str]]) -> list[tuple[int, str, str]]:
    """Exit code, output and errors of each; a minute is enough to end in."""
    try:
        ended = [process.communicate(timeout=120) for process in processes]
    finally:
        for process in processes:
            process.kill()
    codes = [process.returncode for process in processes]
    return [(code, *texts) for code, texts in zip(codes, ended, strict=True)]


def copy_of(workdir: Path, target: Path) -> Path:
    """A copy of a workdir to damage."""
    shutil.copytree(workdir, target)
    return target


def cut_back(workdir: Path, step: int) -> None:
    """Makes a complete run one that was killed after a step's checkpoint."""
    for folder in workdir.iterdir():
        if folder.name.isdecimal() and int(folder.name) > step:
            shutil.rmtree(folder)
    shutil.rmtree(workdir / "evaluation", ignore_errors=True)


def sums(workdir: Path, step: int = STEPS) -> dict[str, Any]:
    """The sums of a step: of parameters, optimizer's memory and metrics."""
    document = json.loads((workdir / str(step) / "sha256" / "metadata").read_text())
    del document["config"]  # which names the data set's place
    return document


def metrics(workdir: Path) -> list[dict[str, Any]]:
    """The lines of `metrics.jsonl`, times aside."""
    text = (workdir / "metrics.jsonl").read_text()
    lines = [json.loads(line) for line in text.splitlines()]
    return [
        {key: value for key, value in line.items() if key != "examples_per_second"}
        for line in lines
    ]


def assert_same_end(workdir: Path, reference_run: Path) -> None:
    """Holds that a run ended as its twin: every bit, every line, every count."""
    assert sums(workdir) == sums(reference_run)
    assert metrics(workdir) == metrics(reference_run)
    (found,), (expected,) = (
        [json.loads(path.read_text()) for path in (folder / "evaluation").iterdir()]
        for folder in (workdir, reference_run)
    )
    assert found == expected
    assert [path for path in workdir.iterdir() if "tmp" in path.name] == []
