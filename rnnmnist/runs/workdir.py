"""The folder of a run: the lock of its trainer."""

import contextlib
import fcntl
import logging
import os
import socket
from collections.abc import Iterator
from pathlib import Path

from rnnmnist.config.paths import open_folder
from rnnmnist.errors import UserError
from rnnmnist.runs.files import write_atomically
from rnnmnist.runtime.distributed import all_max, broadcast

OWNER_FILE = ".trainer"  # names the process that trains in a workdir

_logger = logging.getLogger(__name__)


@contextlib.contextmanager
def lock(workdir: Path) -> Iterator[None]:
    """Locks a workdir, which is created, so that only this run trains in it.

    Process 0 holds the lock on behalf of all. It is the kernel's lock on the folder,
    which ends with the process; the file `.trainer` only names the owner. If the file
    system does not support locks, a warning is logged and nothing is locked.
    """
    with contextlib.ExitStack() as stack:
        owner = broadcast(lambda: stack.enter_context(_lock(workdir)))
        if all_max(read_owner(workdir) != owner):
            raise UserError(
                f"workdir: {workdir} is not one folder for all processes; name one "
                "on a file system that they share"
            )
        yield


@contextlib.contextmanager
def _lock(workdir: Path) -> Iterator[str]:
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
