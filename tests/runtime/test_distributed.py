"""Runs of several processes: agreement, faults, and output of process 0 only."""

import signal
import socket
from pathlib import Path
from unittest import mock

import jax
import pytest
import trainer
from support import (
    Once,
    refused,
    run_python,
)
from trainer import Run

from rnnmnist.errors import UserError
from rnnmnist.runtime import distributed

SIX_DEVICES = "--config.execution.num_devices=6"


@pytest.fixture(scope="session")
def pair(once: Once, environment: dict[str, str], data_dir: Path) -> Path:
    """Returns the workdir of an uninterrupted run of two processes."""

    def train(workdir: Path) -> None:
        run = trainer.Run(workdir, data_dir, environment)
        first, second = trainer.outcomes(run.start_together())
        assert (first[0], second[0]) == (0, 0), first[2] + second[2]
        assert "cpu devices: 2, processes: 2" in first[1]
        assert first[2] == ""
        assert second[1:] == ("", "")  # only process 0 prints

    return once("pair", train)


@pytest.mark.slow
def test_two_processes_reproduce_the_run_of_one(
    pair: Path, reference_run: Path
) -> None:
    """The sum over two devices is equal to the last bit."""
    trainer.assert_same_end(pair, reference_run)


@pytest.mark.slow
def test_a_run_resumes_with_another_number_of_processes(
    new_run: Run, unoptimized: dict[str, str], pair: Path
) -> None:
    workdir = trainer.copy_of(pair, new_run.workdir)
    trainer.cut_back(workdir, 100)
    fast = new_run._replace(environment=unoptimized)
    three = trainer.outcomes(fast.start_together(SIX_DEVICES, count=3))
    assert [code for code, _, _ in three] == [0] * 3, three
    assert "resuming from step 100\n" in three[0][1]
    found, expected = trainer.metrics(workdir), trainer.metrics(pair)
    assert [line["step"] for line in found] == [line["step"] for line in expected]
    for a, b in zip(found, expected, strict=True):
        assert a["loss"] == pytest.approx(b["loss"], rel=0.02)
    trainer.cut_back(workdir, 100)
    assert "resuming from step 100\n" in new_run.finish()
    trainer.assert_same_end(workdir, pair)


@pytest.mark.slow
def test_a_signal_to_one_process_saves_and_stops_all(new_run: Run, pair: Path) -> None:
    running = new_run.start_together()
    trainer.wait_for_training(running[0])
    running[1].send_signal(signal.SIGTERM)
    ended = trainer.outcomes(running)
    assert [code for code, _, _ in ended] == [143] * 2, ended
    lines = {stderr.strip() for _, _, stderr in ended}
    assert len(lines) == 1, lines
    stopped = f"of {trainer.STEPS} in {new_run.workdir}; start the run again"
    assert stopped in lines.pop()
    assert "resuming from step" in new_run.finish()  # in one process
    trainer.assert_same_end(new_run.workdir, pair)


# As `python -m rnnmnist.main`, with a heartbeat that is looked for more often.
HASTY = """
import os, signal, sys
from rnnmnist.commands import command_line, train
from rnnmnist.runtime import distributed
from rnnmnist.training import loop
distributed.HEARTBEAT_TIMEOUT_SECONDS = 10
"""
RUN = "command_line.run(train.main)\n"
# In the last process, before the first validation.
HANGS = "def fail(*_): os.kill(os.getpid(), signal.SIGSTOP)\n"
BREAKS = "def fail(*_): raise ValueError('a fault of our own')\n"
FAILS = "if '--process_id=1' in sys.argv: loop.validate = fail\n"


@pytest.mark.slow
@pytest.mark.usefixtures("pair")  # which has compiled the programs
@pytest.mark.parametrize(
    "failure", [pytest.param(HANGS, marks=pytest.mark.exhaustive), BREAKS]
)
def test_a_process_that_hangs_or_fails_stops_the_others(
    new_run: Run, failure: str
) -> None:
    program = HASTY + failure + FAILS + RUN
    first, second = new_run.start_together(program=["-c", program])
    try:
        first.communicate(timeout=60)
        assert first.returncode not in (0, 2, 130, 143)
        if failure == BREAKS:
            _, stderr = second.communicate(timeout=10)
            assert second.returncode == 1
            assert "ValueError: a fault of our own" in stderr
    finally:
        trainer.kill(first, second)


