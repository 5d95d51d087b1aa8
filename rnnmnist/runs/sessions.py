"""The sessions of a run, in `sessions.jsonl`: command, hardware and time by phase."""

import contextlib
import shlex
import sys
import time
from collections.abc import Iterator
from pathlib import Path

from jax.sharding import Mesh

from rnnmnist.runs import logs
from rnnmnist.runs.checkpoints import list_steps
from rnnmnist.runtime import machine
from rnnmnist.runtime.compilation import compile_seconds, running_seconds
from rnnmnist.runtime.distributed import is_process_0, process_count
from rnnmnist.runtime.mesh import platform_of


class PhaseTimer:
    """Accumulates the seconds of each phase, without those of compilation."""

    def __init__(self) -> None:
        self._started = time.monotonic()
        self._compiled = compile_seconds()
        self._phases = {"data": 0.0, "train": 0.0}

    @contextlib.contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """Adds the time inside the `with` block to the phase `data` or `train`."""
        start = running_seconds()
        try:
            yield
        finally:
            self._phases[name] += running_seconds() - start

    def seconds(self) -> dict[str, float]:
        """Returns the seconds of `data`, `train`, `compile` and in `total`."""
        total = time.monotonic() - self._started
        compiling = compile_seconds() - self._compiled
        seconds = self._phases | {"compile": compiling, "total": total}
        return {phase: round(number, 1) for phase, number in seconds.items()}


@contextlib.contextmanager
def session(workdir: Path, step: int, mesh: Mesh, timer: PhaseTimer) -> Iterator[None]:
    """Logs a session of training when it ends; a killed one leaves no line."""
    if not is_process_0():
        yield
        return
    start = logs.now()

    def append() -> None:
        record = logs.Session(
            time=start,
            command=shlex.join(["python", "-m", "rnnmnist.main", *sys.argv[1:]]),
            hardware=machine.describe_processor(),
            devices=f"{mesh.size} x {platform_of(mesh)}",
            processes=process_count(),
            versions=machine.installed_versions(),
            from_step=step,
            step=max(list_steps(workdir), default=0),
            seconds=timer.seconds(),
        )
        logs.append(workdir, record)

    try:
        yield
    except BaseException:
        with contextlib.suppress(OSError):  # the first error is the one to report
            append()
        raise
    append()
