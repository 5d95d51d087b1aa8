"""Kills, signals, concurrent trainers, and evaluation during training."""

import json
import os
import random
import re
import signal
import time
from pathlib import Path

import pytest
import trainer
from support import Command, called, one_line_error, output_of, run_python

from rnnmnist.evaluation.network import TrainedNetwork
from rnnmnist.runs.results import write_result
from rnnmnist.runs.workdir import list_steps

pytestmark = pytest.mark.slow


@pytest.mark.parametrize(
    "number",
    [n if n < 3 else pytest.param(n, marks=pytest.mark.exhaustive) for n in range(20)],
)
def test_a_run_killed_at_a_random_moment_resumes_to_the_same_end(
    environment: dict[str, str],
    data_dir: Path,
    reference_run: Path,
    tmp_path: Path,
    number: int,
) -> None:
    """`kill -9`, with slow saves, so that some kills interrupt one."""
    workdir = tmp_path / "run"
    args = trainer.arguments(workdir, data_dir)
    process = trainer.start(environment, args, trainer.SLOW_SAVE)
    time.sleep(random.Random(number).uniform(0, 3))
    before = sorted(path.name for path in workdir.iterdir())
    process.kill()
    process.communicate()
    saved = [int(name) for name in before if name.isdecimal()]
    printed = trainer.run(workdir, data_dir)
    resumed = re.search(r"(?:resuming from|complete at) step (\d+)", printed)
    # Only work since the last finished checkpoint is lost.
    assert int(resumed[1] if resumed else 0) >= max(saved, default=0)
    trainer.assert_same_end(workdir, reference_run)
    unfinished = [name for name in before if "tmp" in name]
    print(f"killed at {saved}, during a save: {bool(unfinished)}")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_run_saves_on_a_signal_and_resumes_to_the_same_end(
    environment: dict[str, str],
    data_dir: Path,
    reference_run: Path,
    tmp_path: Path,
    number: int,
) -> None:
    workdir = tmp_path / "run"
    args = trainer.arguments(workdir, data_dir)
    process = trainer.start(environment, args, trainer.SLOW_SAVE)
    process.send_signal(number)
    _, stderr = process.communicate(timeout=30)
    assert process.returncode == 128 + number, stderr
    (line,) = stderr.strip().splitlines()
    saved = re.match(rf"stopped: saved step (\d+) of {trainer.STEPS} in", line)
    assert saved is not None, line
    step = int(saved[1])
    assert trainer.metrics(workdir)[-1]["step"] == step
    printed = output_of(called("verify", f"--workdir={workdir}"))
    assert f"step {step}  good" in printed
    assert f"resuming from step {step}\n" in trainer.run(workdir, data_dir)
    trainer.assert_same_end(workdir, reference_run)


def test_a_signal_in_the_last_chunk_determines_the_exit_code(
    environment: dict[str, str], data_dir: Path, tmp_path: Path
) -> None:
    """The loop sees the signal after its last step."""
    program = (
        "import os, signal, sys\n"
        "from rnnmnist import cli, main\n"
        "from rnnmnist.training import loop\n"
        "original = loop.validate\n"
        "def validate(run, state, step):\n"
        "    if step == run.config.train.num_steps:\n"
        "        os.kill(os.getpid(), signal.SIGTERM)\n"
        "    return original(run, state, step)\n"
        "loop.validate = validate\n"
        "cli.run(main.main)\n"
    )
    workdir = tmp_path / "run"
    args = trainer.arguments(workdir, data_dir)
    finished = run_python("-c", program, *args, environment=environment)
    assert finished.returncode == 143, finished.stderr
    assert f"saved step {trainer.STEPS} of {trainer.STEPS}" in finished.stderr
    assert not (workdir / "evaluation").exists()
    assert "complete" in trainer.run(workdir, data_dir)
    assert len(list((workdir / "evaluation").iterdir())) == 1


def test_a_second_interrupt_exits_immediately(
    unoptimized: dict[str, str], data_dir: Path, tmp_path: Path
) -> None:
    """Long before the next event."""
    args = trainer.arguments(tmp_path / "run", data_dir, *trainer.ENDLESS)
    process = trainer.start(unoptimized, args, word="parameters")
    try:
        time.sleep(4)
        process.send_signal(signal.SIGINT)
        time.sleep(1)
        assert process.poll() is None
        process.send_signal(signal.SIGINT)
        _, stderr = process.communicate(timeout=10)
    finally:
        process.kill()
    assert process.returncode == 130
    assert stderr == "stopped\n"
    assert list_steps(tmp_path / "run") == []


