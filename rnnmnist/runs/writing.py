"""Writes files and folders whole or not at all. This module imports no jax."""

import contextlib
import fcntl
import json
import os
import shutil
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec

from rnnmnist.config.files import open_folder
from rnnmnist.errors import set_missing_filename

TEMPORARY = ".tmp"  # the suffix of a file that is not complete


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
    # Unique, since several threads or machines can write the same file.
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex}{TEMPORARY}")
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
def write_folder(path: Path) -> Iterator[Path]:
    """Yields a new folder of the same name, which replaces `path` after the block.

    An error inside the block leaves `path` as it was. Until then, the new folder is in
    a locked folder beside `path`. The folders of killed processes are not locked any
    more, and are removed.
    """
    for left in path.parent.glob(f".{path.name}.*.unfinished"):
        with contextlib.suppress(OSError), open_folder(left) as descriptor:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            shutil.rmtree(left)
    unfinished = path.with_name(f".{path.name}.{uuid.uuid4().hex}.unfinished")
    new, old = unfinished / path.name, unfinished / "old"
    with set_missing_filename(path), open_folder(unfinished) as descriptor:
        with contextlib.suppress(OSError):  # a file system without locks
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        try:
            new.mkdir(parents=True)
            yield new
            if path.exists():
                path.rename(old)
            new.rename(path)
        finally:
            # An error, such as an interrupt, can come between both.
            if old.exists() and not path.exists():
                old.rename(path)
            shutil.rmtree(unfinished, ignore_errors=True)
