"""Atomic writes, and logs with one JSON object per line."""

import contextlib
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec


class WriteError(OSError):
    """A file could not be written, as on a full disk."""


@contextlib.contextmanager
def write_errors() -> Iterator[None]:
    """Turns an `OSError` inside the `with` block into a `WriteError`."""
    try:
        yield
    except OSError as error:
        raise WriteError(error.errno, error.strerror, error.filename) from error


def write_atomically(path: Path, content: bytes) -> None:
    """Writes a file, which keeps its old content until the new one is complete.

    Raises:
        WriteError: if it cannot be written; the temporary file is removed.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    with write_errors():
        try:
            temporary.write_bytes(content)
            temporary.replace(path)
        finally:
            temporary.unlink(missing_ok=True)


def write_json(path: Path, value: Any) -> None:
    """Writes a JSON value or a record atomically, and creates the file's folder."""
    with write_errors():
        path.parent.mkdir(parents=True, exist_ok=True)
    text = json.dumps(msgspec.to_builtins(value), indent=1)
    write_atomically(path, f"{text}\n".encode())


def append_line(path: Path, value: Any) -> None:
    """Appends a JSON value or a record to a file as a line, without buffering.

    An incomplete last line is terminated first.
    """
    text = json.dumps(msgspec.to_builtins(value)) + "\n"
    with write_errors(), path.open("ab+") as file:
        if file.tell():
            file.seek(-1, os.SEEK_END)
            text = text if file.read() == b"\n" else f"\n{text}"
        file.write(text.encode())
