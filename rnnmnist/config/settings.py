"""Declares, checks and parses settings; `config.schema` lists them.

The declaration of a setting contains its type, range, default and help text, whether a
resumed run can change it, and the kinds of runs in which it has an effect.
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

BOUNDS = {"ge": "at least", "gt": "above", "le": "at most", "lt": "below"}
TYPES = {int: "an integer", float: "a number", bool: "true or false", str: "a string"}
ResumePolicy = Literal["error", "allow", "warn"]


def to_python(value: Any) -> Any:
    """Converts a NumPy scalar or an array without axes to a Python scalar.

    Other values are returned unchanged.
    """
    is_scalar = getattr(value, "shape", None) == ()
    return value.item() if is_scalar else value


def expand_path(given: str | Path) -> Path:
    """Makes a path absolute and expands `~` to the user's home directory."""
    if not isinstance(given, str | Path):
        raise UserError(f"must be a path, not {format_value(given)}")
    try:
        return Path(given).expanduser().absolute()
    except RuntimeError as error:  # unknown user after ~
        raise UserError(f"{given}: {error}") from None


class Setting(NamedTuple):
    """The declaration of a setting."""

    name: str  # with the section, such as `train.num_steps`
    kind: Any  # the type, annotated with the constraints
    allowed: str  # describes the allowed values, such as `an integer at least 1`
    default: Any
    help: str
    # Describes the default. If the default is None, describes the value that a run then
    # uses, such as `a tenth of the run`.
    default_help: str
    # What happens if a resumed run changes the value. `error`: the resume fails, since
    # the run would be a different one. `warn`: the resume continues with a warning,
    # because the result differs from the result of an uninterrupted run.
    on_resume: ResumePolicy
    # The runs in which the setting has an effect, such as `gradient-based training`;
    # None: all runs.
    applies_to: str | None
    is_path: bool  # paths depend on the machine and are not part of the run
    # Names of built-in functions, if the value is a function; None for other types.
    functions: tuple[str, ...] | None
    is_tuple: bool  # whether the value is a tuple of functions

    def check(self, value: Any, *, strict: bool = True) -> Any:
        """Converts a value to the setting's type, or raises a `UserError`.

        NumPy scalars become Python numbers, relative paths become absolute, and Python
        functions become texts that name them. If `strict` is False, strings are parsed.
        """
        if not self.is_tuple or value is None:
            return self._check_one(value, strict=strict)
        if isinstance(value, str):
            value = SEPARATOR.split(value)
        elif callable(value):
            value = [value]
        return tuple(self._check_one(item, strict=strict) for item in value)

    def _check_one(self, value: Any, *, strict: bool) -> Any:
        if isinstance(value, Path) and self.is_path:
            value = str(value)
        if callable(value) and self.functions is not None and not self.is_path:
            value = find_name(self.name, value)
        if isinstance(value, Function):
            return value
        try:
            value = msgspec.convert(to_python(value), self.kind, strict=strict)
        except msgspec.ValidationError:
            raise UserError(
                f"{self.name}: must be {self.allowed}, not {format_value(value)}"
            ) from None
        with prefix_errors(self.name):
            if self.functions is not None and value:
                value = self._normalize_text(value)
            elif self.is_path and value:
                value = str(expand_path(value))
        return value

    def _normalize_text(self, value: str) -> str:

        if self.is_path and not is_in_file(value):
            return str(expand_path(value))
        named = PATTERN.fullmatch(value)
        if named is None:  # a built-in function
            return value
        source, name = named.group("source", "name")
        if is_in_file(value):
            source = str(expand_path(source))
        # With `repr`, equal parameters have equal texts.
        parameters = parse_parameters(value)
        return ",".join(
            [f"{source}:{name}", *(f"{key}={parameters[key]!r}" for key in parameters)]
        )

    def parse(self, text: str) -> Any:
        """Parses and checks a value from the command line."""
        if text.lower() in ("none", "") and self.default is None:
            return None
        return self.check(text, strict=False)


def setting(
    default: Any,
    help: str,
    *,
    default_help: str | None = None,
    on_resume: ResumePolicy = "error",
    applies_to: str | None = None,
    is_path: bool = False,
    functions: tuple[str, ...] | None = None,
    is_tuple: bool = False,
    description: str = "",
    **constraints: Any,
) -> Any:
    """Declares a field of a `ConfigSection`.

    The constraints are `ge`, `gt`, `le`, `lt` or `pattern`, as in `msgspec.Meta`; None
    is exempt from them. `description` describes the allowed values for a `pattern` or
    for a type that is not in `TYPES`. The other arguments are fields of `Setting`.
    """
    # `settings_of` fills in the name and the type.
    default_help = default_help or str(default)
    if functions is not None and not is_path:
        description = " or ".join([*functions, SYNTAX])
        constraints = {"pattern": rf"^({'|'.join([*functions, PATTERN.pattern])})\Z"}
    declared = Setting(
        "",
        None,
        description,
        default,
        help,
        default_help,
        on_resume,
        applies_to,
        is_path,
        functions,
        is_tuple,
    )
    metadata = {"declared": declared, "constraints": constraints}
    return dataclasses.field(default=default, metadata=metadata)


@dataclasses.dataclass(frozen=True)
class ConfigSection:
    """A group of settings, checked on construction."""

    prefix: ClassVar[str] = ""  # begins the full names of the settings

    def __post_init__(self) -> None:
        settings = settings_of(type(self))  # type: ignore[arg-type]
        for key, declared in settings.items():
            # The dataclass is frozen; only `object.__setattr__` can set a field.
            object.__setattr__(self, key, declared.check(getattr(self, key)))


@functools.cache
def settings_of(section: type[ConfigSection]) -> dict[str, Setting]:
    """Returns the settings of a section by field name.

    A subclass can narrow the type of a field from `TYPE | None` to `TYPE`.
    """
    hints = typing.get_type_hints(section, include_extras=True)
    return {
        field.name: _make_setting(section.prefix, field, hints[field.name])
        for field in dataclasses.fields(section)
        if field.metadata
    }


def _make_setting(prefix: str, field: "dataclasses.Field[Any]", kind: Any) -> Setting:
    constraints = field.metadata["constraints"]
    declared: Setting = field.metadata["declared"]
    can_be_none = types.NoneType in typing.get_args(kind)
    if declared.functions is not None:
        kind = str
    elif can_be_none:
        (kind,) = set(typing.get_args(kind)) - {types.NoneType}
    allowed = declared.allowed
    if not allowed and kind in TYPES:
        bounds = [f"{BOUNDS[key]} {limit}" for key, limit in constraints.items()]
        allowed = f"{TYPES[kind]} {' and '.join(bounds)}".strip()
    elif not allowed:  # a Literal
        allowed = f"one of {', '.join(typing.get_args(kind))}"
    kind = Annotated[kind, msgspec.Meta(**constraints)]
    if can_be_none:
        kind |= None
        allowed += " or none"
    return declared._replace(name=prefix + field.name, kind=kind, allowed=allowed)


def find_setting(name: str, known: Mapping[str, Setting]) -> Setting:
    """Looks up a setting by its full name, or raises a `UserError`."""
    if name not in known:
        listed = "rnnmnist train --help lists all settings"
        remedy = suggest_name(name, known, listed)
        raise UserError(f"{name}: no such setting; {remedy}")
    return known[name]
