"""Runs of several processes: agreement, faults, and output from process 0 alone."""

import shutil
import signal
import socket
import time
from pathlib import Path

import pytest
import trainer
from support import (
    Command,
    Once,
    called,
    one_line_error,
    output_of,
    refused,
    run_python,
)
from trainer import Run

from rnnmnist.errors import UserError
from rnnmnist.runs.workdir import lock
from rnnmnist.runtime import distributed

SIX_DEVICES = "--config.execution.num_devices=6"


@pytest.fixture(scope="session")
def pair(once: Once, environment: dict[str, str], data_dir: Path) -> Path:
    """The workdir of an undisturbed run of two processes."""

    def train(workdir: Path) -> None:
        run = trainer.Run(workdir, data_dir, environment)
        first, second = trainer.outcomes(run.start_together())
        assert (first[0], second[0]) == (0, 0), first[2] + second[2]
        assert "2 cpu devices of 2 processes" in first[1]
        assert first[2] == ""
        assert second[1:] == ("", "")  # only process 0 prints

    return once("pair", train)


@pytest.mark.slow
def test_two_processes_reproduce_the_run_of_one(
    pair: Path, reference_run: Path
) -> None:
    """The sum over two devices is the same to the last bit."""
    trainer.assert_same_end(pair, reference_run)


@pytest.mark.slow
def test_one_process_evaluates_a_checkpoint_of_two(pair: Path, tmp_path: Path) -> None:
    workdir = trainer.copy_of(pair, tmp_path / "run")
    shutil.rmtree(workdir / "evaluation")
    output_of(called("evaluate", f"--workdir={workdir}"))
    evaluated, trained = trainer.result(workdir), trainer.result(pair)
    for key in ("confusion", "params_sha256"):
        assert evaluated[key] == trained[key]


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


@pytest.mark.slow
def test_a_killed_process_ends_the_others_and_the_run_resumes(
    new_run: Run, pair: Path
) -> None:
    running = new_run.start_together(program=trainer.SLOW_SAVE)
    trainer.wait_for_training(running[0], "validation")  # during a save
    running[0].kill()
    _, (code, _, stderr) = trainer.outcomes(running)  # within its time limit
    assert code not in (0, 130, 143)
    # Our line if a collective operation fails first, jax's own report otherwise.
    line = "if another process of this run has ended, start all of them again"
    assert line in stderr or "another task died" in stderr
    new_run.finish()  # in one process
    trainer.assert_same_end(new_run.workdir, pair)


@pytest.mark.slow
@pytest.mark.usefixtures("pair")  # which has compiled the programs
def test_a_fault_in_one_process_ends_the_others(new_run: Run) -> None:
    program = (
        "import sys\n"
        "from rnnmnist.commands import command_line, train\n"
        "from rnnmnist.training import events\n"
        "def broken(*_): raise ValueError('a fault of our own')\n"
        "if '--process_id=0' in sys.argv:\n"
        "    events.predict_logits = broken\n"
        "command_line.run(train.main)\n"
    )
    running = new_run.start_together(program=["-c", program])
    first, second = trainer.outcomes(running)  # within its time limit
    assert first[0] == 1
    assert "ValueError: a fault of our own" in first[2]
    assert second[0] not in (0, 2, 130, 143)


@pytest.mark.slow
@pytest.mark.usefixtures("pair")  # which has compiled the programs
def test_a_second_interrupt_does_not_wait_for_other_processes(new_run: Run) -> None:
    first, second = new_run.start_together()
    try:
        trainer.wait_for_training(first)
        second.send_signal(signal.SIGSTOP)  # hangs
        first.send_signal(signal.SIGINT)
        time.sleep(1)
        assert first.poll() is None
        first.send_signal(signal.SIGINT)
        _, stderr = first.communicate(timeout=10)
        assert (first.returncode, stderr) == (130, "stopped\n")
    finally:
        first.kill()
        second.kill()
        second.communicate()


def refusals(environment: dict[str, str], *argvs: list[str]) -> list[str]:
    """Returns the line with which each process of a run is refused."""
    ended = trainer.outcomes(trainer.start_together(environment, argvs))
    assert [code for code, _, _ in ended] == [2] * len(argvs), ended
    lines = [stderr.removesuffix("\n") for _, _, stderr in ended]
    assert "\n" not in "".join(lines)
    return lines


