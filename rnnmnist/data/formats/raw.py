"""What the readers of all formats share: their result, padding, and messages."""

import math
import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from rnnmnist.data.examples import LARGEST
from rnnmnist.errors import UserError, shown


class Raw(NamedTuple):
    """The content of a file, before the validation that all formats share."""

    inputs: np.ndarray  # [examples, time, features] or [examples, time]
    labels: np.ndarray | list[str] | None = None  # [examples]
    lengths: np.ndarray | None = None  # [examples]
    splits: np.ndarray | list[str] | None = None  # [examples]
    feature_names: np.ndarray | list[str] | None = None  # [features]
    class_names: tuple[str, ...] | None = None  # in order, if the file gives one
    ids: tuple[str, ...] | None = None  # the file's names of the sequences


def parse_numbers(cells: Sequence[str], missing: str, where: str) -> list[float]:
    """Converts cells of a text file to numbers that float32 can hold.

    A missing value is `nan`, in upper or lower case, or the text `missing`.
    """
    values = []
    for cell in cells:
        try:
            value = math.nan if cell.strip() == missing else float(cell)
        except ValueError:
            value = math.inf
        # float() accepts 1_000, too.
        if abs(value) > LARGEST or "_" in cell:
            raise UserError(
                f"{where}: {shown(cell)} is not a number from -{LARGEST:.3g} to "
                f"{LARGEST:.3g}; a missing value is {missing or 'an empty cell'} or nan"
            )
        values.append(value)
    return values


def pad(values: np.ndarray, lengths: np.ndarray, source: str) -> np.ndarray:
    """Pads sequences with zeros to the length of the longest.

    The values are [sum of lengths, features], the sequences one after the other. The
    result is [examples, longest, features].
    """
    shape = (len(lengths), int(lengths.max()), values.shape[1])
    check_memory(
        math.prod(shape) * values.itemsize,
        f"{source}: padded to the longest of {shape[1]} time steps, {shape[0]} "
        "sequences",
        "split the longest sequences",
    )
    inputs = np.zeros(shape, values.dtype)
    inputs[np.arange(shape[1]) < lengths[:, None]] = values
    return inputs


def check_memory(needed: int, what: str, remedy: str) -> None:
    """Checks a size in bytes before that much is allocated."""
    available = available_memory()
    if needed > available:
        raise UserError(
            f"{what} need {needed / 1e9:.3g} GB of memory, more than the available "
            f"{available / 1e9:.3g} GB; {remedy}"
        )


def available_memory() -> int:
    """Returns the bytes that can be allocated; all physical memory without /proc."""
    info = Path("/proc/meminfo")
    text = info.read_text() if info.exists() else ""
    if found := re.search(r"MemAvailable: *(\d+) kB", text):
        return int(found[1]) * 1024
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
