"""Finds, checks and opens configuration files, workdirs and other folders."""

import contextlib
import os
import re
import runpy
from collections.abc import Iterator
from pathlib import Path

from rnnmnist.config.schema import Config
from rnnmnist.config.settings import expand_path
from rnnmnist.errors import (
    UserError,
    prefix_errors,
    suggest_name,
)

PACKAGE = Path(__file__).resolve().parents[1]

# Workdirs of the shipped models. The first model was trained on the loss after the last
# row of an image, the second on the loss after every row.
REFERENCE_WORKDIRS = ("checkpoints/reference", "checkpoints/reference_every_step")
# `--config=files` selects a shipped configuration by the rule in `recipes.py`.
RULE = "files"


def shipped_folder(name: str) -> Path:
    """Returns the path of a shipped folder, in the wheel or in the root of a clone."""
    in_wheel = PACKAGE / "shipped" / name
    return in_wheel if in_wheel.is_dir() else PACKAGE.parent / name


def parse_folder(folder: str | Path, subject: str = "workdir") -> Path:
    """Checks the path of a folder and makes it absolute; the folder may not exist yet.

    Error messages begin with `subject`, the name of the flag or argument.
    """
    with prefix_errors(subject):
        path = expand_path(folder)
    if re.match("[a-z]+:/", str(folder)):
        raise UserError(f"{subject}: {folder} is a URL; pass a local folder")
    if "[" in str(path) or not str(path).isprintable():
        raise UserError(
            f"{subject}: {path} contains [ or an unprintable character, which Orbax "
            "does not support; rename it"
        )
    for ancestor in (path, *path.parents):
        if os.path.lexists(ancestor) and not ancestor.is_dir():
            raise UserError(
                f"{subject}: {ancestor} is a file or a broken link; pass a folder"
            )
    return path


def resolve_workdir(workdir: str | Path) -> Path:
    """Returns the path of a workdir; shipped workdirs are found from any directory."""
    name = str(workdir).rstrip("/")
    if name in REFERENCE_WORKDIRS and not Path(name).is_dir():
        return shipped_folder(name)
    return parse_folder(workdir)


@contextlib.contextmanager
def open_folder(path: Path) -> Iterator[int]:
    """Creates a folder if it does not exist, and yields a file descriptor for it.

    The end of the block closes the descriptor, which releases its locks.
    """
    path.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(path, os.O_RDONLY)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def find_config(name: str | Path) -> Path:
    """Finds a shipped configuration file by its name, or any file by its path.

    A path must contain a slash or end with `.py`. Otherwise, a file in the current
    directory could shadow the shipped configuration with the same name.
    """
    text = str(name)
    shipped = {file.stem: file for file in shipped_folder("configs").glob("*.py")}
    if text in shipped:
        return shipped[text]
    path = expand_path(text)
    if ("/" in text or path.suffix == ".py") and path.is_file():
        return path
    names = sorted([*shipped, RULE])
    choices = f"{', '.join(names)}, or a path that contains / or ends in .py"
    remedy = suggest_name(path.stem, names, f"pass one of {choices}")
    raise UserError(f"config: {text} is not a configuration; {remedy}")


def load_config(path: Path) -> Config:
    """Runs a configuration file and returns the result of its `get_config()`."""
    try:
        get_config = runpy.run_path(str(path)).get("get_config")
        config = get_config() if callable(get_config) else None
    except UserError:
        raise
    except (Exception, SystemExit) as error:  # user code can raise anything
        raise UserError(
            f"config: {path} fails: {type(error).__name__}: {error}; fix the file"
        ) from error
    if not isinstance(config, Config):
        raise UserError(
            f"config: {path} must define a function get_config() that returns a "
            f"rnnmnist.Config, not {type(config).__name__}"
        )
    return config
