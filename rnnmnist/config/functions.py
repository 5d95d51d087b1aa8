"""Imports the custom functions and classes that settings specify.

    train.loss=losses.py:focal,gamma=2

This setting specifies the function `focal` in `losses.py`, and sets its parameter
`gamma`. Only functions that the user passes to the current command or call are
imported. A checkpoint stores the specifications, which show the code that a run needs,
but loading the checkpoint does not import them.
"""

import ast
import contextlib
import dataclasses
import functools
import hashlib
import importlib
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
# A module or file, the name of its function or class, and parameters.
PATTERN = re.compile(
    r"(?P<source><memory>|[\w.]+|.+?\.py):"
    r"(?P<label>(?P<name>[^:,\s]+)(,(?P<parameters>.*))?)"
)
MEMORY_PREFIX = "<memory>:"  # for functions that have no module or file
# A plus sign between two functions, but not inside a parameter.
SEPARATOR = re.compile(r" *\+ *(?=[^+:,=]+:)")


@dataclasses.dataclass(frozen=True, repr=False)
class Function:
    """A custom function or class, and its parameters.

    A `Function` is a static argument of compiled programs, so it is hashable, and two
    of them are equal if all fields are equal. The parameters are stored as a string,
    because a parsed list would not be hashable, and 1 would equal True.

    Attributes:
        setting: full name of the setting, such as `train.loss`.
        spec: source, name and parameters, such as `losses.py:focal,gamma=2`, or
            `<memory>:focal` if other processes cannot import the function, for example
            because it is defined in a notebook.
        function: the Python function or class.
        sha256: SHA-256 of the source file; None for a module.
    """

    setting: str
    spec: str
    function: Callable[..., Any]
    sha256: str | None = None

    def __call__(self, *args: Any, **keywords: Any) -> Any:
        """Calls the function with these arguments and the stored parameters."""
        return self.function(*args, **keywords, **parse_parameters(self.spec))

    def __repr__(self) -> str:
        return self.spec

    def check_importable(self) -> None:
        """Raises a `UserError` if other processes cannot import the function."""
        if self.spec.startswith(MEMORY_PREFIX):
            raise UserError(
                f"{self.setting}: {short_name(self)} cannot be imported, which is "
                "required to pickle a model or save it to a folder; move the function "
                "to a file, and pass FILE.py:NAME,KEY=VALUE"
            )

    @contextlib.contextmanager
    def wrap_errors(self) -> Iterator[None]:
        """Converts any error raised by the function to a one-line `UserError`."""
        try:
            yield
        except (Exception, SystemExit) as error:  # user code can raise anything
            if str(error).startswith(f"{self.setting}: "):  # already converted
                raise
            # Keep all lines, because JAX prints array shapes below the first line.
            words = f"{type(error).__name__}: {error}".split()
            message = escape_unprintable(" ".join(words)[:300])
            raise UserError(
                f"{self.setting}: {short_name(self)} fails: {message}; fix the "
                "function or its parameters"
            ) from error


def short_name(value: object) -> str:
    """Returns a function's name and parameters without its source: `focal,gamma=2`.

    The name of a built-in function, such as `lstm`, is returned unchanged.
    """
    match = PATTERN.fullmatch(str(value))
    return match["label"] if match else str(value)


def is_in_file(text: str) -> bool:
    """Returns True if the text specifies a function in a file, not in a module."""
    match = PATTERN.fullmatch(text)
    return match is not None and match["source"].endswith(".py")


def spec_without_path(value: object) -> str:
    """Returns a function's specification without a file path, since files may move."""
    text = str(value)
    return f"FILE.py:{short_name(text)}" if is_in_file(text) else text


def parse_parameters(text: str) -> dict[str, Any]:
    """Parses the parameters in a function's specification.

    The syntax is `KEY=VALUE,…`, where each value is a Python literal. A single word
    without quotes is a string.
    """
    match = PATTERN.fullmatch(text)
    arguments = match["parameters"] if match else None
    parameters: dict[str, Any] = {}
    try:
        call: Any = ast.parse(f"f({arguments or ''})", mode="eval").body
        for keyword in call.keywords:
            value = keyword.value
            is_word = isinstance(value, ast.Name)
            parameters[keyword.arg] = value.id if is_word else ast.literal_eval(value)
        if call.args or None in parameters or len(parameters) < len(call.keywords):
            raise ValueError("each value needs its own key")
    except (AttributeError, SyntaxError, ValueError):
        raise UserError(
            f"{format_value(arguments)} are not valid parameters; pass KEY=VALUE,… "
            "with Python literals, and quote all strings except single words"
        ) from None
    return parameters


def resolve_function(
    value: object, built_in: Mapping[str, Callable[..., Any]], **parameters: float
) -> Function:
    """Returns the function that a setting selects.

    The value is a custom function, or the name of a built-in function. Only the
    built-in functions receive the parameters.
    """
    if isinstance(value, Function):
        return value
    keywords = "".join(f",{key}={number}" for key, number in parameters.items())
    return Function("", f"rnnmnist:{value}{keywords}", built_in[str(value)])


def find_name(setting: str, function: Callable[..., Any]) -> str | Function:
    """Returns the `MODULE:NAME` from which a Python function can be imported.

    If other processes cannot import it, the function is wrapped in a `Function`.
    """
    if isinstance(function, Function):
        return function
    parts = str(getattr(function, "__module__", None)).split(".")
    name = getattr(function, "__qualname__", type(function).__name__)
    for end in range(len(parts)):  # packages that may re-export it come first
        module = ".".join(parts[: end + 1])
        attribute = getattr(sys.modules.get(module), name, None)
        if attribute is function and module != "__main__":
            return f"{module}:{name}"
    return Function(setting, MEMORY_PREFIX + name, function)


def import_function(setting: str, text: str | Function) -> Function:
    """Imports a custom function or class.

    This runs the user's code, so the text must come from the user, not from a
    checkpoint. A file runs again if its content has changed. A module is imported once
    per process. A `Function` is returned unchanged.

    Raises:
        UserError: if the file or module cannot be imported, or does not define the
            function.
    """
    if isinstance(text, Function):
        return text
    # `Setting.check` has checked that the text matches.
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
            "fix the code, install its dependencies, or pass a file as FILE.py:NAME"
        ) from error
    function = getattr(module, name, None)
    if not callable(function):
        remedy = suggest_name(name, dir(module), "pass a function that it defines")
        raise UserError(f"{setting}: {source} has no function {name}; {remedy}")
    return Function(setting, text, function, sha256)


@functools.cache
def _run_file(path: str, content: bytes) -> ModuleType:
    """Runs the content of a file as a module named after its path.

    If the content has not changed, the result contains the same functions as before, so
    programs are not recompiled. A regular import could use stale bytecode from
    `__pycache__`, because Python compares only the file's size and its modification
    time in seconds.

    The file may import modules from its folder. They are removed from `sys.modules`
    afterwards, because a file in another folder may import a different module with the
    same name.
    """
    module = ModuleType(path)
    module.__file__ = path
    sys.modules[path] = module  # where `dataclasses` looks up types
    folder = Path(path).parent
    previous_modules = set(sys.modules)
    sys.path.insert(0, str(folder))
    try:
        exec(compile(content, path, "exec"), vars(module))
    finally:
        sys.path.remove(str(folder))
        for name in sys.modules.keys() - previous_modules:
            file = getattr(sys.modules[name], "__file__", None)
            # Keep modules in subfolders, which may contain installed libraries.
            if file is not None and Path(file).parent == folder:
                del sys.modules[name]
    return module
