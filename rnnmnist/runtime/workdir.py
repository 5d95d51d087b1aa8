"""The files of a run other than its checkpoints, and the lock of its trainer."""

import contextlib
import datetime
import fcntl
import json
import logging
import os
import socket
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from rnnmnist.errors import UserError
from rnnmnist.runtime.files import (
    append_line,
    names_path,
    open_folder,
    write_atomically,
)

OWNER_FILE = ".trainer"  # names the process that trains in a workdir

_logger = logging.getLogger(__name__)


@contextlib.contextmanager
def lock(workdir: Path) -> Iterator[str]:
    """Locks a workdir, which is created, so that only this process trains in it.

    The lock is the kernel's lock on the folder, which ends with the process. The file
    `.trainer` only names the owner. If the file system does not support locks, a
    warning is logged and nothing is locked.

    Yields:
        The content of `.trainer`.
    """
    owner_file = workdir / OWNER_FILE
    owner = f"process {os.getpid()} on {socket.gethostname()}"
    with open_folder(workdir) as folder:
        _acquire(folder, workdir)
        write_atomically(owner_file, owner.encode())
        try:
            yield owner
        finally:
            owner_file.unlink(missing_ok=True)


def _acquire(folder: int, workdir: Path) -> None:
    try:
        fcntl.flock(folder, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        other = read_owner(workdir) or "another process"
        raise UserError(
            f"workdir: {workdir} is in use by {other}; stop it, or name another one"
        ) from None
    except OSError as error:
        _logger.warning(
            "the file system of %s has no locks (%s): a second trainer would not be "
            "detected",
            workdir,
            error.strerror,
        )


def read_owner(workdir: Path) -> str | None:
    """Returns the content of `.trainer`, which a killed trainer leaves behind."""
    try:
        return (workdir / OWNER_FILE).read_text(errors="replace")
    except OSError:
        return None


def check_writable(folder: Path) -> Path:
    """Checks that files can be created in a folder, which need not exist.

    Returns:
        The folder, or the nearest parent that exists. No file remains in it.
    """
    existing = next(path for path in (folder, *folder.parents) if path.exists())
    with names_path(folder), tempfile.TemporaryFile(dir=existing):
        return existing


def now() -> str:
    """Returns the time in ISO 8601, in UTC, to the second."""
    return datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")


class MetricsFile:
    """`metrics.jsonl`: one JSON object per line, one line per (`split`, `step`)."""

    def __init__(self, path: Path, step: int) -> None:
        """Opens the file to continue after a step.

        Lines of later steps, which a killed run wrote after its last checkpoint, and an
        incomplete last line are removed; the run writes them again. The file need not
        exist.
        """
        self._path = path
        kept = [line for line in self.read(path) if line["step"] <= step]
        content = "".join(json.dumps(line) + "\n" for line in kept).encode()
        if path.exists() and path.read_bytes() != content:
            write_atomically(path, content)

    def append(self, line: Any) -> None:
        """Appends a record with a step, without buffering."""
        append_line(self._path, line)

    @staticmethod
    def read(path: Path) -> list[dict[str, Any]]:
        """Returns all complete lines of a file, which need not exist."""
        lines = []
        if path.exists():
            for text in path.read_text(errors="replace").splitlines():
                with contextlib.suppress(ValueError, RecursionError):
                    line = json.loads(text)
                    if isinstance(line, dict) and type(line.get("step")) is int:
                        lines.append(line)
        return lines
