"""Cells of users, named `module:Class` or `FILE.py:Class`.

A cell is code. It is imported here, for the commands and the calls that name it. The
name in a checkpoint only says what a run needs, and is never imported.
"""

import functools
import importlib
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

from rnnmnist.errors import UserError, summarize_error


def import_cell(name: str) -> type[Any]:
    """Imports the class of a user's cell, which the caller must have named.

    A file is run again after it has changed. A module is imported once in a process.

    Raises:
        UserError: if the file or module does not run, or lacks the class.
    """
    source, _, class_name = name.rpartition(":")
    try:
        if source.endswith(".py"):
            module = _run_file(source, Path(source).read_bytes())
        else:
            module = importlib.import_module(source)
    except (Exception, SystemExit) as error:  # a user's code can raise anything
        raise UserError(
            f"model.cell: {source} does not run: {summarize_error(error)}; correct it, "
            "or install what it needs"
        ) from error
    cell = getattr(module, class_name, None)
    if not isinstance(cell, type):
        raise UserError(f"model.cell: {source} must define a class {class_name}")
    return cell


@functools.cache
def _run_file(path: str, content: bytes) -> ModuleType:
    """Runs the content of a file as a module, whose name is the path.

    The same content gives the same class, so that programs are not compiled again. An
    import would take bytecode from `__pycache__`, which can be that of another content:
    Python compares only the size of the file and its time in seconds.
    """
    module = ModuleType(path)
    module.__file__ = path
    sys.modules[path] = module  # where dataclasses look up their types
    exec(compile(content, path, "exec"), vars(module))
    return module
