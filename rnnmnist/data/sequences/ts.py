"""Reads .ts files from the UEA and UCR archives.

The file starts with a header of `@` tags. Each following line is one case. It contains
the dimensions and the label, separated by colons; the values of a dimension are
separated by commas.

References:
    Bagnall et al., "The UEA multivariate time series classification archive, 2018".
"""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from rnnmnist.errors import UserError, format_value, prefix_errors

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
        classes = _read_header(lines)
        for location, text in lines:
            with prefix_errors(location, CASE_HINT):
                values, label = _parse_case(text, classes)
            cases.append(values)
            labels.append(label)
            split.append(part)
    return {
        "inputs": cases,
        "labels": labels if classes else None,
        "split": split if is_pair else None,
    }


def _read_lines(path: Path) -> Iterator[tuple[str, str]]:
    """Yields the location and text of each line that is not empty or a comment."""
    # Some comments in the archives are not UTF-8.
    with path.open(encoding="utf-8-sig", errors="surrogateescape") as file:
        for number, text in enumerate(map(str.strip, file), 1):
            if text and not text.startswith("#"):
                yield f"{path.name}, line {number}", text


def _read_header(lines: Iterator[tuple[str, str]]) -> list[str]:
    """Reads the header; returns the classes, which are empty if there are no labels.

    All other tags are ignored, because the cases contain the same information.
    """
    classes: list[str] = []
    for _, text in lines:
        tag, *arguments = text.split()
        tag = tag.lower()
        if tag == "@data":
            return classes
        has_classes = "false" not in map(str.lower, arguments[:1])
        if tag == "@classlabel" and has_classes:
            classes = arguments[1:]
    raise UserError("has no @data line; add one before the cases")


def _parse_case(text: str, classes: Sequence[str]) -> tuple[np.ndarray, str]:
    """Parses a case into values, float64 [time, dimensions], and a label or ""."""
    dimensions = text.split(":")
    label = dimensions.pop().strip() if classes else ""
    if classes and label not in classes:
        raise UserError(
            "the label must be a class listed in @classLabel, "
            f"{format_value(' '.join(classes))}, not {format_value(label)}"
        )
    cells = [dimension.replace("?", "nan").split(",") for dimension in dimensions]
    return np.array(cells, np.float64).T, label