@pytest.mark.slow
@pytest.mark.parametrize("killed", [0, pytest.param(1, marks=pytest.mark.exhaustive)])
def test_a_killed_process_stops_the_others_and_the_run_resumes(
    new_run: Run, pair: Path, killed: int
) -> None:
    running = new_run.start_together(program=trainer.SLOW_SAVE)
    trainer.wait_for_training(running[0], "validation")  # during a save
    running[killed].kill()
    ended = trainer.outcomes(running)  # within its time limit
    assert ended[1 - killed][0] not in (0, 2, 130, 143)
    new_run.finish()  # in one process
    trainer.assert_same_end(new_run.workdir, pair)


def refusal(environment: dict[str, str], *argvs: list[str]) -> str:
    """Returns the error line of the second process of a run."""
    program = ["-c", HASTY + RUN]
    processes = trainer.start_together(environment, argvs, program)
    first, second = trainer.outcomes(processes)
    assert first[0] not in (0, 2, 130, 143)
    assert second[0] == 2, second
    (line,) = second[2].splitlines()
    return line


@pytest.mark.slow
def test_processes_with_different_settings_are_refused_in_one_line(
    new_run: Run,
) -> None:
    """The path of a cell can differ."""
    cells = [new_run.workdir.parent / f"{name}.py" for name in "ab"]
    for path in cells:
        path.write_text("import flax.linen as nn\nclass Cell(nn.GRUCell): ...\n")
    args, others = (
        new_run.arguments(f"--config.model.cell={cell}:Cell") for cell in cells
    )
    others += ["--config.seed=7", "--config.train.clip_norm=0"]
    line = refusal(new_run.environment, args, others)
    assert line.startswith(
        "error: seed=7 on process 1 (process 0: 0), train.clip_norm=0.0 on process "
        "1 (process 0: 1.0); "
    )
    assert not (new_run.workdir / "config.json").exists()


@pytest.mark.slow
def test_a_workdir_that_is_not_shared_is_refused(
    environment: dict[str, str], data_dir: Path, tmp_path: Path
) -> None:
    args = [trainer.arguments(tmp_path / name, data_dir) for name in ("here", "there")]
    assert f"workdir: {tmp_path}/there " in refusal(environment, *args)


@pytest.mark.slow
def test_missing_processes_are_reported_in_one_line(
    environment: dict[str, str], tmp_path: Path
) -> None:
    program = (
        "from rnnmnist.commands import command_line, train\n"
        "from rnnmnist.runtime import distributed\n"
        "distributed.JOIN_TIMEOUT_SECONDS = 1\n"
        "command_line.run(train.main)\n"
    )
    address = f"127.0.0.1:{trainer.free_port()}"
    finished = run_python(
        "-c",
        program,
        f"--workdir={tmp_path / 'run'}",
        "--process_id=1",
        f"--coordinator_address={address}",
        "--num_processes=2",
        environment=environment,
    )
    assert (finished.returncode, finished.stdout) == (1, "")
    (line,) = finished.stderr.splitlines()
    assert line.startswith("error: num_processes: ")


@pytest.mark.parametrize(
    ("address", "number", "index"),
    [(None, 2, None), ("a:1", None, None), ("a:1", 2, 2), ("here", 2, 1)],
)
def test_invalid_process_coordinates_are_refused(
    address: str | None, number: int | None, index: int | None
) -> None:
    with pytest.raises(
        UserError, match=r"^coordinator_address: .*; pass the HOST:PORT"
    ):
        distributed.initialize(address, number, index)


def test_a_port_in_use_is_reported_in_one_line(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("", 0))
        taken.listen()
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        flags = [f"--coordinator_address={address}", "--num_processes=2"]
        error = refused("main", f"--workdir={tmp_path}", *flags, "--process_id=0")
    assert f"cannot join {address} (OSError: " in error


def test_a_run_continues_alone_if_no_cluster_is_detected(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("SLURM_NTASKS", "2")
    monkeypatch.setattr(
        jax.distributed, "initialize", mock.Mock(side_effect=ValueError("no metadata"))
    )
    distributed.initialize(None, None, None)
    (warning,) = caplog.messages
    assert "(ValueError: no metadata), so the run continues as a single" in warning
