"""Kills, signals, concurrent trainers, and evaluation during training."""

import os
import random
import re
import signal
import time
from functools import partial
from pathlib import Path

import pytest
import trainer
from support import UNOPTIMIZED, Command, one_line_error
from trainer import Run

import rnnmnist
from rnnmnist.errors import RunError
from rnnmnist.runs.workdir import UNFINISHED_FOLDER, list_steps

pytestmark = pytest.mark.slow


@pytest.mark.parametrize(
    "number",
    [n if n < 2 else pytest.param(n, marks=pytest.mark.exhaustive) for n in range(20)],
)
def test_a_run_killed_at_a_random_moment_resumes_to_the_same_result(
    new_run: Run, reference_run: Path, number: int
) -> None:
    """Saves are slow, so that `kill -9` interrupts some of them."""
    process = new_run.start(program=trainer.SLOW_SAVE)
    time.sleep(random.Random(number).uniform(0, 3))
    before = sorted(path.name for path in new_run.workdir.iterdir())
    process.kill()
    process.communicate()
    saved = [int(name) for name in before if name.isdecimal()]
    printed = new_run.finish()
    resumed = re.search(r"(?:resuming from|complete at) step (\d+)", printed)
    # Only work since the last finished checkpoint is lost.
    assert int(resumed[1] if resumed else 0) >= max(saved, default=0)
    trainer.assert_same_end(new_run.workdir, reference_run)
    print(f"killed at {saved}, during a save: {UNFINISHED_FOLDER in before}")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_run_saves_on_a_signal_and_resumes_to_the_same_result(
    new_run: Run, reference_run: Path, number: int
) -> None:
    process = new_run.start(program=trainer.SLOW_SAVE)
    process.send_signal(number)
    _, stderr = process.communicate(timeout=30)
    assert process.returncode == 128 + number, stderr
    (line,) = stderr.strip().splitlines()
    saved = re.match(rf"stopped: saved step (\d+) of {trainer.STEPS} in", line)
    assert saved is not None, line
    step = int(saved[1])
    assert trainer.metrics(new_run.workdir)[-1]["step"] == step
    assert list_steps(new_run.workdir)[-1] == step
    trainer.assert_sealed(new_run.workdir)
    assert f"resuming from step {step}\n" in new_run.finish()
    trainer.assert_same_end(new_run.workdir, reference_run)


@pytest.mark.parametrize("count", [6, pytest.param(60, marks=pytest.mark.exhaustive)])
def test_an_interrupt_at_any_moment_of_the_start_ends_a_command(
    new_run: Run, count: int
) -> None:
    """Once the command has begun, its exit code is 130.

    Earlier, while Python imports the command, an interrupt has Python's own effect.
    Half of the processes wait for a second process, which does not exist.
    """
    program = (
        "from rnnmnist.commands import command_line, train\n"
        "print('started', flush=True)\n"
        "command_line.run(train.main)\n"
    )
    start = partial(new_run.start, program=["-c", program], word="started")
    alone = (*trainer.ENDLESS, "--config.train.log_every_steps=100")
    address = f"--coordinator_address=127.0.0.1:{trainer.free_port()}"
    waiting = (*alone, address, "--num_processes=2", "--process_id=0")
    for number in range(count):
        process = start(*(waiting if number % 2 else alone), **UNOPTIMIZED)
        time.sleep(2.4 * number / count)
        process.send_signal(signal.SIGINT)
        ((code, _, stderr),) = trainer.outcomes([process])
        assert code in (130, -signal.SIGINT, 1), (number, stderr)
        assert code != 1 or "KeyboardInterrupt" in stderr, (number, stderr)


def test_a_second_trainer_is_refused_and_a_killed_trainer_holds_no_lock(
    new_run: Run, command: Command, reference_run: Path
) -> None:
    process = new_run.start(program=trainer.SLOW_SAVE)
    os.kill(process.pid, signal.SIGSTOP)  # before it finishes
    error = one_line_error(command("main", *new_run.arguments()))
    assert f"{new_run.workdir} is in use" in error
    process.kill()
    process.communicate()
    new_run.finish()
    trainer.assert_same_end(new_run.workdir, reference_run)


def test_evaluation_during_training_has_no_side_effects(new_run: Run) -> None:
    """If the trainer deletes the checkpoint, the error asks for a second evaluation."""
    workdir = new_run.workdir
    many = (*trainer.ENDLESS, "--config.train.eval_every_steps=7")
    process = new_run.start(*many, **UNOPTIMIZED)
    steps: list[int] = []
    try:
        while not list_steps(workdir):
            assert process.poll() is None
            time.sleep(0.05)
        while len(set(steps)) <= 5:
            for selector in ("best", "latest"):
                try:
                    result = rnnmnist.load(workdir, selector).evaluate("validation")
                except RunError as error:
                    assert "run the command again" in str(error)
                    continue
            steps.append(result.step)
            assert process.poll() is None
        process.send_signal(signal.SIGTERM)
        _, stderr = process.communicate(timeout=30)
    finally:
        process.kill()
    assert process.returncode == 143, stderr
    assert stderr.startswith("stopped: saved step")
    trainer.assert_sealed(workdir)
    others = {path.name for path in workdir.iterdir() if not path.name.isdecimal()}
    kept = {"config.json", "metrics.jsonl", "evaluation"}
    assert others == kept
