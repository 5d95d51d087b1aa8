"""User-defined functions and classes: how settings name and import them.

    train.loss=losses.py:focal,gamma=2

This setting names the function `focal` in `losses.py` and its parameter `gamma`. Only
functions named in the current command or call are imported. Names stored in a
checkpoint show which code a run needs; they are never imported.
"""

import ast
import contextlib
import dataclasses
import functools
import hashlib
import importlib
import inspect
import re
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

from rnnmnist.errors import (
    UserError,
    escape_unprintable,
    format_value,
    suggest_name,
    summarize_error,
)

SYNTAX = "SOURCE:NAME,KEY=VALUE,… (SOURCE is a module or a FILE.py)"
# A module or file, the name of a function or class in it, and parameters.
PATTERN = re.compile(
    r"(?P<source><memory>|[\w.]+|.+?\.py):"
    r"(?P<label>(?P<name>[^:,\s]+)(,(?P<parameters>.*))?)"
)
MEMORY_PREFIX = "<memory>:"  # the source of functions without a module or file
# A plus sign between functions, not inside a parameter.
SEPARATOR = re.compile(r" *\+ *(?=[^+:,=]+:)")


@dataclasses.dataclass(frozen=True, repr=False)
class Function:
    """A function or class with its parameters.

    Functions are static arguments of compiled programs, so they are hashable and are
    compared field by field. Parameters stay text: a list would not be hashable, and 1
    would equal True.

    Attributes:
        setting: the full name of the setting, such as `train.loss`.
        text: name and parameters, such as `losses.py:focal,gamma=2`, or
            `<memory>:focal` if other processes cannot import the function, for example
            because it is defined in a notebook.
        function: the Python function or class.
        sha256: the SHA-256 of the source file; None for a module.
    """

    setting: str
    spec: str
    function: Callable[..., Any]
    sha256: str | None = None

    def __call__(self, *args: Any, **keywords: Any) -> Any:
        """Calls the function with the given arguments and its parameters."""
        return self.function(*args, **keywords, **parse_parameters(self.spec))

    def __repr__(self) -> str:
        return self.spec

    def check_importable(self) -> None:
        """Raises a `UserError` if other processes cannot import the function."""
        if self.spec.startswith(MEMORY_PREFIX):
            raise UserError(
                f"{self.setting}: {short_name(self)} cannot be imported by name, which "
                "pickling and saving to a folder require; move it to a file, and pass "
                "FILE.py:NAME,KEY=VALUE"
            )

    @contextlib.contextmanager
    def wrap_errors(self) -> Iterator[None]:
        """Turns any error of the function into a one-line `UserError`."""
        try:
            yield
        except (Exception, SystemExit) as error:  # user code can raise anything
            # Keep all lines: jax prints array shapes below the first line.
            lines = f"{type(error).__name__}: {error}".split()
            raised = escape_unprintable(" ".join(lines)[:300])
            raise UserError(
                f"{self.setting}: {short_name(self)} fails: {raised}; correct the "
                "function or its parameters"
            ) from error


def short_name(value: object) -> str:
    """Returns a function's text without its source, such as `focal,gamma=2`.

    The name of a built-in function, such as `lstm`, is returned unchanged.
    """
    match = PATTERN.fullmatch(str(value))
    return match["label"] if match else str(value)


def is_in_file(text: str) -> bool:
    """Returns True if the text names a function in a file, not in a module."""
    match = PATTERN.fullmatch(text)
    return match is not None and match["source"].endswith(".py")


def spec_without_path(value: object) -> str:
    """Returns a function's text without the path of its file, since files can move."""
    text = str(value)
    return f"FILE.py:{short_name(text)}" if is_in_file(text) else text


def parse_parameters(text: str) -> dict[str, Any]:
    """Parses the parameters in a function's text.

    The syntax is `KEY=VALUE,…` with Python literals. A bare word is a string.
    """
    match = PATTERN.fullmatch(text)
    written = match["parameters"] if match else None
    parameters: dict[str, Any] = {}
    try:
        call: Any = ast.parse(f"f({written or ''})", mode="eval").body
        for keyword in call.keywords:
            value = keyword.value
            is_word = isinstance(value, ast.Name)
            parameters[keyword.arg] = value.id if is_word else ast.literal_eval(value)
        if call.args or None in parameters or len(parameters) < len(call.keywords):
            raise ValueError("not one value for each key")
    except (AttributeError, SyntaxError, ValueError):
        raise UserError(
            f"{format_value(written)} are not valid parameters; write KEY=VALUE,… with "
            "Python literals, and quote all strings except single words"
        ) from None
    return parameters


