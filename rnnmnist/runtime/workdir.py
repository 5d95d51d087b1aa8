"""The folder of a run: the lock of its trainer, and whether it can be written."""

import contextlib
import datetime
import fcntl
import logging
import os
import socket
import tempfile
from collections.abc import Iterator
from pathlib import Path

import msgspec

from rnnmnist.errors import UserError
from rnnmnist.runtime.files import open_folder, write_atomically

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
        _acquire(folder, workdir, fcntl.LOCK_EX)
        write_atomically(owner_file, owner.encode())
        try:
            yield owner
        finally:
            owner_file.unlink(missing_ok=True)


def _acquire(folder: int, workdir: Path, kind: int) -> None:
    try:
        fcntl.flock(folder, kind | fcntl.LOCK_NB)
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


class Session(msgspec.Struct, kw_only=True):
    """A training process that has ended: a line of `sessions.jsonl`."""

    time: str  # of the start, ISO 8601
    command: str
    hardware: str
    devices: str
    processes: int
    versions: dict[str, str]
    from_step: int
    step: int  # the last checkpoint at the end
    seconds: dict[str, float]  # by phase, and `total`


def check_writable(folder: Path) -> Path:
    """Checks that files can be created in a folder, or in its nearest parent.

    Returns:
        The one of them that exists. No file remains in it.
    """
    existing = next(path for path in (folder, *folder.parents) if path.exists())
    try:
        with tempfile.TemporaryFile(dir=existing):
            return existing
    except OSError as error:
        error.filename = str(folder)
        raise


def now() -> str:
    """Returns the time in ISO 8601, in UTC, to the second."""
    return datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
