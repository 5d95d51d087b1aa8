"""The installed versions of Python and the libraries, and those that were tested.

Each line of `tested.tsv` has a name and the oldest and newest version with which the
whole test suite has passed. `tools/tested.py` writes it.
"""

import platform
import re
from collections.abc import Mapping
from importlib import metadata
from pathlib import Path
from typing import NamedTuple

from rnnmnist.errors import RunError

TESTED = Path(__file__).parent / "tested.tsv"


class Range(NamedTuple):
    """A range of versions. Each end stands for all versions that begin with it."""

    oldest: str
    newest: str


def read_tested(path: Path = TESTED) -> dict[str, Range]:
    """Returns the tested ranges by library, and that of `python`."""
    lines = path.read_text().splitlines()
    return {name: Range(*ends) for name, *ends in (line.split("\t") for line in lines)}


def installed(name: str) -> str:
    """Returns the installed version of a library or of `python`."""
    if name == "python":
        return platform.python_version()
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        raise RunError(f"{name} is not installed: pip install {name}") from None


def all_installed() -> dict[str, str]:
    """Returns the installed version of everything in `tested.tsv`."""
    return {name: installed(name) for name in read_tested()}


def describe(name: str, tested: Range) -> str:
    """Describes the installed version of a library and its tested range."""
    version = installed(name)
    ends = f"{tested.oldest} to {tested.newest}"
    if tested.oldest == tested.newest:
        ends = tested.oldest
    if compare(version, tested.oldest) < 0:
        return f"{version}, older than tested ({ends})"
    if compare(version, tested.newest) > 0:
        return f"{version}, newer than tested ({ends})"
    return f"{version}, tested {ends}"


def compare(version: str, end: str) -> int:
    """Returns -1, 0 or 1 if a version is below an end, matches it, or is above it."""
    expected = release(end)
    found = release(version) + (0,) * len(expected)
    prefix = found[: len(expected)]
    return (prefix > expected) - (prefix < expected)


def release(version: str) -> tuple[int, ...]:
    """Returns the leading numbers of a version: (0, 12, 0) for `0.12.0rc1`."""
    numbers = re.match(r"\d+(\.\d+)*", version)
    return () if numbers is None else tuple(map(int, numbers[0].split(".")))


def join_versions(versions: Mapping[str, str]) -> str:
    """Lists versions in one line: `jax 0.10.2, numpy 2.4.6`."""
    return ", ".join(map(" ".join, versions.items()))