def resolve_function(
    value: object, built_in: Mapping[str, Callable[..., Any]], **parameters: float
) -> Function:
    """Returns the function that a setting selects.

    The value is a user-defined function, or the name of a built-in function, to which
    the parameters apply.
    """
    if isinstance(value, Function):
        return value
    keywords = "".join(f",{key}={number}" for key, number in parameters.items())
    return Function("", f"rnnmnist:{value}{keywords}", built_in[str(value)])


def find_name(setting: str, function: Callable[..., Any]) -> str | Function:
    """Returns the `MODULE:NAME` of a Python function.

    If other processes cannot import the function, the result is a `Function`.
    """
    if isinstance(function, Function):
        return function
    names = str(getattr(function, "__module__", None)).split(".")
    name = getattr(function, "__qualname__", type(function).__name__)
    for end in range(len(names)):  # first the packages, which can re-export it
        module = ".".join(names[: end + 1])
        found = getattr(sys.modules.get(module), name, None)
        if found is function and module != "__main__":
            return f"{module}:{name}"
    try:
        hash(function)
    except TypeError as error:
        raise UserError(f"{setting}: {error}; pass a function") from None
    return Function(setting, MEMORY_PREFIX + name, function)


def import_function(setting: str, text: str | Function) -> Function:
    """Imports a user-defined function or class.

    This runs user code, so the text must come from the user, not from a checkpoint. A
    file runs again after it has changed; a module is imported once per process. A
    `Function` is returned unchanged.

    Raises:
        UserError: if the file or module does not run, the function does not exist, or
            the function does not have a given parameter.
    """
    if isinstance(text, Function):
        return text
    # The text matches: `Setting.check` has checked it.
    source, name = PATTERN.fullmatch(text).group("source", "name")  # type: ignore[union-attr]
    sha256 = None
    try:
        if source.endswith(".py"):
            content = Path(source).read_bytes()
            sha256 = hashlib.sha256(content).hexdigest()
            module = _run_file(source, content)
        else:
            module = importlib.import_module(source)
    except (Exception, SystemExit) as error:  # user code can raise anything
        raise UserError(
            f"{setting}: {source} cannot be imported: {summarize_error(error)}; "
            "correct it, install its dependencies, or name a file, as FILE.py:NAME"
        ) from error
    function = getattr(module, name, None)
    if not callable(function):
        remedy = suggest_name(name, dir(module), "name one that it defines")
        raise UserError(f"{setting}: {source} has no function {name}; {remedy}")
    try:
        signature = inspect.signature(function)
    except ValueError as error:
        raise UserError(f"{setting}: {error}; name a Python function") from None
    try:
        signature.bind_partial(**parse_parameters(text))
    except TypeError as error:
        raise UserError(
            f"{setting}: {short_name(text)}: {error}; its parameters are "
            f"{', '.join(signature.parameters)}"
        ) from None
    return Function(setting, text, function, sha256)


@functools.cache
def _run_file(path: str, content: bytes) -> ModuleType:
    """Runs the content of a file as a module named after its path.

    Unchanged content returns the same functions, so programs are not recompiled. A
    regular import could use stale bytecode from `__pycache__`, because Python compares
    only the file's size and its modification time in seconds.

    The file can import modules from its folder. They are not kept in `sys.modules`,
    because files in other folders can import different modules of the same name.
    """
    module = ModuleType(path)
    module.__file__ = path
    sys.modules[path] = module  # dataclasses look up their types here
    folder = Path(path).parent
    imported = set(sys.modules)
    sys.path.insert(0, str(folder))
    try:
        exec(compile(content, path, "exec"), vars(module))
    finally:
        sys.path.remove(str(folder))
        for name in sys.modules.keys() - imported:
            file = getattr(sys.modules[name], "__file__", None)
            # Keep modules in subfolders, which can contain installed libraries.
            if file is not None and Path(file).parent == folder:
                del sys.modules[name]
    return module
