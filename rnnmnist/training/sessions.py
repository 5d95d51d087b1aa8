"""`sessions.jsonl`: which processes have trained a run, on what, and for how long."""

import contextlib
import shlex
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

from jax.sharding import Mesh

from rnnmnist.checkpoints.store import list_steps
from rnnmnist.runtime import hardware, versions
from rnnmnist.runtime.distributed import count, is_first
from rnnmnist.runtime.files import append_line
from rnnmnist.runtime.workdir import now


@contextlib.contextmanager
def session(
    workdir: Path, step: int, mesh: Mesh, seconds: Callable[[], dict[str, float]]
) -> Iterator[None]:
    """Logs the beginning of training and, unless it is killed, its end.

    Args:
        workdir: of the run.
        step: that it goes on from.
        mesh: that it trains on.
        seconds: where the time went, by then.
    """
    if not is_first():
        yield
        return
    path, platform = workdir / "sessions.jsonl", mesh.devices.flat[0].platform
    append_line(
        path,
        {
            "event": "start",
            "time": now(),
            "step": step,
            "command": shlex.join(["python", "-m", "rnnmnist.main", *sys.argv[1:]]),
            "hardware": hardware.hardware(),
            "devices": f"{mesh.size} x {platform}",
            "processes": count(),
            "versions": versions.all_installed(),
        },
    )
    try:
        yield
    finally:
        last = list_steps(workdir)[-1:] or [0]
        end = {"event": "end", "time": now(), "step": last[0], "seconds": seconds()}
        with contextlib.suppress(OSError):  # of a full disk there is more to say
            append_line(path, end)
