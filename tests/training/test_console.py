"""The printed lines of a training run."""

import errno
import io
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from support import TASK, make_metrics, run_config

from rnnmnist.runs.workdir import list_steps
from rnnmnist.training.console import Progress


def test_the_time_left_follows_from_the_speed(
    capsys: pytest.CaptureFixture[str],
) -> None:
    config = run_config({"train.num_steps": 400}).train
    progress = Progress(config, TASK, verbose=True)
    progress.show(make_metrics(200, "train", 128, [96], [0.51234], 12345.6))
    (line,) = capsys.readouterr().out.splitlines()
    assert line == (
        "step 200/400  50 %  loss 0.5123  accuracy 75.00 %  12,346 images/s  2 s left"
    )


def test_control_characters_in_names_are_escaped(
    capsys: pytest.CaptureFixture[str],
) -> None:
    progress = Progress(run_config({}).train, TASK, verbose=True)
    progress.write("a group \x1b]0;title\x07\nthe next line")
    assert capsys.readouterr().out == "a group \\x1b]0;title\\x07\nthe next line\n"


def raise_full(text: str) -> int:
    raise OSError(errno.ENOSPC, "No space left on device")


@pytest.mark.parametrize("output", ["full", "closed", "ascii"])
def test_a_closed_output_is_one_warning(
    output: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    file = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
    if output == "full":
        monkeypatch.setattr(file, "write", raise_full)
    elif output == "closed":
        file.close()
    progress = Progress(run_config({}).train, TASK, verbose=True)
    with monkeypatch.context() as patch:
        patch.setattr(sys, "stdout", file)
        progress.write("99.19 ± 0.04 %")
        progress.write("the next line")
    (record,) = caplog.records
    assert record.message.startswith("cannot write to standard output (")


@pytest.mark.slow
def test_training_continues_without_a_reader_of_its_output(
    tmp_path: Path, unoptimized: dict[str, str]
) -> None:
    """With `| head -1`, standard error has one warning, and the exit code is 0."""
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
    assert list_steps(tmp_path / "run")[-1] == 20
    assert warning.startswith(b"warning: cannot write to standard output (")


@pytest.mark.parametrize(
    ("redirection", "message"),
    [
        (">&- <&-", b""),
        (">/dev/full", b"error: standard output: No space left on device\n"),
    ],
)
def test_errors_reach_standard_error(redirection: str, message: bytes) -> None:
    def done(argv: str) -> tuple[int, bytes]:
        command = f"{sys.executable} -m rnnmnist {argv} {redirection}"
        env = os.environ | {"PYTHONUNBUFFERED": ""}
        run = subprocess.run(
            command, shell=True, stderr=subprocess.PIPE, env=env, check=False
        )
        return run.returncode, run.stderr

    code, errors = done("evaluate --workdir=absent")
    assert (code, len(errors.splitlines())) == (2, 1)
    assert errors.startswith(b"error: workdir: ")
    assert done("--version") == (1 if message else 0, message)
    code, errors = done("predict -")  # an empty or closed standard input
    assert (code, len(errors.splitlines())) == (2, 1)
