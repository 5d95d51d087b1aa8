"""The folder of a run, its lock, and files that are written whole or not at all."""

import contextlib
import fcntl
import json
import logging
import os
import re
import socket
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec

from rnnmnist.config.files import open_folder
from rnnmnist.errors import UserError, names_path
from rnnmnist.runtime.distributed import all_max, broadcast


def write_atomically(path: Path, content: bytes) -> None:
    """Writes a file, which keeps its old content until the new one is complete."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        temporary.write_bytes(content)
        temporary.replace(path)
    except OSError as error:
        error.filename = str(path)
        raise
    finally:
        temporary.unlink(missing_ok=True)


def write_json(path: Path, value: Any) -> None:
    """Writes a JSON value or a record atomically, and creates the file's folder."""
    path.parent.mkdir(parents=True, exist_ok=True)
    text = json.dumps(msgspec.to_builtins(value), indent=1)
    write_atomically(path, f"{text}\n".encode())


@contextlib.contextmanager
def write_folder(path: Path) -> Iterator[Path]:
    """Yields a new folder of the same name, which replaces `path` after the block.

    An error inside the block leaves `path` as it was.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with (
        names_path(path),
        tempfile.TemporaryDirectory(dir=path.parent, prefix=f".{path.name}-") as name,
    ):
        new = Path(name, path.name)
        new.mkdir()
        yield new
        if path.exists():
            path.rename(Path(name, "old"))
        new.rename(path)


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


def list_steps(workdir: Path) -> list[int]:
    """Returns the steps of the finished checkpoints, ascending."""
    if not workdir.is_dir():
        return []
    names = [folder.name for folder in workdir.iterdir() if folder.is_dir()]
    # ASCII digits without leading zeros, as this program writes them.
    return sorted(
        int(name) for name in names if re.fullmatch("0|[1-9][0-9]{0,9}", name)
    )
