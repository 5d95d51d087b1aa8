"""`rnnmnist.notebook`, which runs the commands from a notebook."""

import os
import re
import signal
import subprocess
import sys
import time

import pytest
import trainer
from support import UNOPTIMIZED, run_python

from rnnmnist import notebook
from rnnmnist.errors import UserError
from rnnmnist.runs.workdir import lock


def test_the_kernel_imports_no_jax() -> None:
    program = (
        "import sys\nfrom rnnmnist import notebook\n"
        "print({'jax', 'numpy', 'matplotlib'} & set(sys.modules))"
    )
    assert run_python("-c", program).stdout == "set()\n"


def test_a_failed_command_is_an_exception(capsys: pytest.CaptureFixture[str]) -> None:
    before = signal.getsignal(signal.SIGINT)
    with pytest.raises(notebook.CommandError) as caught:
        notebook.run("main", "--config.train.learning_rte=0.01")
    assert caught.value.exit_code == 2
    message = "rnnmnist.main failed with exit code 2"
    assert caught.value._render_traceback_() == [str(caught.value)] == [message]
    (printed,) = capsys.readouterr().out.splitlines()
    assert printed.startswith("error: --config.train.learning_rte: no such setting; ")
    assert signal.getsignal(signal.SIGINT) is before
    # Only some commands have a flag for the number of processes.
    with pytest.raises(notebook.CommandError):
        notebook.run("evaluate", "--workdir=missing")
    assert "missing does not exist" in capsys.readouterr().out


def start(run: trainer.Run) -> subprocess.Popen[str]:
    """A process that trains as a kernel does, after its first line of training."""
    program = (
        "import sys\nfrom rnnmnist import notebook\n"
        "try: notebook.run('main', *sys.argv[1:])\n"
        "except notebook.CommandError as error:\n"
        "    sys.exit(error.exit_code)"
    )
    endless = (*trainer.ENDLESS, "--config.train.log_every_steps=7")
    process = subprocess.Popen(
        [sys.executable, "-c", program, *run.arguments(*endless)],
        env=run.environment | UNOPTIMIZED,
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,  # Jupyter signals the kernel's whole group
    )
    assert process.stdout is not None
    assert any("loss" in line for line in process.stdout)
    return process


@pytest.mark.slow
def test_an_interrupt_saves(new_run: trainer.Run) -> None:
    process = start(new_run)
    os.killpg(process.pid, signal.SIGINT)
    output, _ = process.communicate(timeout=60)
    assert process.returncode == 130, output
    saved = re.search(r"stopped: saved step (\d+) of", output)
    assert saved is not None
    assert (new_run.workdir / saved[1] / "params").is_dir()


@pytest.mark.slow
def test_training_ends_if_the_kernel_is_killed(new_run: trainer.Run) -> None:
    process = start(new_run)
    process.kill()
    process.communicate()
    for _ in range(300):
        try:
            with lock(new_run.workdir):
                return
        except UserError:  # the trainer still holds the lock
            time.sleep(0.1)
    pytest.fail("the trainer outlived its kernel")
