"""Cells of users, named `module:Class` or `FILE.py:Class`.

A cell is code. It is imported here, for the commands and the calls that name it. The
name in a checkpoint only says what a run needs, and is never imported.
"""

import functools
import hashlib
import importlib
import importlib.util
import sys
from pathlib import Path
from types import ModuleType
from typing import Any, TypeVar

from rnnmnist.config.schema import Config, ModelConfig
from rnnmnist.errors import UserError, summarize_error

AnyConfig = TypeVar("AnyConfig", bound=Config)  # what a user gave, or that of a run


def pin_cell(config: AnyConfig) -> AnyConfig:
    """Returns a configuration with the SHA-256 of the source of its cell.

    The cell is not imported, but Python imports the packages that contain its module. A
    SHA-256 that is given stays; it is compared with the source when the cell is
    imported.
    """
    model = config.model
    if not model.is_user_cell:
        return config
    sha256 = model.cell_sha256 or _hash_source(model.cell.rpartition(":")[0])
    return config.replace({"model.cell_sha256": sha256})


def import_cell(config: ModelConfig) -> type[Any]:
    """Imports the class of a user's cell, which the caller must have named.

    Equal configurations with a SHA-256 have the same class, also if the file has
    changed in the meantime.

    Raises:
        UserError: if the source has another SHA-256, does not run, or lacks the class.
    """
    module, _, name = config.cell.rpartition(":")
    sha256 = config.cell_sha256 or _hash_source(module)
    create = getattr(_import_source(module, sha256), name, None)
    if not isinstance(create, type):
        raise UserError(f"model.cell: {module} must define a class {name}")
    return create


@functools.cache
def _import_source(module: str, sha256: str) -> ModuleType:
    path = _find_source(module)
    source = path.read_bytes()
    actual = hashlib.sha256(source).hexdigest()
    if actual != sha256:
        raise UserError(
            f"model.cell: the SHA-256 of {path} is {actual}, but that of the run's "
            f"cell is {sha256}; restore the source with which it was trained"
        )
    try:
        if _is_file(module):
            return _run_file(path, source)
        imported, imported_sha256 = _import_module(module)
    except (Exception, SystemExit) as error:  # a user's file can raise anything
        raise UserError(
            f"model.cell: {path} does not run: {summarize_error(error)}"
        ) from error
    if imported_sha256 != sha256:
        raise UserError(
            f"model.cell: {path} has changed since this process imported {module}; "
            "start another process"
        )
    return imported


def _run_file(path: Path, source: bytes) -> ModuleType:
    """Runs the source of a file as a module, whose name is the path.

    An import would take bytecode from `__pycache__`, which can be that of another
    source: Python compares only the size of the source and its time in seconds.
    """
    module = ModuleType(str(path))
    module.__file__ = str(path)
    sys.modules[module.__name__] = module  # where dataclasses look up their types
    exec(compile(source, path, "exec"), vars(module))
    return module


@functools.cache
def _import_module(module: str) -> tuple[ModuleType, str]:
    """Imports a module; returns it, and the SHA-256 of the source at that time.

    Python imports a module once in a process, and ignores later changes of its file.
    """
    sha256 = _hash_source(module)
    return importlib.import_module(module), sha256


def _hash_source(module: str) -> str:
    return hashlib.sha256(_find_source(module).read_bytes()).hexdigest()


def _is_file(module: str) -> bool:
    return module.endswith(".py")


def _find_source(module: str) -> Path:
    """Returns the file of a module, without an import of the module."""
    if _is_file(module):
        return Path(module)
    reason = "Python finds no source file of it"
    try:
        spec = importlib.util.find_spec(module)
        if spec and spec.origin and _is_file(spec.origin):
            return Path(spec.origin)
    except (Exception, SystemExit) as error:  # of a package in which it lies
        reason = summarize_error(error)
    raise UserError(
        f"model.cell: {module} cannot be imported ({reason}); install it, or name its "
        "file, as FILE.py:Class"
    )
