"""Reads .ts files of the UEA and UCR archives.

The file starts with a header of `@` tags. Each following line is one case: dimensions
separated by colons, each a list of values separated by commas. The label comes last.

References:
    Bagnall et al., "The UEA multivariate time series classification archive, 2018".
"""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from rnnmnist.errors import UserError, format_value, prefix_errors

CASE = (
    "write the same number of values in each dimension, with ? or nan for missing ones"
)


def read_ts(path: Path, *, pair: bool = True) -> dict[str, Any]:
    """Reads a .ts file.

    With `pair`, reading one of NAME_TRAIN.ts and NAME_TEST.ts also reads the other file
    if it exists.

    Returns:
        Keyword arguments for `check_arrays`.
    """
    stem = path.stem.removesuffix("_TRAIN").removesuffix("_TEST")
    files = {
        path.with_stem(f"{stem}_{part.upper()}"): part for part in ("train", "test")
    }
    is_pair = pair and path in files and all(file.is_file() for file in files)
    cases: list[np.ndarray] = []  # float64 [time, dimensions]
    labels: list[str] = []
    split: list[str] = []
    for file, part in files.items() if is_pair else [(path, "")]:
        lines = _read_lines(file)
        classes = _read_header(lines)
        for where, text in lines:
            with prefix_errors(where, CASE):
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
    """Yields the location and text of each line, without empty lines and comments."""
    # Some comments in the archives are not UTF-8.
    with path.open(encoding="utf-8-sig", errors="surrogateescape") as file:
        for number, text in enumerate(map(str.strip, file), 1):
            if text and not text.startswith("#"):
                yield f"{path.name}, line {number}", text


def _read_header(lines: Iterator[tuple[str, str]]) -> list[str]:
    """Reads the header and returns the classes, or an empty list without labels.

    All other tags are redundant: the cases contain the same information.
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
    raise UserError("has no line @data; add it before the cases")


def _parse_case(text: str, classes: Sequence[str]) -> tuple[np.ndarray, str]:
    """Parses a case into values, float64 [time, dimensions], and a label or ""."""
    dimensions = text.split(":")
    label = dimensions.pop().strip() if classes else ""
    if classes and label not in classes:
        raise UserError(
            "the label must be one of the classes of @classLabel, "
            f"{format_value(' '.join(classes))}, not {format_value(label)}"
        )
    if "_" in "".join(dimensions):  # float() would accept underscores
        raise UserError("a value contains an underscore; remove it")
    cells = [dimension.replace("?", "nan").split(",") for dimension in dimensions]
    return np.array(cells, np.float64).T, label
