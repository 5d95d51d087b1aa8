"""The files of a run other than its checkpoints, and who may write them."""

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
from rnnmnist.runtime.files import append_line, write_atomically

NOTE = ".trainer"  # who trains in a workdir

_logger = logging.getLogger(__name__)


@contextlib.contextmanager
def lock(workdir: Path) -> Iterator[str]:
    """Makes this process the only trainer of a workdir, which is created.

    The claim is the kernel's lock on the folder, so it ends with the process,
    however that ends; the file `.trainer` only says who holds it. Where the file
    system has no locks, a warning says that nothing is held.

    Yields:
        What that file says.

    Raises:
        UserError: when another process trains there, or nothing can be written.
    """
    note = workdir / NOTE
    mine = f"process {os.getpid()} on {socket.gethostname()}"
    try:
        workdir.mkdir(parents=True, exist_ok=True)
        folder = os.open(workdir, os.O_RDONLY)
    except OSError as error:
        raise UserError(f"--workdir: {workdir} cannot be used: {error}") from error
    try:
        try:
            fcntl.flock(folder, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            other = _noted(note) or "another process"
            raise UserError(
                f"--workdir: {workdir} is in use by {other}; stop it, or name "
                "another workdir"
            ) from None
        except OSError as error:
            _logger.warning(
                "the file system of %s has no locks (%s): nothing keeps a second "
                "trainer out",
                workdir,
                error.strerror,
            )
        try:
            note.write_text(mine)
        except OSError as error:
            raise UserError(f"--workdir: cannot write there: {error}") from error
        try:
            yield mine
        finally:
            note.unlink(missing_ok=True)
    finally:
        os.close(folder)


def is_locked_by(workdir: Path, name: str) -> bool:
    """Whether a claim that another process has made is seen from here."""
    return _noted(workdir / NOTE) == name


def lock_owner(workdir: Path) -> str | None:
    """Who trains in a workdir, which need not exist; None when nobody does.

    Only where a trainer's note lies is the lock tried, for a moment and shared:
    a killed trainer leaves its note behind, and a live one keeps its lock.
    """
    name = _noted(workdir / NOTE)
    if name is None:
        return None
    try:
        folder = os.open(workdir, os.O_RDONLY)
    except OSError:
        return None
    try:
        fcntl.flock(folder, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return name or "another process"
    except OSError:  # a file system without locks
        return None
    finally:
        os.close(folder)
    return None


def _noted(note: Path) -> str | None:
    try:
        return note.read_text(errors="replace")
    except OSError:
        return None


def check_writable(folder: Path) -> Path:
    """Holds that files can be made in a folder, or where it would be created.

    Returns:
        The folder, or the nearest one above it that exists; nothing stays in it.

    Raises:
        OSError: when nothing can be written there.
    """
    place = next(path for path in (folder, *folder.parents) if path.exists())
    with tempfile.TemporaryFile(dir=place) as file:
        file.write(bytes(4096))
        file.flush()
    return place


def now() -> str:
    """The time, as a log has it: ISO 8601, in UTC, to the second."""
    return datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")


class MetricsFile:
    """`metrics.jsonl`: one JSON object a line, each (`split`, `step`) once."""

    def __init__(self, path: Path, step: int) -> None:
        """Opens the file to go on after a step.

        Lines of later steps, which a killed run wrote after its last checkpoint,
        and a torn last line are taken out: they will come again.

        Args:
            path: of the file, which need not exist.
            step: that the run continues from.
        """
        self._path = path
        kept = [line for line in self.read(path) if line["step"] <= step]
        content = "".join(json.dumps(line) + "\n" for line in kept).encode()
        if path.exists() and path.read_bytes() != content:
            write_atomically(path, content)

    def append(self, line: dict[str, Any]) -> None:
        """Adds a line and hands it to the operating system at once."""
        append_line(self._path, line)

    @staticmethod
    def read(path: Path) -> list[dict[str, Any]]:
        """All whole lines of a file, which need not exist."""
        lines = []
        if path.exists():
            for text in path.read_text(errors="replace").splitlines():
                with contextlib.suppress(ValueError):
                    line = json.loads(text)
                    if isinstance(line, dict) and type(line.get("step")) is int:
                        lines.append(line)
        return lines
