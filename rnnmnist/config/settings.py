"""How a setting is declared, checked and parsed. `config.schema` has the settings.

The declaration of a setting says its type, range, default and help, whether a resume
may change it, and which data and recurrences have it.
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
    FORM,
    SEPARATOR,
    TEXT,
    Function,
    find_name,
    is_in_file,
    parse_parameters,
)
from rnnmnist.errors import UserError, format_value, prefix_errors, suggest_name

BOUNDS = {"ge": "at least", "gt": "above", "le": "at most", "lt": "below"}
TYPES = {int: "an integer", float: "a number", bool: "true or false", str: "a string"}
Resume = Literal["refused", "allowed", "warned"]


def to_python(value: Any) -> Any:
    """Returns a scalar of NumPy, or an array without axes, as a value of Python.

    Other values are returned as they are.
    """
    is_scalar = getattr(value, "shape", None) == ()
    return value.item() if is_scalar else value


def expand(given: str | Path) -> Path:
    """Returns an absolute path, in which `~` is the user's home directory."""
    if not isinstance(given, str | Path):
        raise UserError(f"must be a path, not {format_value(given)}")
    try:
        return Path(given).expanduser().absolute()
    except RuntimeError as error:  # there is no such user
        raise UserError(f"{given}: {error}") from None


class Setting(NamedTuple):
    """A declared setting."""

    name: str  # with its section, such as `train.num_steps`
    kind: Any  # its type, annotated with its constraints
    allowed: str  # describes its values, such as `an integer at least 1`
    default: Any
    help: str
    # The default; if it is None, the value that a run has then, in words, such as `a
    # tenth of the run`.
    by_default: str
    # Whether a resumed run may change it. `refused`: with another value, it would be
    # another run. `warned`: the result is not that of a run without a stop.
    resume: Resume
    # The runs in which it has an effect, such as `training by gradients`; None: all.
    applies_to: str | None
    is_path: bool  # whether it is a path, which depends on the machine, not on the run
    # The names of our functions, if its value is a function; None: a value of another
    # type.
    functions: tuple[str, ...] | None
    are_several: bool  # whether its value is a tuple of functions

    def check(self, value: Any, *, strict: bool = True) -> Any:
        """Returns a value as one of the setting's type, or raises a `UserError`.

        Numbers of NumPy become those of Python, and paths absolute. Functions of Python
        become texts that name them. Unless `strict`, texts are converted to the type.
        """
        if not self.are_several or value is None:
            return self._check_one(value, strict=strict)
        if isinstance(value, str):
            value = SEPARATOR.split(value)
        elif callable(value):
            value = [value]
        return tuple(self._check_one(each, strict=strict) for each in value)

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
                value = self._check_text(value)
            elif self.is_path and value:
                value = str(expand(value))
        return value

    def _check_text(self, value: str) -> str:
        """Checks the text of a function, and returns it with an absolute path."""
        if self.is_path and not is_in_file(value):
            return str(expand(value))
        named = TEXT.fullmatch(value)
        if named is None:  # a name of ours
            return value
        source, name = named.group("source", "name")
        if is_in_file(value):
            source = str(expand(source))
        # `repr` writes equal parameters in one way.
        parameters = parse_parameters(value)
        return ",".join(
            [f"{source}:{name}", *(f"{key}={parameters[key]!r}" for key in parameters)]
        )

    def parse(self, text: str) -> Any:
        """Returns the value that a text stands for, as checked by `check`."""
        if text.lower() in ("none", "") and self.default is None:
            return None
        return self.check(text, strict=False)


def setting(
    default: Any,
    help: str,
    *,
    by_default: str | None = None,
    resume: Resume = "refused",
    applies_to: str | None = None,
    is_path: bool = False,
    functions: tuple[str, ...] | None = None,
    are_several: bool = False,
    form: str = "",
    **constraints: Any,
) -> Any:
    """Declares a `Setting`: a field of a `ConfigSection`.

    The constraints are `ge`, `gt`, `le`, `lt` or `pattern`, as for `msgspec.Meta`. They
    do not apply to None. `form` describes the values of types that `TYPES` lacks, and
    the texts that match a pattern. The other arguments are fields of `Setting`.
    """
    # `settings_of` adds the name and the type.
    by_default = by_default or str(default)
    if functions is not None and not is_path:
        form = " or ".join([*functions, FORM])
        constraints = {"pattern": rf"^({'|'.join([*functions, TEXT.pattern])})\Z"}
    declared = Setting(
        "",
        None,
        form,
        default,
        help,
        by_default,
        resume,
        applies_to,
        is_path,
        functions,
        are_several,
    )
    metadata = {"declared": declared, "constraints": constraints}
    return dataclasses.field(default=default, metadata=metadata)


@dataclasses.dataclass(frozen=True)
class ConfigSection:
    """A section of settings, which are checked on construction."""

    prefix: ClassVar[str] = ""  # with which the names of its settings begin

    def __post_init__(self) -> None:
        settings = settings_of(type(self))  # type: ignore[arg-type]
        for key, declared in settings.items():
            # The class is frozen, so that only `object` can set a field.
            object.__setattr__(self, key, declared.check(getattr(self, key)))


@functools.cache
def settings_of(section: type[ConfigSection]) -> dict[str, Setting]:
    """Returns the settings of a section, by the names of its fields.

    A subclass can narrow the type of a setting from `TYPE | None` to `TYPE`.
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
    elif not allowed:  # it is a Literal
        allowed = f"one of {', '.join(typing.get_args(kind))}"
    kind = Annotated[kind, msgspec.Meta(**constraints)]
    if can_be_none:
        kind |= None
        allowed += " or none"
    return declared._replace(name=prefix + field.name, kind=kind, allowed=allowed)


def find(name: str, known: Mapping[str, Setting]) -> Setting:
    """Returns a setting by its name, or raises a `UserError`."""
    if name not in known:
        listed = "rnnmnist train --help lists all settings"
        remedy = suggest_name(name, known, listed)
        raise UserError(f"{name}: no such setting; {remedy}")
    return known[name]