@pytest.mark.slow
def test_different_settings_of_processes_are_one_line(new_run: Run) -> None:
    """The path of a cell can differ."""
    cells = [new_run.workdir.parent / f"{name}.py" for name in "ab"]
    for path in cells:
        path.write_text("class Cell: ...\n")
    args, others = (
        new_run.arguments(f"--config.model.cell={cell}:Cell") for cell in cells
    )
    others += ["--config.seed=7", "--config.train.clip_norm=0"]
    line = (
        "error: seed=7 on process 1 (process 0: 0), train.clip_norm=0.0 on process "
        "1 (process 0: 1.0): start all processes with the same settings"
    )
    assert refusals(new_run.environment, args, others) == [line] * 2
    assert not new_run.workdir.exists()


@pytest.mark.slow
def test_an_error_on_process_0_is_raised_on_all(new_run: Run) -> None:
    args, workdir = new_run.arguments(), new_run.workdir
    with lock(workdir):
        lines = refusals(new_run.environment, args, args)
    for line in lines:
        assert line.startswith(f"error: --workdir: {workdir} is in use by process ")
    assert list(workdir.iterdir()) == []


@pytest.mark.slow
def test_a_file_that_one_process_lacks_ends_all(
    environment: dict[str, str], tmp_path: Path
) -> None:
    """The path of the data can differ. Its name says nothing of a lost process."""
    found = tmp_path / "found.csv"
    missing = tmp_path / "gloo heartbeat UNAVAILABLE.csv"
    rows = [f"{number},0,{number % 2},{number}\n" for number in range(4)]
    found.write_text("".join(["sequence,time,label,x\n", *rows]))
    args = [f"--workdir={tmp_path / 'run'}", "--config=files"]
    argvs = [[*args, f"--config.data.path={path}"] for path in (found, missing)]
    lines = refusals(environment, *argvs)
    assert lines == [f"error: {missing}: No such file or directory"] * 2


@pytest.mark.slow
def test_a_workdir_that_is_not_shared_is_refused(
    environment: dict[str, str], data_dir: Path, tmp_path: Path
) -> None:
    args = [trainer.arguments(tmp_path / name, data_dir) for name in ("here", "there")]
    for line in refusals(environment, *args):
        assert "is not one folder for all processes" in line


@pytest.mark.slow
def test_missing_processes_are_one_line(
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
        environment={k: v for k, v in environment.items() if "proxy" not in k.lower()},
    )
    assert (finished.returncode, finished.stdout) == (1, "")
    assert finished.stderr == (
        f"error: --num_processes: not all of 2 processes have joined {address} within "
        "1 s; start each of them, with the same flags\n"
    )


@pytest.mark.slow
def test_the_doctor_checks_all_processes(new_run: Run) -> None:
    running = new_run.start_together(program=["-m", "rnnmnist", "doctor"])
    first, second = trainer.outcomes(running)
    assert (first[0], second[0], second[2]) == (0, 0, ""), first[2]
    assert "2 of 2 x cpu" in first[1]
    assert "a run of embedded would work here" in first[1]
    machine = [line.split()[0] for line in second[1].splitlines()]
    assert machine == ["versions", "machine"]


@pytest.mark.parametrize(
    ("address", "number", "index"),
    [(None, 2, None), ("a:1", None, None), ("a:1", 2, 2), ("here", 2, 1)],
)
def test_invalid_process_coordinates_are_refused(
    address: str | None, number: int | None, index: int | None
) -> None:
    with (
        pytest.raises(UserError, match=r"^coordinator_address: .*; give --coord"),
        distributed.initialize(address, number, index),
    ):
        pass


def test_a_taken_port_is_one_line(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("", 0))
        taken.listen()
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        flags = [f"--coordinator_address={address}", "--num_processes=2"]
        error = refused("main", f"--workdir={tmp_path}", *flags, "--process_id=0")
    assert f"cannot join {address} (OSError: " in error


def test_a_cluster_that_cannot_be_joined_is_one_line(
    command: Command, tmp_path: Path
) -> None:
    broken = {
        "SLURM_JOB_ID": "seven",
        "SLURM_STEP_NODELIST": "127.0.0.1",
        "SLURM_NTASKS": "2",
        "SLURM_PROCID": "0",
        "SLURM_LOCALID": "0",
    }
    finished = command("main", f"--workdir={tmp_path / 'run'}", **broken)
    line = one_line_error(finished)
    assert "the processes cannot join a cluster" in line
    assert "num_processes=1 to run alone" in line


def test_a_run_of_one_process_has_lost_no_other() -> None:
    """Also if its error reads as that of a collective operation."""
    with (
        pytest.raises(RuntimeError, match=r"^UNAVAILABLE"),
        distributed.initialize(None, 1, None),
    ):
        raise RuntimeError("UNAVAILABLE: no such host")
