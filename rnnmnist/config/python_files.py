"""Python files of users: configurations, and recurrent cells as `FILE.py:CLASS`."""

import hashlib
import runpy
import sys
import types
from pathlib import Path
from typing import Any

from rnnmnist.config.paths import expand, shipped_folder
from rnnmnist.config.schema import Config
from rnnmnist.errors import UserError, did_you_mean


def find_config(file_or_name: str) -> Path:
    """Returns a configuration file: a path or a shipped configuration."""
    path = expand(file_or_name)
    if path.is_file():
        return path
    folder = shipped_folder("configs")
    names = sorted(file.stem for file in folder.glob("*.py"))
    for name in names:
        if file_or_name in (name, f"{name}.py", f"configs/{name}.py"):
            return folder / f"{name}.py"
    listed = f"shipped configurations: {', '.join(names)}"
    remedy = did_you_mean(path.stem, names, listed)
    raise UserError(f"config: there is no file {file_or_name}; {remedy}")


def load_config(path: Path) -> Config:
    """Runs a configuration file and returns its configuration."""
    try:
        get_config = runpy.run_path(str(path)).get("get_config")
        config = get_config() if callable(get_config) else None
    except UserError:
        raise
    except (Exception, SystemExit) as error:  # a user's file can raise anything
        raise UserError(
            f"config: {path} does not run: {type(error).__name__}: {error}"
        ) from error
    if not isinstance(config, Config):
        raise UserError(
            f"config: {path} must define a function get_config() that returns a "
            f"rnnmnist.Config, not {type(config).__name__}"
        )
    return config


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
    """Runs the file of `FILE.py:CLASS`, once for each hash, and returns the class.

    The file must have the given hash. None accepts every content and always runs it.
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
    if not file.is_file():
        raise UserError(
            f"model.cell: {file} is not a file; a run needs that of its cell there"
        )
    source = file.read_bytes()
    found = hashlib.sha256(source).hexdigest()
    if sha256 not in (None, found):
        raise UserError(
            f"model.cell: {file} is not the file of this run: its SHA-256 is {found}, "
            f"not model.cell_sha256={sha256}; restore the file"
        )
    return source, found
