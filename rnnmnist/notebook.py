"""Runs the commands from a notebook, without importing jax.

Each command is a child process. If the kernel imported jax, it would hold the TPU's
lock, or most of a GPU's memory, until it exits.

    from rnnmnist import notebook
    notebook.run("main", "--workdir=runs/colab", "--config=default")
    notebook.run("evaluate", "--workdir=runs/colab")
"""

import os
import signal
import subprocess
import sys
from types import FrameType

from rnnmnist.errors import RunError
from rnnmnist.runtime.signals import signal_handler


class CommandError(RunError):
    """A command failed. The last line of its output is the reason."""

    def __init__(self, command: str, returncode: int) -> None:
        self.exit_code = returncode if returncode > 0 else 128 - returncode
        super().__init__(f"rnnmnist.{command} failed with exit code {self.exit_code}")

    def _render_traceback_(self) -> list[str]:
        """Returns what IPython shows instead of a traceback: the message."""
        return [str(self)]


def run(command: str, *args: str) -> None:
    """Runs `python -m rnnmnist.COMMAND ARGS` and streams its output into the cell.

    Interrupts of the cell are passed on to the command: after the first one, training
    saves a checkpoint and stops. IPython's `!` would end the command before it can
    save. Outside of the main thread, no interrupt is passed on. If the kernel dies, the
    command ends at its next line.

    Raises:
        CommandError: if the exit code is not 0.
    """
    # Without this flag, jax would look for a cluster on a Colab TPU.
    flags = ["--num_processes=1"] if command in ("main", "doctor") else []

    def pass_on(number: int, _: FrameType | None) -> None:
        child.send_signal(number)

    with (
        subprocess.Popen(
            [sys.executable, "-m", f"rnnmnist.{command}", *flags, *args],
            env=os.environ | {"PYTHONUNBUFFERED": "1"},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,  # a child whose pipe has no reader stops
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            process_group=0,  # Jupyter interrupts the kernel's whole group
        ) as child,
        signal_handler(signal.SIGINT, pass_on),
    ):
        for line in child.stdout or ():
            print(line, end="", flush=True)
    if child.returncode:
        raise CommandError(command, child.returncode)
