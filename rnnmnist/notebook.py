"""Runs the commands from a notebook, without importing jax.

Each command is a child process. If the kernel imported jax, it would hold the TPU's
lock, or most of a GPU's memory, until it exits.

    from rnnmnist import notebook
    notebook.train(Path("runs/colab"), "--config=default")
    notebook.run("evaluate", "--workdir=runs/colab")
"""

import contextlib
import math
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import FrameType
from typing import Any

from rnnmnist.errors import RunError, first_line

REDRAW_SECONDS = 5.0
# Flags that precede those of the cell. On a Colab TPU jax would look for a cluster.
DEFAULT_FLAGS = {"main": ("--num_processes=1",), "doctor": ("--num_processes=1",)}
# With which a command ends when it fails. `CommandError` shows that line, once.
LAST_LINES = ("error: ", "stopped")
DIGIT = 4  # the shipped test images of 4 are also in MNIST's validation split


class CommandError(RunError):
    """A command failed. The message is its last line of output and its exit code."""

    def __init__(self, command: str, last_line: str, returncode: int) -> None:
        if returncode < 0:
            self.exit_code = 128 - returncode
            status = f"ended by {signal.Signals(-returncode).name}"
        else:
            self.exit_code = returncode
            status = f"exit code {returncode}"
        super().__init__(f"{last_line or 'no output'} (rnnmnist.{command}, {status})")

    def _render_traceback_(self) -> list[str]:
        """Returns what IPython shows instead of a traceback: the message."""
        return [str(self)]


def run(
    command: str, *args: str, after_line: Callable[[], None] = lambda: None
) -> None:
    """Runs `python -m rnnmnist.COMMAND ARGS` and streams its output into the cell.

    A last line with an error is not printed: it is the message of the exception. The
    first interrupt of the cell is forwarded, so that training saves and stops; the
    second one kills the command. If the kernel dies, the command ends at its next line.

    Raises:
        CommandError: if the exit code is not 0.
        ValueError: outside the main thread, which alone can handle interrupts.
    """
    flags = DEFAULT_FLAGS.get(command, ())
    line = held = ""
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
        _forward_interrupts(child),
    ):
        for line in child.stdout or ():
            print(held, end="", flush=True)
            held = line if line.startswith(LAST_LINES) else ""
            print("" if held else line, end="", flush=True)
            after_line()
    if child.returncode:
        raise CommandError(command, line.strip(), child.returncode)
    print(held, end="", flush=True)


def train(workdir: Path, *args: str) -> None:
    """Runs `rnnmnist.main`, as `run` does, and draws its curves periodically."""
    workdir = Path(workdir).expanduser()
    curves = Curves(workdir)
    try:
        run("main", f"--workdir={workdir}", *args, after_line=curves.draw_if_due)
    finally:
        curves.draw()


def show_report(workdir: Path) -> None:
    """Runs `rnnmnist.report`, as `run` does, and displays the report's plots."""
    workdir = Path(workdir).expanduser()
    run("report", f"--workdir={workdir}")
    for path in sorted((workdir / "report").glob("*.png")):
        _show(path.read_bytes())


def read_digit(workdir: Path) -> None:
    """Classifies an image with the network of a run and displays how it is read.

    The image, one of `DIGIT` that the package ships, was not used for training.

    Raises:
        CommandError: if `rnnmnist.predict` fails, as for a run on other data.
    """
    from rnnmnist.data import datasets
    from rnnmnist.inference.image_io import encode

    images, labels = datasets.embedded_images()["test"]
    image = images[labels == DIGIT][0]
    with tempfile.TemporaryDirectory() as folder:
        digit = Path(folder) / f"a_{DIGIT}.png"
        plot = Path(folder) / "plot.png"
        digit.write_bytes(encode(image))
        workdir = Path(workdir).expanduser()
        run("predict", f"--workdir={workdir}", f"--show={plot}", str(digit))
        _show(plot.read_bytes())


def _show(png: bytes, handle: Any = None) -> Any:
    """Displays an image in the output of the cell, and returns IPython's handle of it.

    With the handle of an earlier image, it replaces that one.
    """
    from IPython.display import Image, display

    image = Image(png, retina=True)
    if handle is None:
        return display(image, display_id=True)
    handle.update(image)
    return handle


@contextlib.contextmanager
def _forward_interrupts(child: "subprocess.Popen[str]") -> Iterator[None]:
    """Forwards the first SIGINT to a child, and kills it at the second."""
    interrupted = False

    def on_interrupt(number: int, frame: FrameType | None) -> None:
        nonlocal interrupted
        child.send_signal(signal.SIGKILL if interrupted else number)
        interrupted = True

    previous = signal.signal(signal.SIGINT, on_interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, previous)


class Curves:
    """Learning curves of a run in the output of a cell, updated in place."""

    def __init__(self, workdir: Path) -> None:
        self._workdir = workdir  # which need not exist
        self._drawn = -math.inf  # seconds of the monotonic clock
        self._display: Any = None  # IPython's display handle

    def draw_if_due(self) -> None:
        """Draws, unless the last drawing is more recent than `REDRAW_SECONDS`."""
        if time.monotonic() - self._drawn >= REDRAW_SECONDS:
            self.draw()

    def draw(self) -> None:
        """Draws the metrics of the run, if there are any.

        If that fails, the reason is printed and the run continues.
        """
        try:
            if png := plot_curves(self._workdir):
                self._display = _show(png, self._display)
                self._drawn = time.monotonic()
        except Exception as error:
            print(f"the curves cannot be drawn: {first_line(error)}", flush=True)
            self._drawn = time.monotonic()


def plot_curves(workdir: Path) -> bytes | None:
    """Returns the learning curves of a run as a PNG, if it has any metrics."""
    from rnnmnist.runs import logs

    metrics = logs.read(workdir, logs.Metrics)
    if not metrics:
        return None
    from rnnmnist.reporting import plots  # imports matplotlib

    return plots.learning_curves(metrics)
