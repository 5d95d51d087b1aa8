"""How a setting is declared, checked and parsed; what there is, `config` says."""

import dataclasses
import difflib
import math
import types
import typing
from typing import Any, ClassVar, Literal

from rnnmnist.errors import UserError

Field = dataclasses.Field[Any]
REQUIRED = object()  # of a setting that every saved configuration has


def setting(
    default: Any,
    help: str,
    *,
    at_least: float | None = None,
    above: float | None = None,
    at_most: float | None = None,
    before: Any = REQUIRED,
) -> Any:
    """Declares a setting: a dataclass field with its meaning and its range.

    Args:
        default: of a new configuration.
        help: for `--help`.
        at_least: the lowest value; None for no bound.
        above: a bound that is not itself a value; None for no bound.
        at_most: the highest value; None for no bound.
        before: the value that a configuration has which was saved before there was
            this setting. Whoever adds a setting gives it.
    """
    metadata = {
        "help": help,
        "at_least": at_least,
        "above": above,
        "at_most": at_most,
        "before": before,
    }
    return dataclasses.field(default=default, metadata=metadata)


def value_before(name: str, field: Field) -> Any:
    """The value of a setting in a configuration that was saved without it.

    Raises:
        UserError: if the setting declares none.
    """
    value = field.metadata["before"]
    if value is REQUIRED:
        raise UserError(f"{name}: missing, and its value cannot be inferred")
    return value


@dataclasses.dataclass(frozen=True)
class Section:
    """Settings that check their own types and ranges when they are made.

    Raises:
        UserError: naming the setting, the value and what is allowed.
    """

    PREFIX: ClassVar[str] = ""

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):
            if not dataclasses.is_dataclass(field.type):
                name, value = self.PREFIX + field.name, getattr(self, field.name)
                object.__setattr__(self, field.name, checked(name, value, field))


def checked(name: str, value: Any, field: Field) -> Any:
    """The value, if it has the field's type and is in its range.

    Raises:
        UserError: otherwise, naming the setting, the value and what is allowed.
    """
    if type(value) is int and float in _kinds(field):
        value = float(value)
    if type(value) not in _kinds(field) or not _in_range(value, field):
        near = difflib.get_close_matches(str(value), _choices(field), n=1)
        hint = f"; did you mean {near[0]}?" if near else ""
        raise UserError(f"{name}: must be {allowed(field)}, not {value!r}{hint}")
    return value


def parse(shown_as: str, text: str, field: Field) -> Any:
    """A value of the field's type from the command line's text.

    Raises:
        UserError: when the text is none, showing the flag as the user wrote it.
    """
    kinds = _kinds(field)
    try:
        if type(None) in kinds and text.lower() in ("none", ""):
            return None
        if bool in kinds:
            return {"true": True, "false": False}[text.lower()]
        if int in kinds:
            return int(text)
        return float(text) if float in kinds else text
    except (KeyError, ValueError):
        raise UserError(f"{shown_as}: must be {allowed(field)}, not {text!r}") from None


def find(name: str, fields: dict[str, Field], shown_as: str) -> Field:
    """The field of a setting by its full name.

    Raises:
        UserError: when there is no such setting, with the nearest one.
    """
    if name in fields:
        return fields[name]
    near = difflib.get_close_matches(name, fields, n=1, cutoff=0.5)
    if not near:  # a right name in the wrong section, or in none
        last = name.split(".")[-1]
        near = [full for full in fields if full.split(".")[-1] == last]
    hint = f"did you mean {near[0]}?" if near else "--help lists them all"
    raise UserError(f"{shown_as}: no such setting; {hint}")


def allowed(field: Field) -> str:
    """What a setting takes, in words."""
    if _choices(field):
        return f"one of {', '.join(_choices(field))}"
    words = {
        int: "a whole number",
        float: "a number",
        bool: "true or false",
        str: "a text",
        type(None): "none",
    }
    kinds = " or ".join(words[kind] for kind in _kinds(field))
    bounds = [
        f"{word.replace('_', ' ')} {field.metadata[word]}"
        for word in ("at_least", "above", "at_most")
        if field.metadata[word] is not None
    ]
    return " ".join([kinds, " and ".join(bounds)]).strip()


def _in_range(value: Any, field: Field) -> bool:
    if _choices(field):
        return value in _choices(field)
    if not isinstance(value, (int, float)):
        return True
    least, above, most = (
        field.metadata[word] for word in ("at_least", "above", "at_most")
    )
    return (
        math.isfinite(value)
        and (least is None or value >= least)
        and (above is None or value > above)
        and (most is None or value <= most)
    )


def _choices(field: Field) -> tuple[str, ...]:
    literal = typing.get_origin(field.type) is Literal
    return typing.get_args(field.type) if literal else ()


def _kinds(field: Field) -> tuple[type, ...]:
    if typing.get_origin(field.type) in (types.UnionType, typing.Union):
        return typing.get_args(field.type)
    return (str,) if _choices(field) else (typing.cast(type, field.type),)
