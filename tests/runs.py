"""A run that faults are injected into, and its unbroken twin to compare with."""

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

REPOSITORY = Path(__file__).resolve().parent.parent
STEPS = 120
SETTINGS = (
    "--config.model.hidden_size=48",
    "--config.train.batch_size=48",  # epochs end in the middle of batches
    f"--config.train.num_steps={STEPS}",
    "--config.train.log_every_steps=7",
    "--config.train.eval_every_steps=20",
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
    assert process.stdout is not None
    for line in process.stdout:
        if "loss" in line:
            return process
    _, stderr = process.communicate()
    raise AssertionError(stderr)


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


def assert_same_end(workdir: Path, twin: Path) -> None:
    """Holds that a run ended as its twin: every bit, every line, every count."""
    assert sums(workdir) == sums(twin)
    assert metrics(workdir) == metrics(twin)
    (found,), (expected,) = (
        [json.loads(path.read_text()) for path in (folder / "evaluation").iterdir()]
        for folder in (workdir, twin)
    )
    assert found == expected
    assert [path for path in workdir.iterdir() if "tmp" in path.name] == []
