"""Writes files and folders atomically. This module does not import `jax`."""

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

TEMPORARY_SUFFIX = ".tmp"  # marks incomplete files


def sync(*paths: Path) -> None:
    """Flushes files or directory entries to disk."""
    for path in paths:
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def write_atomically(path: Path, content: bytes) -> None:
    """Replaces a file only when the new content is completely written.

    The parent folder is created if it does not exist.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    # The name is unique, because several threads or machines can write the same file.
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
    """Writes a JSON file atomically, from any value that msgspec can encode."""
    text = json.dumps(msgspec.to_builtins(value), indent=1)
    write_atomically(path, f"{text}\n".encode())


@contextlib.contextmanager
def replace_folder(path: Path) -> Iterator[Path]:
    """Yields an empty folder, which replaces `path` when the `with` block ends.

    If the block raises an error, `path` remains unchanged. The yielded folder has the
    same name as `path` and is inside a temporary folder next to it. The temporary
    folder is locked. Temporary folders that are not locked were left behind by killed
    processes, and are removed first.
    """
    for abandoned_folder in path.parent.glob(f".{path.name}.*.unfinished"):
        with contextlib.suppress(OSError), open_folder(abandoned_folder) as descriptor:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            shutil.rmtree(abandoned_folder)
    temporary_folder = path.with_name(f".{path.name}.{uuid.uuid4().hex}.unfinished")
    new_folder, old_folder = temporary_folder / path.name, temporary_folder / "old"
    with set_missing_filename(path), open_folder(temporary_folder) as descriptor:
        with contextlib.suppress(OSError):  # the file system does not support locks
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        try:
            new_folder.mkdir(parents=True)
            yield new_folder
            if path.exists():
                path.rename(old_folder)
            new_folder.rename(path)
        finally:
            # An interrupt can occur between the two renames.
            if old_folder.exists() and not path.exists():
                old_folder.rename(path)
            shutil.rmtree(temporary_folder, ignore_errors=True)