def test_a_signal_before_training_terminates_the_process(
    environment: dict[str, str], data_dir: Path, tmp_path: Path
) -> None:
    args = trainer.arguments(tmp_path / "run", data_dir)
    process = trainer.popen(environment, *trainer.MAIN, *args)
    time.sleep(0.4)
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=30)
    assert process.returncode == -signal.SIGTERM
    assert not (tmp_path / "run" / "metrics.jsonl").exists()


def test_an_interrupt_ends_every_start(
    unoptimized: dict[str, str], data_dir: Path, tmp_path: Path
) -> None:
    """At 60 moments. Half of the processes would wait for another one."""
    program = (  # `python -m rnnmnist.main`, after Python's own start
        "import runpy, sys\n"
        "print('started', flush=True)\n"
        "sys.argv[0] = '-m'\n"
        "runpy.run_module('rnnmnist.main', run_name='__main__', alter_sys=True)\n"
    )
    often = (*trainer.ENDLESS, "--config.train.log_every_steps=100")
    alone = trainer.arguments(tmp_path / "run", data_dir, *often)
    address = f"--coordinator_address=127.0.0.1:{trainer.free_port()}"
    waiting = [*alone, address, "--num_processes=2", "--process_id=0"]
    for number in range(60):
        args = waiting if number % 2 else alone
        process = trainer.start(unoptimized, args, ["-c", program], "started")
        time.sleep(number / 25)
        process.send_signal(signal.SIGINT)
        ((code, _, stderr),) = trainer.outcomes([process])
        assert code in (130, -signal.SIGINT), (number, stderr)


def test_a_second_trainer_is_refused_and_a_killed_one_holds_no_lock(
    environment: dict[str, str],
    command: Command,
    data_dir: Path,
    reference_run: Path,
    tmp_path: Path,
) -> None:
    workdir = tmp_path / "run"
    args = trainer.arguments(workdir, data_dir)
    process = trainer.start(environment, args, trainer.SLOW_SAVE)
    os.kill(process.pid, signal.SIGSTOP)  # keeps it from finishing
    error = one_line_error(command("main", *args))
    assert f"in use by process {process.pid} on {os.uname().nodename}" in error
    process.kill()
    process.communicate()
    trainer.run(workdir, data_dir)
    trainer.assert_same_end(workdir, reference_run)


def test_evaluation_during_training_succeeds_without_side_effects(
    unoptimized: dict[str, str], data_dir: Path, tmp_path: Path
) -> None:
    """While the trainer deletes old checkpoints."""
    workdir = tmp_path / "run"
    many = (*trainer.ENDLESS, "--config.train.eval_every_steps=7")
    process = trainer.start(unoptimized, trainer.arguments(workdir, data_dir, *many))
    steps: list[int] = []
    try:
        while not list_steps(workdir):
            time.sleep(0.05)
        while len(steps) <= 20 or len(set(steps)) <= 10:
            for selector in ("best", "latest"):
                network = TrainedNetwork(workdir, selector)
                data = network.load_split("validation", "evaluate")
                write_result(workdir, network.score(*data))
            steps.append(network.checkpoint_step)
            assert process.poll() is None
        process.send_signal(signal.SIGTERM)
        _, stderr = process.communicate(timeout=30)
    finally:
        process.kill()
    assert process.returncode == 143, stderr
    assert stderr.startswith("stopped: saved step")
    output_of(called("verify", f"--workdir={workdir}"))
    others = {path.name for path in workdir.iterdir() if not path.name.isdecimal()}
    kept = {"config.json", "metrics.jsonl", "sessions.jsonl", "evaluation"}
    assert others == kept


@pytest.mark.usefixtures("fast_programs")
def test_runs_resume_with_other_numbers_of_devices(
    data_dir: Path, tmp_path: Path
) -> None:
    workdir = tmp_path / "run"
    for devices, steps in ((8, 20), (1, 40), (8, 60)):
        printed = trainer.run(
            workdir,
            data_dir,
            f"--config.execution.num_devices={devices}",
            f"--config.train.num_steps={steps}",
            # Other schedules would be compiled for each number of steps.
            "--config.train.schedule=constant",
            "--config.train.warmup_fraction=0",
        )
        assert f"{devices} cpu device" in printed
    lines = trainer.metrics(workdir)
    validated = [line["step"] for line in lines if line["split"] == "validation"]
    assert validated == [20, 40, 60]
    assert json.loads((workdir / "config.json").read_text())["train"]["num_steps"] == 60
