"""Writes files and folders whole or not at all. This module imports no jax."""

import contextlib
import json
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec

from rnnmnist.errors import set_missing_filename


def sync(*paths: Path) -> None:
    """Writes files, or the names in a folder, from the system's memory to the disk."""
    for path in paths:
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def write_atomically(path: Path, content: bytes) -> None:
    """Writes a file, which keeps its old content until the new one is complete.

    The folder of the file is created.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        temporary.write_bytes(content)
        sync(temporary)
        temporary.replace(path)
        sync(path.parent)
    except OSError as error:
        error.filename = str(path)
        raise
    finally:
        temporary.unlink(missing_ok=True)


# `value` is of any type that msgspec encodes: a record, or a JSON value.
def write_json(path: Path, value: Any) -> None:
    """Writes a JSON value or a record atomically."""
    text = json.dumps(msgspec.to_builtins(value), indent=1)
    write_atomically(path, f"{text}\n".encode())


@contextlib.contextmanager
def write_folder(path: Path, unfinished: Path | None = None) -> Iterator[Path]:
    """Yields a new folder of the same name, which replaces `path` after the block.

    An error inside the block leaves `path` as it was. Until then, the new folder is in
    `unfinished`, by default beside `path`.
    """
    parent = unfinished or path.parent
    parent.mkdir(parents=True, exist_ok=True)
    with (
        set_missing_filename(path),
        tempfile.TemporaryDirectory(dir=parent, prefix=f".{path.name}-") as name,
    ):
        new = Path(name, path.name)
        new.mkdir()
        yield new
        old = Path(name, "old")
        if path.exists():
            path.rename(old)
        try:
            new.rename(path)
        except BaseException:  # such as an interrupt, after which the old one is back
            if old.exists():
                old.rename(path)
            raise
