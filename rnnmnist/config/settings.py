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
    if not isinstance(path, str | Path):
        raise UserError(f"must be a path, not {format_value(path)}")
    try:
        return Path(path).expanduser().absolute()
    except RuntimeError as error:  # unknown user after ~
        raise UserError(f"{path}: {error}") from None


class Setting(NamedTuple):
    """The declaration of a setting."""

    name: str  # full name, such as `train.num_steps`
    kind: Any  # type, annotated with the constraints
    allowed: str  # description of the allowed values, such as `an integer >= 1`
    default: Any
    help: str
    # The default in words. If the default is None, this is the value that a run uses
    # instead, such as `a tenth of the run`.
    default_help: str
    # Policy for a resumed run with another value. `error`: the run does not resume,
    # because it would be a different run. `warn`: the run resumes with a warning,
    # because its result may differ from an uninterrupted run's. `allow`: the run
    # resumes.
    on_resume: ResumePolicy
    # The runs that use the setting, such as `gradient-based training`; None: all runs.
    applies_to: str | None
    is_path: bool  # whether the value is a path, which may differ between machines
    # Names of the built-in functions if the value is a function; None for other types.
    functions: tuple[str, ...] | None
    is_tuple: bool  # whether the value is a tuple of functions

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
        match = PATTERN.fullmatch(value)
        if match is None:  # a built-in function
            return value
        source, name = match.group("source", "name")
        if is_in_file(value):
            source = str(expand_path(source))
        # `repr` makes the strings of equal parameters equal.
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

    The constraints are the arguments `ge`, `gt`, `le`, `lt` and `pattern` of
    `msgspec.Meta`. They do not apply to None. `description` describes the allowed
    values if there is a `pattern`, or if `TYPES` does not contain the type. The other
    arguments are fields of `Setting`.
    """
    default_help = default_help or str(default)
    if functions is not None and not is_path:
        description = " or ".join([*functions, SYNTAX])
        constraints = {"pattern": rf"^({'|'.join([*functions, PATTERN.pattern])})\Z"}
    declaration = Setting(
        "",  # `settings_of` fills in the name and the type
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
    metadata = {"declaration": declaration, "constraints": constraints}
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
    constraints = field.metadata["constraints"]
    declaration: Setting = field.metadata["declaration"]
    can_be_none = types.NoneType in typing.get_args(kind)
    if declaration.functions is not None:
        kind = str
    elif can_be_none:
        (kind,) = set(typing.get_args(kind)) - {types.NoneType}
    allowed = declaration.allowed
    if not allowed and kind in TYPES:
        bounds = [f"{OPERATORS[key]} {limit}" for key, limit in constraints.items()]
        allowed = f"{TYPES[kind]} {' and '.join(bounds)}".strip()
    elif not allowed:  # a Literal
        allowed = f"one of {', '.join(typing.get_args(kind))}"
    kind = Annotated[kind, msgspec.Meta(**constraints)]
    if can_be_none:
        kind |= None
        allowed += ", or none"
    return declaration._replace(name=prefix + field.name, kind=kind, allowed=allowed)


def find_setting(name: str, known: Mapping[str, Setting]) -> Setting:
    """Looks up a setting by its full name, or raises a `UserError`."""
    if name not in known:
        hint = "rnnmnist train --help lists all settings"
        remedy = suggest_name(name, known, hint)
        raise UserError(f"{name}: no such setting; {remedy}")
    return known[name]
