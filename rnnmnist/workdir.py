"""The files of a run other than its checkpoints, and who may write them."""

import contextlib
import fcntl
import json
import os
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from rnnmnist.errors import UserError


@contextlib.contextmanager
def claim(workdir: Path) -> Iterator[None]:
    """Makes this process the only trainer of a workdir, which is created.

    The claim is the kernel's lock on the folder, so it ends with the process,
    however that ends; the file `.trainer` only says who holds it.

    Raises:
        UserError: when another process trains there, or nothing can be written.
    """
    note = workdir / ".trainer"
    try:
        workdir.mkdir(parents=True, exist_ok=True)
        folder = os.open(workdir, os.O_RDONLY)
    except OSError as error:
        raise UserError(f"--workdir: {workdir} cannot be used: {error}") from error
    try:
        try:
            fcntl.flock(folder, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = note.read_text() if note.exists() else "another process"
            raise UserError(
                f"--workdir: {workdir} is in use by {holder}; stop it, or name "
                "another workdir"
            ) from None
        try:
            note.write_text(f"process {os.getpid()} on {socket.gethostname()}")
        except OSError as error:
            raise UserError(f"--workdir: cannot write there: {error}") from error
        try:
            yield
        finally:
            note.unlink(missing_ok=True)
    finally:
        os.close(folder)


def write_json(path: Path, value: Any) -> None:
    """Writes a file of JSON, which appears whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        temporary.write_text(json.dumps(value, indent=1) + "\n")
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


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
        text = "".join(json.dumps(line) + "\n" for line in kept)
        if path.exists() and path.read_bytes() != text.encode():
            temporary = path.with_name(f".{path.name}.tmp")
            temporary.write_text(text)
            temporary.replace(path)

    def append(self, line: dict[str, Any]) -> None:
        """Adds a line and hands it to the operating system at once."""
        with self._path.open("a") as file:
            file.write(json.dumps(line) + "\n")

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
