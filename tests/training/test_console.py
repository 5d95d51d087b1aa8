"""The lines that a training run prints."""

import dataclasses
import os
import pty
import re
import select
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support import SMALL, TASK, make_metrics, run_config

import rnnmnist
from rnnmnist.errors import RunError
from rnnmnist.runs.workdir import list_steps
from rnnmnist.training import events, loop
from rnnmnist.training.console import Progress, describe_sequences


def test_the_time_left_is_that_of_the_steps_so_far(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """On a run that resumed from step 100; an epoch has 429.7 steps."""
    clock = iter([1000.0, 1030.0, 1040.0])
    monkeypatch.setattr(time, "monotonic", lambda: next(clock))
    config = run_config({"train.num_steps": 400}).train
    progress = Progress(config, TASK, 100, verbose=True)
    progress.show(make_metrics(200, "train", 128, [96], [0.51234], 12345.6))
    (line,) = capsys.readouterr().out.splitlines()
    assert line == (
        "step 200/400  50 %  60 s left  loss 0.5123  accuracy 75.00 %  epoch 0.5  "
        "12,346 images/s"
    )


def test_a_single_feature_is_singular() -> None:
    task = dataclasses.replace(TASK, image_shape=None, features=1, feature_names=("x",))
    assert " with features: x; classes" in describe_sequences(task)


@pytest.fixture
def terminal() -> Iterator[tuple[Any, int]]:
    """A pseudo-terminal: the file that a program writes, and what reads its screen."""
    screen, program = pty.openpty()
    with os.fdopen(program, "w") as file:
        yield file, screen
    os.close(screen)


def lines_of(screen: int) -> list[str]:
    """The lines that a terminal shows, on which text overwrites what was there."""
    written = b""
    while select.select([screen], [], [], 0.2)[0]:  # a terminal passes on text in parts
        written += os.read(screen, 1 << 16)
    shown, column = [""], 0
    for part in re.split(r"(\r|\n)", written.decode()):
        if part == "\n":
            shown.append("")
        elif part == "\r":
            column = 0
        else:
            line = shown[-1]
            shown[-1] = line[:column] + part + line[column + len(part) :]
            column += len(part)
    return shown


@pytest.mark.parametrize(
    ("variables", "width", "count"),
    [
        ({"TERM": "xterm"}, 40, 1),
        ({"TERM": "dumb"}, 100, 4),
    ],
)
def test_a_terminal_shows_one_line_of_training(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    terminal: Any,
    variables: dict[str, str],
    width: int,
    count: int,
) -> None:
    """It fits, and an error ends it. Validations stay."""
    original = events.score_validation

    def fail_at_20(*args: Any) -> Any:
        step = args[-1]
        if step == 20:
            raise RunError("a failure")
        return original(*args)

    monkeypatch.setattr(loop, "score_validation", fail_at_20)
    monkeypatch.setattr(sys, "stdout", terminal[0])
    for name, value in variables.items() | {("COLUMNS", str(width))}:
        monkeypatch.setenv(name, value)
    inputs, labels = np.eye(40, 5), np.arange(40) % 2
    settings = SMALL | {"num_steps": 400}
    with pytest.raises(RunError, match="a failure"):
        rnnmnist.fit(inputs, labels, workdir=tmp_path, **settings)
    shown = lines_of(terminal[1])
    trained = [line.rstrip() for line in shown if "s left" in line]
    assert len(trained) == count
    assert re.match(r"step 20/400  5 %  \d+ s left ", trained[-1])
    assert ("sequences/s" in trained[-1]) == (width == 100)
    assert all(len(line) < width for line in trained)
    (validated,) = (line.rstrip() for line in shown if "validation loss" in line)
    assert re.search(r"accuracy [\d.]+ % \(\d of \d\)$", validated)
    assert shown[-1] == ""


def test_a_message_erases_the_line_on_a_terminal(terminal: Any) -> None:
    program = (
        "from rnnmnist.errors import exit_immediately\n"
        "print('epoch 1.0', end='', flush=True)\n"
        "exit_immediately('stop', 130)\n"
    )
    streams = dict.fromkeys(("stdout", "stderr"), terminal[0])
    variables = os.environ | {"TERM": "xterm"}
    subprocess.run([sys.executable, "-c", program], **streams, env=variables)
    assert [line.rstrip() for line in lines_of(terminal[1])] == ["stop", ""]


@pytest.mark.slow
def test_a_training_goes_on_when_the_reader_of_its_output_has_ended(
    tmp_path: Path, unoptimized: dict[str, str]
) -> None:
    """As with `| head -1`. A line on standard error says so, and the exit code is 0."""
    labels = np.arange(40) % 2
    np.savez(tmp_path / "eye.npz", inputs=np.eye(40), labels=labels)
    command = [sys.executable, "-m", "rnnmnist.main", "--config=files"]
    command += [f"--workdir={tmp_path / 'run'}", "--config.model.cell=lstm"]
    command += [f"--config.data.path={tmp_path / 'eye.npz'}", "--num_processes=1"]
    command += ["--config.train.num_steps=20", "--config.execution.num_devices=1"]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, stdout=pipe, stderr=pipe, env=unoptimized) as run:
        assert run.stdout is not None
        assert run.stderr is not None
        assert run.stdout.readline().startswith(b"lstm with ")
        run.stdout.close()
        (warning,) = run.stderr.read().splitlines()
    assert run.returncode == 0
    assert warning.startswith(b"warning: standard output has no reader")
    assert list_steps(tmp_path / "run")[-1] == 20
