"""Functions and classes of the user: how settings name them, and how they are imported.

    train.loss=losses.py:focal,gamma=2

This names the function `focal` of a file, with a parameter. Code is imported here, for
the commands and the calls that name it. A name that only a checkpoint contains says
what the run needs, and is never imported.
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

FORM = "SOURCE:NAME,KEY=VALUE,… (SOURCE is a module or a FILE.py)"
# A module, or the path of a file; the name of a function or class; its parameters.
TEXT = re.compile(
    r"(?P<source><memory>|[\w.]+|.+?\.py):"
    r"(?P<label>(?P<name>[^:,\s]+)(,(?P<parameters>.*))?)"
)
MEMORY = "<memory>:"  # in place of the source of a function without one
# A plus sign between two functions, not one in a parameter.
SEPARATOR = re.compile(r" *\+ *(?=[^+:,=]+:)")


@dataclasses.dataclass(frozen=True, repr=False)
class Function:
    """A function or class, with parameters.

    It is a static argument of compiled programs, which compare its fields. Parameters
    stay text, so that lists can be parameters, and 1 and True are different.

    Attributes:
        setting: the full name of the setting, such as `train.loss`.
        text: names the function, as `losses.py:focal,gamma=2`; or as `<memory>:focal`
            if another process cannot import it, such as a function of a notebook.
        function: the function itself, or the class.
        sha256: the SHA-256 of the file; None for a module.
    """

    setting: str
    text: str
    function: Callable[..., Any]
    sha256: str | None = None

    def __call__(self, *args: Any, **keywords: Any) -> Any:
        """Calls the function with its parameters."""
        return self.function(*args, **keywords, **parse_parameters(self.text))

    def __repr__(self) -> str:
        return self.text

    def require_import(self) -> None:
        """Raises a `UserError` if another process cannot import the function."""
        if self.text.startswith(MEMORY):
            raise UserError(
                f"{self.setting}: {label(self)} cannot be imported by its name, as a "
                "folder or a pickle requires; move it to a file, and name it as "
                "FILE.py:NAME,KEY=VALUE"
            )

    @contextlib.contextmanager
    def errors(self) -> Iterator[None]:
        """Raises a `UserError` of one line for what the function raises."""
        try:
            yield
        except (Exception, SystemExit) as error:  # a user's code can raise anything
            # jax names the shapes below the first line.
            lines = f"{type(error).__name__}: {error}".split()
            raised = escape_unprintable(" ".join(lines)[:300])
            raise UserError(
                f"{self.setting}: {label(self)} fails: {raised}; correct the "
                "function or its parameters"
            ) from error


def label(value: object) -> str:
    """Returns the text of a function without its source, as `focal,gamma=2`.

    A value that names one of our functions, such as `lstm`, is its own label.
    """
    found = TEXT.fullmatch(str(value))
    return found["label"] if found else str(value)


def is_in_file(text: str) -> bool:
    """Returns whether a text names a function of a file, not of a module."""
    found = TEXT.fullmatch(text)
    return found is not None and found["source"].endswith(".py")


def identify(value: object) -> str:
    """Returns the text of a function without the path of its file, which may move."""
    text = str(value)
    return f"FILE.py:{label(text)}" if is_in_file(text) else text


def parse_parameters(text: str) -> dict[str, Any]:
    """Returns the parameters in the text of a function.

    Each is a keyword of a Python call with a literal. A bare word is text.
    """
    found = TEXT.fullmatch(text)
    written = found["parameters"] if found else None
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


def bind(
    value: object, ours: Mapping[str, Callable[..., Any]], **parameters: float
) -> Function:
    """Returns the function of a setting.

    It is the user's function, or one of `ours`, found by its name. The parameters of
    ours are settings.
    """
    if isinstance(value, Function):
        return value
    keywords = "".join(f",{key}={number}" for key, number in parameters.items())
    return Function("", f"rnnmnist:{value}{keywords}", ours[str(value)])


def find_name(setting: str, function: Callable[..., Any]) -> str | Function:
    """Returns the text that names a function of Python.

    If another process could not import the function, it returns a `Function`.
    """
    if isinstance(function, Function):
        return function
    names = str(getattr(function, "__module__", None)).split(".")
    name = getattr(function, "__qualname__", type(function).__name__)
    for end in range(len(names)):  # a package can offer what its module defines
        module = ".".join(names[: end + 1])
        found = getattr(sys.modules.get(module), name, None)
        if found is function and module != "__main__":
            return f"{module}:{name}"
    try:
        hash(function)
    except TypeError as error:
        raise UserError(f"{setting}: {error}; pass a function") from None
    return Function(setting, MEMORY + name, function)


def import_function(setting: str, text: str | Function) -> Function:
    """Imports a function or class of the user, which the caller must have named.

    A `Function` is returned as it is. A file is run again after it has changed. A
    module is imported once in a process.

    Raises:
        UserError: if the file or module does not run, or has no such function, or the
            function has no such parameter.
    """
    if isinstance(text, Function):
        return text
    # The setting has checked that the text matches.
    source, name = TEXT.fullmatch(text).group("source", "name")  # type: ignore[union-attr]
    sha256 = None
    try:
        if source.endswith(".py"):
            content = Path(source).read_bytes()
            sha256 = hashlib.sha256(content).hexdigest()
            module = _run_file(source, content)
        else:
            module = importlib.import_module(source)
    except (Exception, SystemExit) as error:  # a user's code can raise anything
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
            f"{setting}: {label(text)}: {error}; its parameters are "
            f"{', '.join(signature.parameters)}"
        ) from None
    return Function(setting, text, function, sha256)


@functools.cache
def _run_file(path: str, content: bytes) -> ModuleType:
    """Runs the content of a file as a module, whose name is the path.

    The same content gives the same functions, so that programs are not compiled again.
    An import would take bytecode from `__pycache__`, which can be that of another
    content: Python compares only the size of the file and its time in seconds.

    The file can import modules beside it. Another file does not see them, since both
    can have a neighbour of the same name.
    """
    module = ModuleType(path)
    module.__file__ = path
    sys.modules[path] = module  # where dataclasses look up their types
    folder = Path(path).parent
    imported = set(sys.modules)
    sys.path.insert(0, str(folder))
    try:
        exec(compile(content, path, "exec"), vars(module))
    finally:
        sys.path.remove(str(folder))
        for name in sys.modules.keys() - imported:
            file = getattr(sys.modules[name], "__file__", None)
            # Not those of folders below, where libraries can be installed.
            if file is not None and Path(file).parent == folder:
                del sys.modules[name]
    return module
