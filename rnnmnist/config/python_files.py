"""Recurrent cells of users: `FILE.py:CLASS` as `model.cell`."""

import hashlib
import sys
import types
from pathlib import Path
from typing import Any

from rnnmnist.config.paths import expand
from rnnmnist.config.schema import Config
from rnnmnist.errors import UserError


def pin_cell(config: Config) -> Config:
    """Returns a configuration with the absolute path and the SHA-256 of its cell."""
    model = config.model
    if not model.is_user_cell:
        return config
    path, _, name = model.cell.rpartition(":")
    file = expand(path)
    _, sha256 = _read(file, model.cell_sha256)
    return config.replace({"model.cell": f"{file}:{name}", "model.cell_sha256": sha256})


def load_cell(cell: str, sha256: str | None) -> type[Any]:
    """Runs the file of a cell, once for each hash, and returns its class.

    Args:
        cell: `FILE.py:CLASS`.
        sha256: the expected hash of the file; None accepts every content and always
            runs the file.
    """
    path, _, name = cell.rpartition(":")
    module = sys.modules.get(f"rnnmnist_cell_{sha256}")
    if module is None:
        source, found = _read(Path(path), sha256)
        # Flax looks up the module of a class by its name.
        module = types.ModuleType(f"rnnmnist_cell_{found}")
        module.__file__ = path
        sys.modules[module.__name__] = module
        try:
            exec(compile(source, path, "exec"), vars(module))
        except (Exception, SystemExit) as error:  # a user's file can raise anything
            del sys.modules[module.__name__]
            raise UserError(
                f"model.cell: {path} does not run: {type(error).__name__}: {error}"
            ) from error
    create = getattr(module, name, None)
    if not isinstance(create, type):
        raise UserError(f"model.cell: {path} must define a class {name}")
    return create


def _read(file: Path, sha256: str | None) -> tuple[bytes, str]:
    """Returns the content of a file and its hash, which must be the given one."""
    source = file.read_bytes()
    found = hashlib.sha256(source).hexdigest()
    if sha256 not in (None, found):
        raise UserError(
            f"model.cell: {file} is not the file of this run: its SHA-256 is {found}, "
            f"not model.cell_sha256={sha256}; restore the file"
        )
    return source, found
