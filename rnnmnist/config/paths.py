"""Paths of users, and the folders that ship with a clone and with a wheel."""

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

from rnnmnist.errors import PACKAGE, SHIPPED, UserError, shown

# The shipped models, trained with a loss after the last row and after every row.
REFERENCES = ("checkpoints/reference", "checkpoints/reference_every_step")


def shipped_folder(name: str) -> Path:
    """Returns a shipped folder, of the package in a wheel or the root of a clone."""
    in_wheel = SHIPPED / name
    return in_wheel if in_wheel.is_dir() else PACKAGE.parent / name


def expand(text: str) -> Path:
    """Returns an absolute path, in which `~` is the user's home directory."""
    try:
        return Path(text).expanduser().absolute()
    except RuntimeError as error:  # there is no such user
        raise UserError(f"{text}: {error}") from None


def parse_folder(text: str, subject: str = "workdir") -> Path:
    """Returns the absolute path of a folder, which need not exist.

    Messages begin with the subject, the flag or argument that names the folder.
    """
    if not text.strip():
        raise UserError(f"{subject}: must name a directory, not ''")
    path = expand(text)
    try:
        str(path).encode()
    except UnicodeEncodeError:
        raise UserError(f"{subject}: {shown(text)} is not valid UTF-8") from None
    for folder in (path, *path.parents):
        if folder.exists() and not folder.is_dir():
            raise UserError(f"{subject}: {folder} is a file; name a directory")
    return path


def resolve_workdir(text: str) -> Path:
    """Returns the workdir of an existing run, or of a shipped model."""
    workdir = parse_folder(text)
    name = text.rstrip("/")
    if name in REFERENCES and not workdir.exists():
        return shipped_folder(name)
    return workdir


@contextlib.contextmanager
def open_folder(path: Path) -> Iterator[int]:
    """Yields the descriptor of a folder, which is created; locks end when it closes."""
    path.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(path, os.O_RDONLY)
    try:
        yield descriptor
    finally:
        os.close(descriptor)
