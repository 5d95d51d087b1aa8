"""The sessions of a run, in `sessions.jsonl`: command, hardware and time by phase."""

import contextlib
import shlex
import sys
import time
from collections.abc import Iterator
from pathlib import Path

from jax.sharding import Mesh

from rnnmnist.checkpoints.store import list_steps
from rnnmnist.runtime import hardware, versions
from rnnmnist.runtime.compilation import Stopwatch, compile_seconds
from rnnmnist.runtime.distributed import is_process_0, process_count
from rnnmnist.runtime.files import append_line
from rnnmnist.runtime.workdir import now


class PhaseTimer:
    """Accumulates the seconds of each phase, without those of compilation."""

    def __init__(self) -> None:
        self._started, self._compiled = time.monotonic(), compile_seconds()
        self._phases = {"data": 0.0, "train": 0.0}

    @contextlib.contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """Adds the time inside the `with` block to the phase `data` or `train`."""
        stopwatch = Stopwatch()
        try:
            yield
        finally:
            self._phases[name] += stopwatch.seconds()

    def seconds(self) -> dict[str, float]:
        """Returns the seconds of `data`, `train`, `compile` and in `total`."""
        total = time.monotonic() - self._started
        compiling = compile_seconds() - self._compiled
        seconds = self._phases | {"compile": compiling, "total": total}
        return {phase: round(number, 1) for phase, number in seconds.items()}


@contextlib.contextmanager
def session(workdir: Path, step: int, mesh: Mesh, timer: PhaseTimer) -> Iterator[None]:
    """Logs the start of training at a step and, unless killed, its end."""
    if not is_process_0():
        yield
        return
    path = workdir / "sessions.jsonl"
    append_line(
        path,
        {
            "event": "start",
            "time": now(),
            "step": step,
            "command": shlex.join(["python", "-m", "rnnmnist.main", *sys.argv[1:]]),
            "hardware": hardware.describe_processor(),
            "devices": f"{mesh.size} x {mesh.devices.flat[0].platform}",
            "processes": process_count(),
            "versions": versions.all_installed(),
        },
    )
    try:
        yield
    finally:
        last = list_steps(workdir)[-1:] or [0]
        end = {"event": "end", "time": now(), "step": last[0]}
        with contextlib.suppress(OSError):  # a full disk is reported elsewhere
            append_line(path, end | {"seconds": timer.seconds()})
