"""Writes files and folders completely or not at all. Does not import jax."""

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

TEMPORARY_SUFFIX = ".tmp"  # the suffix of a file that is not complete


def sync(*paths: Path) -> None:
    """Flushes files, or the entries of folders, to the disk."""
    for path in paths:
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def write_atomically(path: Path, content: bytes) -> None:
    """Writes a file, which keeps its old content until the new content is complete.

    The parent folder is created if it does not exist.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    # Unique, since several threads or machines can write the same file.
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex}{TEMPORARY_SUFFIX}")
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


def write_json(path: Path, value: Any) -> None:
    """Writes a JSON file atomically, from any value that msgspec encodes."""
    text = json.dumps(msgspec.to_builtins(value), indent=1)
    write_atomically(path, f"{text}\n".encode())


@contextlib.contextmanager
def replace_folder(path: Path) -> Iterator[Path]:
    """Yields a new folder with the same name, which replaces `path` after the block.

    If the block raises an error, `path` is unchanged. Until the end of the block, the
    new folder is inside a locked temporary folder next to `path`. Temporary folders of
    killed processes are no longer locked, and are removed.
    """
    for abandoned in path.parent.glob(f".{path.name}.*.unfinished"):
        with contextlib.suppress(OSError), open_folder(abandoned) as descriptor:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            shutil.rmtree(abandoned)
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
            # An interrupt can occur between the two renames.
            if old.exists() and not path.exists():
                old.rename(path)
            shutil.rmtree(unfinished, ignore_errors=True)
