"""Finds and checks configuration files, workdirs and folders of the package."""

import contextlib
import os
import runpy
from collections.abc import Iterator
from pathlib import Path

from rnnmnist.config.schema import Config
from rnnmnist.config.settings import expand_path
from rnnmnist.errors import (
    UserError,
    format_value,
    prefix_errors,
    suggest_name,
)

PACKAGE = Path(__file__).resolve().parents[1]

# Workdirs of the shipped models. The first model was trained with a loss after the last
# row, the second with a loss after every row.
REFERENCE_WORKDIRS = ("checkpoints/reference", "checkpoints/reference_every_step")
# The configuration name that selects the rule in `recipes.py`.
RULE = "files"


def shipped_folder(name: str) -> Path:
    """Returns the path of a folder in the wheel or in the root of a clone."""
    in_wheel = PACKAGE / "shipped" / name
    return in_wheel if in_wheel.is_dir() else PACKAGE.parent / name


def parse_folder(given: str | Path, subject: str = "workdir") -> Path:
    """Checks the path of a folder and makes it absolute; the folder need not exist.

    Error messages begin with `subject`, the flag or argument that gave the path.
    """
    if not str(given).strip():
        raise UserError(f"{subject}: must name a folder, not ''")
    with prefix_errors(subject):
        path = expand_path(given)
    try:
        str(path).encode()
    except UnicodeEncodeError:
        raise UserError(
            f"{subject}: {format_value(given)} is not valid UTF-8"
        ) from None
    if "[" in str(path):
        raise UserError(
            f"{subject}: {path} contains [, which orbax does not support; rename it"
        )
    for folder in (path, *path.parents):
        if folder.exists() and not folder.is_dir():
            raise UserError(f"{subject}: {folder} is a file; name a folder")
    return path


def resolve_workdir(given: str | Path) -> Path:
    """Returns a workdir's path; shipped models are found from any directory."""
    name = str(given).rstrip("/")
    if name in REFERENCE_WORKDIRS and not Path(name).is_dir():
        return shipped_folder(name)
    return parse_folder(given)


@contextlib.contextmanager
def open_folder(path: Path) -> Iterator[int]:
    """Creates a folder if it does not exist, and yields a file descriptor for it.

    The descriptor is closed at the end of the block, which releases its locks.
    """
    path.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(path, os.O_RDONLY)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def find_config(given: str | Path) -> Path:
    """Finds a configuration file by its path, or a shipped one by its name.

    A path contains a separator or ends with `.py`, so that a file in the working
    directory cannot shadow a shipped configuration of the same name.
    """
    with prefix_errors("config"):
        path = expand_path(given)
    text = str(given)
    shipped = {file.stem: file for file in shipped_folder("configs").glob("*.py")}
    if text in shipped:
        return shipped[text]
    is_path = "/" in text or path.suffix == ".py"
    if is_path and path.is_file():
        return path
    names = sorted([*shipped, RULE])
    listed = f"{', '.join(names)}, or a path that contains / or ends in .py"
    remedy = suggest_name(path.stem, names, f"name one of {listed}")
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
            f"config: {path} fails: {type(error).__name__}: {error}; correct it"
        ) from error
    if not isinstance(config, Config):
        raise UserError(
            f"config: {path} must define a function get_config() that returns a "
            f"rnnmnist.Config, not {type(config).__name__}"
        )
    return config
