"""Writes files atomically. This module does not import `jax`."""

import json
import os
import uuid
from pathlib import Path
from typing import Any

import msgspec


def sync(*paths: Path) -> None:
    """Flushes files or directory entries to disk."""
    for path in paths:
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def write_atomically(path: Path, content: bytes) -> None:
    """Writes a file, and replaces an existing file only when the new file is complete.

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
