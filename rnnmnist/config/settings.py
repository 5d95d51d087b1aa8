"""The machinery of settings: declaring, checking and parsing them.

`config.schema` declares all settings. The declaration of a setting contains its type,
range, default and help text, whether a resumed run may change it, and which runs use
it.
"""

import dataclasses
import functools
import types
import typing
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, NamedTuple

import msgspec

from rnnmnist.config.functions import (
    PATTERN,
    SEPARATOR,
    SYNTAX,
    Function,
    find_name,
    is_in_file,
    parse_parameters,
)
from rnnmnist.errors import UserError, format_value, prefix_errors, suggest_name

OPERATORS = {"ge": ">=", "gt": ">", "le": "<=", "lt": "<"}
CONSTRAINTS = (*OPERATORS, "pattern")
TYPES = {int: "an integer", float: "a number", bool: "true or false", str: "a string"}
ResumePolicy = Literal["error", "allow", "warn"]


def to_python(value: Any) -> Any:
    """Converts a scalar or zero-dimensional array to a Python scalar.

    Any other value is returned unchanged.
    """
    is_scalar = getattr(value, "shape", None) == ()
    return value.item() if is_scalar else value


def expand_path(path: str | Path) -> Path:
    """Makes a path absolute and expands `~` to the user's home directory."""
    if not isinstance(path, str | Path) or not str(path).strip():
        raise UserError(f"must be a path, not {format_value(path)}")
    try:
        return Path(path).expanduser().absolute()
    except RuntimeError as error:  # unknown user after ~
        raise UserError(f"{path}: {error}") from None


class Setting(NamedTuple):
    """The declaration of a setting."""

    name: str  # full name, such as `train.num_steps`
    kind: Any  # type, annotated with the constraints
    default: Any
    help: str
    # Description of the allowed values, such as `an integer >= 1`. It is derived from
    # `functions`, or from the type and its bounds, unless it is declared.
    allowed: str = ""
    # The default in words. If the default is None, this is the value that a run uses
    # instead, such as `a tenth of the run`.
    default_help: str = ""
    # Policy for a resumed run with another value. `error`: the run does not resume,
    # because it would be a different run. `warn`: the run resumes with a warning,
    # because its result may differ from an uninterrupted run's. `allow`: the run
    # resumes.
    on_resume: ResumePolicy = "error"
    # Conditions on a run that uses the setting, such as `a validation split`.
    applies_to: tuple[str, ...] = ()
    is_path: bool = False  # whether the value is a path, which may differ by machine
    # Names of the built-in functions if the value is a function; None for other types.
    functions: tuple[str, ...] | None = None
    is_tuple: bool = False  # whether the value is a tuple of functions

    def check(self, value: Any, *, strict: bool = True) -> Any:
        """Converts a value to the setting's type, or raises a `UserError`.

        NumPy scalars are converted to Python scalars, and relative paths to absolute
        paths. Python functions are converted to `MODULE:NAME` where possible. If
        `strict` is False, strings are parsed.
        """
        if not self.is_tuple or value is None:
            return self._check_one(value, strict=strict)
        if isinstance(value, str):
            value = SEPARATOR.split(value)
        elif callable(value):
            value = [value]
        return tuple(self._check_one(item, strict=strict) for item in value)

    def _check_one(self, value: Any, *, strict: bool) -> Any:
        if callable(value) and self.functions is not None:
            value = find_name(self.name, value)
        if isinstance(value, Function):
            return value
        if isinstance(value, Path):
            value = str(value)
        try:
            value = msgspec.convert(to_python(value), self.kind, strict=strict)
        except msgspec.ValidationError:
            raise UserError(
                f"{self.name}: must be {self.allowed}, not {format_value(value)}"
            ) from None
        with prefix_errors(self.name):
            if self.functions is not None or (self.is_path and is_in_file(str(value))):
                value = _normalize_spec(value)
            elif self.is_path and value is not None:
                value = str(expand_path(value))
        return value

    def parse(self, text: str) -> Any:
        """Parses and checks a value from the command line."""
        if text.lower() in ("none", "") and self.default is None:
            return None
        return self.check(text, strict=False)


def _normalize_spec(value: str | None) -> str | None:
    """Makes the specifications of equal functions with equal parameters equal."""
    match = PATTERN.fullmatch(value or "")
    if value is None or match is None:  # None, or the name of a built-in function
        return value
    source, name = match.group("source", "name")
    if is_in_file(value):
        source = str(expand_path(source))
    parameters = parse_parameters(value)
    return ",".join(
        [f"{source}:{name}", *(f"{key}={parameters[key]!r}" for key in parameters)]
    )


def setting(default: Any, help: str, **declaration: Any) -> Any:
    """Declares a field of a `ConfigSection`.

    The keywords are optional fields of `Setting`, and `CONSTRAINTS` of `msgspec.Meta`,
    which do not apply to None.
    """
    metadata = {"help": help, **declaration}
    return dataclasses.field(default=default, metadata=metadata)


@dataclasses.dataclass(frozen=True)
class ConfigSection:
    """A group of settings, checked on construction."""

    prefix: ClassVar[str] = ""  # prefix of the full names, such as `train.`

    def __post_init__(self) -> None:
        settings = settings_of(type(self))  # type: ignore[arg-type]
        for key, declaration in settings.items():
            # `object.__setattr__` sets a field although the dataclass is frozen.
            object.__setattr__(self, key, declaration.check(getattr(self, key)))


@functools.cache
def settings_of(section: type[ConfigSection]) -> dict[str, Setting]:
    """Returns the settings of a section, by field name.

    A subclass may narrow the type of a field from `TYPE | None` to `TYPE`.
    """
    hints = typing.get_type_hints(section, include_extras=True)
    return {
        field.name: _make_setting(section.prefix, field, hints[field.name])
        for field in dataclasses.fields(section)
        if field.metadata
    }


def _make_setting(prefix: str, field: "dataclasses.Field[Any]", kind: Any) -> Setting:
    declaration = {"default_help": str(field.default), **field.metadata}
    constraints = {
        key: declaration.pop(key) for key in CONSTRAINTS if key in declaration
    }
    allowed, functions = declaration.get("allowed"), declaration.get("functions")
    can_be_none = types.NoneType in typing.get_args(kind)
    if functions is not None:
        kind = str
        allowed = " or ".join([*functions, SYNTAX])
        constraints["pattern"] = rf"^({'|'.join([*functions, PATTERN.pattern])})\Z"
    elif can_be_none:
        (kind,) = set(typing.get_args(kind)) - {types.NoneType}
    if not allowed and kind in TYPES:
        bounds = [f"{OPERATORS[key]} {limit}" for key, limit in constraints.items()]
        allowed = f"{TYPES[kind]} {' and '.join(bounds)}".strip()
    elif not allowed:  # a Literal
        allowed = f"one of {', '.join(typing.get_args(kind))}"
    kind = Annotated[kind, msgspec.Meta(**constraints)]
    if can_be_none:
        kind |= None
        allowed += ", or none"
    declaration["allowed"] = allowed
    return Setting(prefix + field.name, kind, field.default, **declaration)


def find_setting(name: str, known: Mapping[str, Setting]) -> Setting:
    """Looks up a setting by its full name, or raises a `UserError`."""
    if name not in known:
        hint = "rnnmnist train --help lists all settings"
        remedy = suggest_name(name, known, hint)
        raise UserError(f"{name}: no such setting; {remedy}")
    return known[name]
