"""How a setting is declared, checked and parsed. `config.schema` has the settings."""

import dataclasses
import difflib
import math
import re
import types
import typing
from typing import Any, ClassVar, Literal

from rnnmnist.errors import UserError

Field = dataclasses.Field[Any]


def setting(
    default: Any,
    help: str,
    *,
    at_least: float | None = None,
    above: float | None = None,
    at_most: float | None = None,
    pattern: str | None = None,
    form: str | None = None,
    words: tuple[str, ...] = (),
) -> Any:
    """Declares a setting: a dataclass field with a help text and a range.

    `at_least` and `at_most` are inclusive bounds, `above` is an exclusive one. A text
    has to match `pattern`, which `form` describes; `words` are among its values.
    """
    bounds = {"at_least": at_least, "above": above, "at_most": at_most}
    metadata: dict[str, Any] = {"help": help, "bounds": bounds, "words": words}
    metadata |= {"pattern": pattern, "form": form}
    return dataclasses.field(default=default, metadata=metadata)


@dataclasses.dataclass(frozen=True)
class Section:
    """A group of settings that are checked on construction, by `check`."""

    PREFIX: ClassVar[str] = ""

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):
            if not dataclasses.is_dataclass(field.type):
                name, value = self.PREFIX + field.name, getattr(self, field.name)
                object.__setattr__(self, field.name, check(name, value, field))


def check(name: str, value: Any, field: Field) -> Any:
    """Returns the value if it has the field's type and is in its range.

    An integer is converted where the field takes a float.

    Raises:
        UserError: otherwise, with the setting, the value and the allowed values.
    """
    if type(value) is int and float in _types(field):
        value = float(value)
    if type(value) not in _types(field) or not _in_range(value, field):
        words = _choices(field) or field.metadata["words"]
        near = difflib.get_close_matches(str(value), words, n=1)
        hint = f"; did you mean {near[0]}?" if near else ""
        raise UserError(f"{name}: must be {allowed(field)}, not {value!r}{hint}")
    return value


def parse(flag: str, text: str, field: Field) -> Any:
    """Converts command-line text to the field's type.

    Raises:
        UserError: if the text cannot be converted, with the flag as given.
    """
    kinds = _types(field)
    try:
        if type(None) in kinds and text.lower() in ("none", ""):
            return None
        if bool in kinds:
            return {"true": True, "false": False}[text.lower()]
        if int in kinds:
            return int(text)
        return float(text) if float in kinds else text
    except (KeyError, ValueError):
        raise UserError(f"{flag}: must be {allowed(field)}, not {text!r}") from None


def find(name: str, fields: dict[str, Field], flag: str) -> Field:
    """Returns the field of a setting, such as `train.num_steps`.

    Raises:
        UserError: if there is no such setting, with the nearest one.
    """
    if name in fields:
        return fields[name]
    near = difflib.get_close_matches(name, fields, n=1, cutoff=0.5)
    if not near:  # a correct name without its section, or in another one
        last = name.split(".")[-1]
        near = [full for full in fields if full.split(".")[-1] == last]
    command = "python -m rnnmnist.main --help"
    hint = f"did you mean {near[0]}?" if near else f"{command} lists all settings"
    raise UserError(f"{flag}: no such setting; {hint}")


def allowed(field: Field) -> str:
    """Describes the values that a setting accepts."""
    if _choices(field):
        return f"one of {', '.join(_choices(field))}"
    if field.metadata["form"]:
        return str(field.metadata["form"])
    names = {
        int: "an integer",
        float: "a number",
        bool: "true or false",
        str: "a string",
        type(None): "none",
    }
    kinds = " or ".join(names[kind] for kind in _types(field))
    bounds = [
        f"{name.replace('_', ' ')} {bound}"
        for name, bound in field.metadata["bounds"].items()
        if bound is not None
    ]
    return " ".join([kinds, " and ".join(bounds)]).strip()


def _in_range(value: Any, field: Field) -> bool:
    if _choices(field):
        return value in _choices(field)
    if isinstance(value, str) and field.metadata["pattern"]:
        return re.fullmatch(field.metadata["pattern"], value) is not None
    if not isinstance(value, (int, float)):
        return True
    least, above, most = field.metadata["bounds"].values()
    return (
        math.isfinite(value)
        and (least is None or value >= least)
        and (above is None or value > above)
        and (most is None or value <= most)
    )


def _choices(field: Field) -> tuple[str, ...]:
    literal = typing.get_origin(field.type) is Literal
    return typing.get_args(field.type) if literal else ()


def _types(field: Field) -> tuple[type, ...]:
    if typing.get_origin(field.type) in (types.UnionType, typing.Union):
        return typing.get_args(field.type)
    return (str,) if _choices(field) else (typing.cast(type, field.type),)
