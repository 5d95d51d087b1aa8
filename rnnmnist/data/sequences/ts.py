"""Reads .ts files from the UEA and UCR archives.

The file starts with a header of `@` tags. Each following line is one case. It contains
the dimensions and the label, separated by colons; the values of a dimension are
separated by commas.

References:
    Bagnall et al., "The UEA multivariate time series classification archive, 2018".
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from rnnmnist.errors import UserError, prefix_errors

CASE_HINT = (
    "give all dimensions the same number of values, and write ? or nan for missing ones"
)


def read_ts(path: Path, *, both_splits: bool = True) -> dict[str, Any]:
    """Reads a .ts file.

    If `both_splits` is true and the file is NAME_TRAIN.ts or NAME_TEST.ts, the other
    file is also read if it exists.

    Returns:
        Keyword arguments for `check_arrays`.
    """
    stem = path.stem.removesuffix("_TRAIN").removesuffix("_TEST")
    files = {
        path.with_stem(f"{stem}_{part.upper()}"): part for part in ("train", "test")
    }
    is_pair = both_splits and path in files and all(file.is_file() for file in files)
    cases: list[np.ndarray] = []  # float64 [time, dimensions]
    labels: list[str] = []
    split: list[str] = []
    for file, part in files.items() if is_pair else [(path, "")]:
        lines = _read_lines(file)
        has_labels = _read_header(lines)
        for location, text in lines:
            dimensions = text.split(":")
            labels.append(dimensions.pop().strip() if has_labels else "")
            cells = [values.replace("?", "nan").split(",") for values in dimensions]
            with prefix_errors(location, CASE_HINT):
                cases.append(np.array(cells, np.float64).T)
            split.append(part)
    return {
        "inputs": cases,
        "labels": labels if has_labels else None,
        "split": split if is_pair else None,
    }


def _read_lines(path: Path) -> Iterator[tuple[str, str]]:
    """Yields the location and text of each line that is not empty or a comment."""
    # Some comments in the archives are not UTF-8.
    with path.open(encoding="utf-8-sig", errors="surrogateescape") as file:
        for number, text in enumerate(map(str.strip, file), 1):
            if text and not text.startswith("#"):
                yield f"{path.name}, line {number}", text


def _read_header(lines: Iterator[tuple[str, str]]) -> bool:
    """Reads the header, and returns True if each case ends with a label.

    All other tags are ignored, because the cases contain the same information.
    """
    has_labels = False
    for _, text in lines:
        tag, *arguments = text.lower().split()
        if tag == "@data":
            return has_labels
        if tag == "@classlabel":
            has_labels = arguments[:1] != ["false"]
    raise UserError("has no @data line; add one before the cases")
