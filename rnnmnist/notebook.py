"""A notebook's way to the commands, which imports neither jax nor anything slow.

Each command is a child process: a kernel that imported jax would hold the TPU's lock,
or most of a GPU's memory, for as long as it lives.

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
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import FrameType
from typing import Any

from rnnmnist.errors import RunError, first_line
from rnnmnist.runtime.workdir import MetricsFile

SECONDS_BETWEEN_PICTURES = 5.0
# Said before what the cell says. On a Colab TPU jax would look for a cluster.
ALWAYS = {"main": ("--num_processes=1",), "doctor": ("--num_processes=1",)}

Lines = list[dict[str, Any]]  # of `metrics.jsonl`


class CommandError(RunError):
    """A command did not end well; the message is its last line and its exit code."""

    def __init__(self, command: str, last_line: str, returncode: int) -> None:
        killed = returncode < 0
        how = (
            f"ended by {signal.Signals(-returncode).name}"
            if killed
            else f"exit code {returncode}"
        )
        super().__init__(
            f"{last_line or 'it printed nothing'} (rnnmnist.{command}, {how})"
        )
        self.exit_code = 128 - returncode if killed else returncode

    def _render_traceback_(self) -> list[str]:
        """What a notebook shows: the line alone, as a terminal would."""
        return [str(self)]


def run(command: str, *arguments: str) -> None:
    """Runs `python -m rnnmnist.COMMAND ARGUMENTS`; its output streams into the cell.

    The first interrupt of the cell is passed on, so that training saves before it
    stops; the second kills. If the kernel dies, the command ends at its next line.

    Args:
        command: `main`, `evaluate` and so on.
        arguments: the words after it.

    Raises:
        CommandError: when the command exits with anything but 0.
        ValueError: outside the main thread, where no interrupt can be heard.
    """
    _stream(command, arguments, lambda: None)


def train(workdir: Path, *arguments: str) -> None:
    """Trains, or goes on, under a picture of the curves that grows every few seconds.

    Args:
        workdir: where the run lives.
        arguments: further words for `rnnmnist.main`.

    Raises:
        CommandError: as `run` does.
        ValueError: as `run` does.
    """
    workdir = Path(workdir).expanduser()
    curves = Curves(workdir / "metrics.jsonl")
    try:
        _stream("main", (f"--workdir={workdir}", *arguments), curves.draw_if_due)
    finally:
        curves.draw()


def _stream(
    command: str, arguments: tuple[str, ...], after_line: Callable[[], None]
) -> None:
    words = [*ALWAYS.get(command, ()), *arguments]
    line = ""
    with (
        subprocess.Popen(
            [sys.executable, "-m", f"rnnmnist.{command}", *words],
            env=os.environ | {"PYTHONUNBUFFERED": "1"},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,  # a child whose pipe has no predictor stops
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            process_group=0,  # Jupyter interrupts the whole group of the kernel
        ) as child,
        _interrupts_passed_to(child),
    ):
        for line in child.stdout or ():
            print(line, end="", flush=True)
            after_line()
    if child.returncode:
        raise CommandError(command, line.strip(), child.returncode)


@contextlib.contextmanager
def _interrupts_passed_to(child: "subprocess.Popen[str]") -> Iterator[None]:
    """Sends SIGINT on to a child, once; from the second on, kills it."""
    interrupted = False

    def on_interrupt(number: int, frame: FrameType | None) -> None:
        nonlocal interrupted
        child.send_signal(signal.SIGKILL if interrupted else number)
        interrupted = True

    before = signal.signal(signal.SIGINT, on_interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


class Curves:
    """A run's curves in a cell's output, drawn anew in place."""

    def __init__(self, path: Path) -> None:
        """Draws nothing yet.

        Args:
            path: of `metrics.jsonl`, which need not exist.
        """
        self._path = path
        self._drawn = -math.inf
        self._place: Any = None  # IPython's handle of what it displays

    def draw_if_due(self) -> None:
        """Draws, unless that was done a moment ago."""
        if time.monotonic() - self._drawn >= SECONDS_BETWEEN_PICTURES:
            self.draw()

    def draw(self) -> None:
        """Draws what the file holds now; nothing, as long as it holds nothing.

        What goes wrong is said in a line, and the run under the picture goes on.
        """
        try:
            self._draw(MetricsFile.read(self._path))
        except Exception as error:
            print(f"the curves cannot be drawn: {first_line(error)}", flush=True)
            self._drawn = time.monotonic()

    def _draw(self, metrics: Lines) -> None:
        if not metrics:
            return
        from IPython.display import Image, display

        image = Image(picture(metrics), retina=True)
        if self._place is None:
            self._place = display(image, display_id=True)
        else:
            self._place.update(image)
        self._drawn = time.monotonic()


def picture(metrics: Lines) -> bytes:
    """The curves of a run as a PNG; matplotlib is imported for it, and not before.

    Args:
        metrics: the lines of `metrics.jsonl`, at least one.
    """
    from rnnmnist.reporting import plots

    return plots.curves(metrics)
