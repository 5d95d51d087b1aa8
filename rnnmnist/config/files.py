"""Configuration files."""

import runpy
from pathlib import Path

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
