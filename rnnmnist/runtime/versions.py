"""Which versions of Python and the libraries were tested, and which are here.

`tested.tsv` has a line for each: its name, the oldest and the newest version that
the whole suite has passed with. `tools/tested.py` writes it.
"""

import platform
import re
from importlib import metadata
from pathlib import Path
from typing import NamedTuple

from rnnmnist.errors import RunError

TESTED = Path(__file__).parent / "tested.tsv"


class Range(NamedTuple):
    """The ends of a range; each stands for every version that begins with it."""

    oldest: str
    newest: str


def read_tested(path: Path = TESTED) -> dict[str, Range]:
    """The tested ranges, by the name of the library, or `python`."""
    lines = path.read_text().splitlines()
    return {name: Range(*ends) for name, *ends in (line.split("\t") for line in lines)}


def installed(name: str) -> str:
    """The version that is here, of a library or of `python`.

    Raises:
        RunError: when the library is not installed.
    """
    if name == "python":
        return platform.python_version()
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        raise RunError(f"{name} is not installed: pip install {name}") from None


def all_installed() -> dict[str, str]:
    """The version of each library that is tested, and of `python`."""
    return {name: installed(name) for name in read_tested()}


def describe_installed(name: str, tested: Range) -> str:
    """`describe` for what is here.

    Raises:
        RunError: when it is not installed.
    """
    return describe(installed(name), tested)


def describe(version: str, tested: Range) -> str:
    """A version beside its tested range; outside of it, on which side it is.

    >>> describe("0.9.1", Range("0.7.2", "0.12.0.1"))
    '0.9.1, tested 0.7.2 to 0.12.0.1'
    """
    ends = f"{tested.oldest} to {tested.newest}"
    if tested.oldest == tested.newest:
        ends = tested.oldest
    if _compared(version, tested.oldest) < 0:
        return f"{version}, older than tested ({ends})"
    if _compared(version, tested.newest) > 0:
        return f"{version}, newer than tested ({ends})"
    return f"{version}, tested {ends}"


def widened(tested: Range, version: str) -> Range:
    """A range with one more version in it."""
    oldest = version if _compared(version, tested.oldest) < 0 else tested.oldest
    newest = version if _compared(version, tested.newest) > 0 else tested.newest
    return Range(oldest, newest)


def _compared(version: str, end: str) -> int:
    """Below 0 for a version before an end, 0 for one that begins with it."""
    wanted = release(end)
    found = release(version) + (0,) * len(wanted)
    return (found[: len(wanted)] > wanted) - (found[: len(wanted)] < wanted)


def release(version: str) -> tuple[int, ...]:
    """The numbers that a version begins with: (0, 12, 0) of `0.12.0rc1`."""
    numbers = re.match(r"\d+(\.\d+)*", version)
    return () if numbers is None else tuple(map(int, numbers[0].split(".")))
