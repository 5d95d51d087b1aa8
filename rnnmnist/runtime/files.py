"""Atomic writes, and logs with one JSON object per line."""

import contextlib
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TypeVar

import msgspec

from rnnmnist.errors import names_path

T = TypeVar("T")


@contextlib.contextmanager
def open_folder(path: Path) -> Iterator[int]:
    """Yields the descriptor of a folder, which is created; locks end when it closes."""
    path.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(path, os.O_RDONLY)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


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


def append_line(path: Path, value: Any) -> None:
    """Appends a JSON value or a record to a file as a line, without buffering.

    An incomplete last line is terminated first.
    """
    text = json.dumps(msgspec.to_builtins(value)) + "\n"
    with names_path(path), path.open("ab+") as file:
        if file.tell():
            file.seek(-1, os.SEEK_END)
            text = text if file.read() == b"\n" else f"\n{text}"
        file.write(text.encode())


def read_lines(path: Path) -> list[dict[str, Any]]:
    """Returns the complete lines of a log that have a step; the file need not exist."""
    lines = []
    if path.exists():
        for text in path.read_text(errors="replace").splitlines():
            with contextlib.suppress(ValueError, RecursionError):
                line = json.loads(text)
                if isinstance(line, dict) and type(line.get("step")) is int:
                    lines.append(line)
    return lines


def read_records(path: Path, kind: type[T]) -> list[T]:
    """Returns the lines of a log that are records of a type."""
    records = []
    for line in read_lines(path):
        with contextlib.suppress(msgspec.ValidationError):
            records.append(msgspec.convert(line, kind))
    return records


def remove_lines_after(path: Path, step: int) -> None:
    """Removes the lines of later steps from a log, and an incomplete last line.

    A killed run wrote them after its last checkpoint, and writes them again.
    """
    kept = [line for line in read_lines(path) if line["step"] <= step]
    content = "".join(json.dumps(line) + "\n" for line in kept).encode()
    if path.exists() and path.read_bytes() != content:
        write_atomically(path, content)
