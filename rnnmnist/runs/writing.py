"""Writes files and folders atomically. This module does not import `jax`."""

import contextlib
import json
import os
import shutil
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec

from rnnmnist.errors import set_missing_filename


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

    The parent folder is created if it does not exist. A killed process can leave a
    hidden `.tmp` file behind.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    # The name is unique, because several threads or machines can write the same file.
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex}.tmp")
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

    If the block raises an error, `path` remains unchanged. The temporary folder of a
    killed process remains next to `path` until the next call removes it.
    """
    temporary = path.with_name(f".{path.name}.unfinished")
    with set_missing_filename(path):
        shutil.rmtree(temporary, ignore_errors=True)
        temporary.mkdir(parents=True)
        try:
            yield temporary
            if path.exists():
                shutil.rmtree(path)
            temporary.rename(path)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)
