"""The lines that a training run prints."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from support import TASK, make_metrics, run_config

from rnnmnist.runs.workdir import list_steps
from rnnmnist.training.console import Progress, write


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


def test_names_cannot_change_the_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    write("a group \x1b]0;title\x07\nthe next line")
    assert capsys.readouterr().out == "a group \\x1b]0;title\\x07\nthe next line\n"


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
