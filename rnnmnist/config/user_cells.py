"""Recurrent cells of users: `FILE.py:CLASS` as `model.cell`."""

import hashlib
import importlib.util
import sys
from pathlib import Path
from typing import Any, NamedTuple

from rnnmnist.config.schema import Config
from rnnmnist.errors import UserError


def pin_cell(config: Config) -> Config:
    """Returns a configuration with the absolute path and the SHA-256 of its own cell.

    Raises:
        UserError: as `load_cell` does.
    """
    model = config.model
    if not model.is_user_cell:
        return config
    path, _, name = model.cell.rpartition(":")
    cell = f"{Path(path).expanduser().absolute()}:{name}"
    sha256 = load_cell(cell, model.cell_sha256).sha256
    return config.replace({"model.cell": cell, "model.cell_sha256": sha256})


class UserCell(NamedTuple):
    """A class of a user's file."""

    create: type[Any]
    sha256: str  # of the file


def load_cell(cell: str, sha256: str | None) -> UserCell:
    """Runs the file of a cell, once for each content.

    Args:
        cell: `FILE.py:CLASS`.
        sha256: the expected hash of the file; None accepts every file.

    Raises:
        UserError: if the file cannot be read, has another hash, does not run, or does
            not define the class of a Flax cell.
    """
    path, _, name = cell.rpartition(":")
    file = Path(path)
    try:
        found = hashlib.sha256(file.read_bytes()).hexdigest()
    except OSError as error:
        raise UserError(
            f"model.cell: {file} cannot be read: {error.strerror}"
        ) from None
    if sha256 not in (None, found):
        raise UserError(
            f"model.cell: {file} is not the file of this run: its SHA-256 is {found}, "
            f"not {sha256}; restore the file"
        )
    # Flax looks up the module of a class by its name.
    module_name = f"rnnmnist_cell_{found}"
    if module_name not in sys.modules:
        spec: Any = importlib.util.spec_from_file_location(module_name, file)
        sys.modules[module_name] = module = importlib.util.module_from_spec(spec)
        try:
            spec.loader.exec_module(module)
        except (Exception, SystemExit) as error:  # a user's file can raise anything
            del sys.modules[module_name]
            raise UserError(
                f"model.cell: {file} does not run: {type(error).__name__}: {error}"
            ) from error
    create = getattr(sys.modules[module_name], name, None)
    if not isinstance(create, type) or not hasattr(create, "initialize_carry"):
        raise UserError(
            f"model.cell: {file} must define a class {name} that is derived from "
            "flax.linen.RNNCellBase"
        )
    return UserCell(create, found)
