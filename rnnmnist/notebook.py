"""Runs the commands from a notebook, without importing jax.

Each command is a child process. If the kernel imported jax, it would hold the TPU's
lock, or most of a GPU's memory, until it exits.

    from rnnmnist import notebook
    notebook.train(Path("runs/colab"), "--config=default")
    notebook.run("evaluate", "--workdir=runs/colab")
"""

import math
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from rnnmnist.errors import RunError, first_line
from rnnmnist.runtime.signals import signal_handler

REDRAW_SECONDS = 5.0


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

    The first interrupt of the cell is forwarded, so that training saves and stops; the
    second one kills the command. Outside of the main thread, none is forwarded. If the
    kernel dies, the command ends at its next line.

    Raises:
        CommandError: if the exit code is not 0.
    """
    for _ in _stream(command, *args):
        pass


def train(workdir: Path, *args: str) -> None:
    """Runs `rnnmnist.main`, as `run` does, and draws its curves periodically."""
    workdir = Path(workdir).expanduser()
    plot = None
    drawn = -math.inf
    try:
        for _ in _stream("main", f"--workdir={workdir}", *args):
            if time.monotonic() - drawn >= REDRAW_SECONDS:
                plot = draw_curves(workdir, plot)
                drawn = time.monotonic()
    finally:
        draw_curves(workdir, plot)


def show_report(workdir: Path) -> None:
    """Runs `rnnmnist.report`, as `run` does, and displays the report's plots."""
    from IPython.display import Image, display

    workdir = Path(workdir).expanduser()
    run("report", f"--workdir={workdir}")
    for path in sorted((workdir / "report").glob("*.png")):
        display(Image(path.read_bytes(), retina=True))


def draw_curves(workdir: Path, plot: Any) -> Any:
    """Displays the learning curves of a run, if it has metrics yet.

    They replace an earlier plot, which is IPython's handle of it or None, and the new
    handle is returned. If they cannot be drawn, the reason is printed.
    """
    from IPython.display import Image, display

    from rnnmnist.runs import logs

    try:
        if metrics := logs.read(workdir, logs.Metrics):
            from rnnmnist.reporting import plots  # imports matplotlib

            image = Image(plots.learning_curves(metrics), retina=True)
            if plot is None:
                return display(image, display_id=True)
            plot.update(image)
    except Exception as error:
        print(f"the curves cannot be drawn: {first_line(error)}", flush=True)
    return plot


def _stream(command: str, *args: str) -> Iterator[str]:
    """Prints each line of a command's output, then yields it."""
    # On a Colab TPU jax would look for a cluster.
    flags = ["--num_processes=1"] if command in ("main", "doctor") else []
    interrupted = False

    def on_interrupt(number: int, _: object) -> None:
        nonlocal interrupted
        child.send_signal(signal.SIGKILL if interrupted else number)
        interrupted = True

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
        signal_handler(signal.SIGINT, on_interrupt),
    ):
        for line in child.stdout or ():
            print(line, end="", flush=True)
            yield line
    if child.returncode:
        raise CommandError(command, child.returncode)
