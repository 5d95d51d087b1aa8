"""The folder of a run: its lock, its checkpoints' steps, and its sessions."""

import contextlib
import fcntl
import json
import logging
import os
import re
import socket
import time
from collections.abc import Iterator
from pathlib import Path

from jax.sharding import Mesh

from rnnmnist.config.files import open_folder
from rnnmnist.config.resolving import RunConfig
from rnnmnist.config.schema import Config
from rnnmnist.errors import UserError
from rnnmnist.runs import logs
from rnnmnist.runs.writing import write_atomically, write_json
from rnnmnist.runtime import machine
from rnnmnist.runtime.compilation import compile_seconds, running_seconds
from rnnmnist.runtime.distributed import broadcast, is_process_0, process_0_first
from rnnmnist.runtime.jax_internals import process_count
from rnnmnist.runtime.mesh import platform_of

OWNER_FILE = ".trainer"  # names the process that trains in a workdir
CONFIG_FILE = "config.json"
# In the folder of a step; see `checkpoint_files.py`.
SUMS_FILE = "SHA256SUMS"
HEADER_FILE = "header/metadata"

_logger = logging.getLogger(__name__)


@contextlib.contextmanager
def lock(workdir: Path) -> Iterator[None]:
    """Locks a workdir, which is created, so that only this run trains in it.

    Process 0 holds the kernel's lock, which ends with it; `.trainer` only names it. A
    file system without locks causes a warning.
    """
    with contextlib.ExitStack() as stack:

        def acquire_and_name() -> str:
            folder = stack.enter_context(open_folder(workdir))
            _acquire(folder, workdir, fcntl.LOCK_EX)
            owner = f"process {os.getpid()} on {socket.gethostname()}"
            write_atomically(workdir / OWNER_FILE, owner.encode())
            stack.callback((workdir / OWNER_FILE).unlink, missing_ok=True)
            return owner

        owner = broadcast(acquire_and_name)
        with process_0_first():  # all fail if it is another folder on one of them
            if read_owner(workdir) != owner:
                raise UserError(
                    f"workdir: {workdir} is not one folder for all processes; name one "
                    "on a file system that they share"
                )
        yield


def _acquire(folder: int, workdir: Path, kind: int) -> None:
    """Takes a lock of `fcntl.flock` on the open folder of a workdir, without waiting.

    It is exclusive or shared. The user is told if another process has it.
    """
    try:
        fcntl.flock(folder, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        other = read_owner(workdir) or "another process"
        raise UserError(
            f"workdir: {workdir} is in use by {other}; stop it, or name another one"
        ) from None
    except OSError as error:
        _logger.warning(
            f"the file system of {workdir} has no locks ({error.strerror}): a second "
            "trainer would not be detected"
        )


def check_free(workdir: Path) -> None:
    """Checks that no process trains in a workdir.

    A killed trainer leaves `.trainer` behind but not its lock, so a shared lock is
    tried for a moment if that file exists.
    """
    if read_owner(workdir) is not None:
        with open_folder(workdir) as folder:
            _acquire(folder, workdir, fcntl.LOCK_SH)


def read_owner(workdir: Path) -> str | None:
    """Returns the content of `.trainer`, which a killed trainer leaves behind."""
    try:
        return (workdir / OWNER_FILE).read_text(errors="replace")
    except OSError:
        return None


def list_steps(workdir: Path) -> list[int]:
    """Returns the steps of the finished checkpoints, ascending."""
    paths = _numbered_paths(workdir)
    return [int(path.name) for path in paths if _is_checkpoint(path)]


def check_folders(workdir: Path) -> None:
    """Checks that every numbered folder of a workdir is a checkpoint.

    orbax would take another one for a step.
    """
    for path in _numbered_paths(workdir):
        if path.is_dir() and not _is_checkpoint(path):
            raise UserError(
                f"workdir: {path} is not a checkpoint of rnnmnist; name another "
                "workdir, or rename this folder"
            )


def _is_checkpoint(folder: Path) -> bool:
    """Whether this package wrote a folder, which can be damaged.

    Such a folder has a header, or the header's checksum. An empty one counts only in
    the folder of a run, which has a configuration. An error of the disk is raised.
    """
    missing = (FileNotFoundError, NotADirectoryError)
    with contextlib.suppress(*missing):
        (folder / HEADER_FILE).stat()
        return True
    with contextlib.suppress(*missing):
        sums = (folder / SUMS_FILE).read_bytes()
        if HEADER_FILE.encode() in sums:
            return True
    with contextlib.suppress(*missing):
        is_empty = not any(folder.iterdir())
        return is_empty and _has_configuration(folder.parent)
    return False


def _has_configuration(workdir: Path) -> bool:
    """Whether `config.json` in a folder is the configuration of a run."""
    try:
        tree = json.loads((workdir / CONFIG_FILE).read_bytes())
        Config.from_dict(tree)
    # Another program can have a file of this name, with any content.
    except (OSError, ValueError, AttributeError):
        return False
    return "seed" in tree


def _numbered_paths(workdir: Path) -> list[Path]:
    """Returns the paths in a workdir that are named like steps, in the steps' order.

    Their names are ASCII digits without leading zeros.
    """
    if not workdir.is_dir():
        return []
    is_step = re.compile("0|[1-9][0-9]*").fullmatch
    numbered = [path for path in workdir.iterdir() if is_step(path.name)]
    return sorted(numbered, key=lambda path: int(path.name))


def describe_last_checkpoint(workdir: Path) -> str:
    """Describes the newest checkpoint of a workdir, for error messages."""
    steps = list_steps(workdir)
    if not steps:
        return "no checkpoint yet"
    return f"the last checkpoint is step {steps[-1]}"


class PhaseTimer:
    """Measures the seconds of each phase of a command, without its compilation."""

    def __init__(self, command: str) -> None:
        self.command = command  # as the logs name it
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
        """Returns the seconds of the phases `data` and `train`, of `compile`, and all.

        All seconds of the command are its `total`.
        """
        total = time.monotonic() - self._started
        compiling = compile_seconds() - self._compiled
        seconds = self._phases | {"compile": compiling, "total": total}
        return {phase: round(number, 1) for phase, number in seconds.items()}


@contextlib.contextmanager
def session(
    workdir: Path, config: RunConfig, step: int, mesh: Mesh, timer: PhaseTimer
) -> Iterator[None]:
    """Times a training session, and records it in the workdir.

    Its settings are written at the start, and its line of `sessions.jsonl` at the end,
    also if it ends with an error, but not if it is killed.
    """
    if not is_process_0():
        yield
        return
    started = logs.now()
    write_json(workdir / CONFIG_FILE, config)
    logs.remove_metrics_after(workdir, step)

    def append_line() -> None:
        last = max(list_steps(workdir), default=0)
        record = logs.Session(
            time=started,
            command=timer.command,
            hardware=machine.describe_processor(),
            devices=f"{mesh.size} x {platform_of(mesh)}",
            processes=process_count(),
            versions=machine.installed_versions(),
            from_step=step,
            step=last,
            completion=logs.completion(workdir, last, config.train),
            seconds=timer.seconds(),
        )
        logs.append(workdir, record)

    try:
        with timer.phase("train"):
            yield
    except BaseException:
        with contextlib.suppress(OSError):  # the first error is the one to report
            append_line()
        raise
    append_line()
