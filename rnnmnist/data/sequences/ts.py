"""Reads .ts files of the UEA and UCR archives.

A header of `@` tags is followed by a line for each case: its dimensions, separated by
colons, each with its values, separated by commas. The label is at the end.

References:
    Bagnall et al., "The UEA multivariate time series classification archive, 2018".
"""

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from rnnmnist.data.sequences.validation import pad
from rnnmnist.errors import UserError, did_you_mean, shown

ENDINGS = ("_TRAIN", "_TEST")  # of the names of a pair, in the order of the cases

Lines = Iterator[tuple[str, str]]  # file and number, and the stripped text


class _Header(NamedTuple):
    classes: tuple[str, ...]  # empty without labels
    equal_length: bool


class _Case(NamedTuple):
    values: np.ndarray  # float32 [time, dimensions]
    label: str  # empty without labels


def read_ts(path: Path, *, pair: bool = True) -> dict[str, Any]:
    """Reads a file, or with `pair` both of NAME_TRAIN.ts and NAME_TEST.ts."""
    paths = _pair(path) if pair else [path]
    files = [_read_cases(file) for file in paths]
    cases = [case for _, part in files for case in part]
    classes = files[0][0].classes
    features = cases[0].values.shape[1]
    header, last = files[-1]
    if set(header.classes) != set(classes) or last[0].values.shape[1] != features:
        raise UserError(
            f"{paths[-1]}: has {last[0].values.shape[1]} dimensions and the classes "
            f"{shown(header.classes)}, but {paths[0]} has {features} and "
            f"{shown(classes)}; name the files differently if they are no pair"
        )
    lengths = np.array([len(case.values) for case in cases])
    values = np.concatenate([case.values for case in cases])
    arrays: dict[str, Any] = {
        "inputs": pad(values, lengths, str(path)),
        "lengths": lengths,
    }
    if classes:
        arrays["labels"] = [case.label for case in cases]
        arrays["class_names"] = classes
    if len(files) == 2:
        arrays["split"] = ["train"] * len(files[0][1]) + ["test"] * len(last)
    return arrays


def _pair(path: Path) -> list[Path]:
    """Returns both files of a pair, the training cases first; else the path alone."""
    for ending in ENDINGS:
        if path.stem.endswith(ending):
            name = path.stem.removesuffix(ending)
            files = [path.with_name(f"{name}{end}{path.suffix}") for end in ENDINGS]
            if all(file.is_file() for file in files):
                return files
    return [path]


def _read_cases(path: Path) -> tuple[_Header, list[_Case]]:
    # Comments in the archives are not always UTF-8.
    with path.open(encoding="utf-8-sig", errors="surrogateescape") as file:
        numbered = ((f"{path}: line {i}", text) for i, text in enumerate(file, 1))
        stripped = ((where, text.strip()) for where, text in numbered)
        lines = (line for line in stripped if line[1] and line[1][0] != "#")
        header = _read_header(lines, path)
        cases: list[_Case] = []
        for where, text in lines:
            case = _parse_case(text, header.classes, where)
            first = cases[0] if cases else case
            same_length = len(case.values) == len(first.values)
            if case.values.shape[1] != first.values.shape[1] or (
                header.equal_length and not same_length
            ):
                raise UserError(
                    f"{where}: has values of shape {case.values.shape[::-1]}, but the "
                    f"first case {first.values.shape[::-1]}; write the same number, or "
                    "@equalLength false if only the lengths differ"
                )
            cases.append(case)
    if not cases:
        raise UserError(f"{path}: has no cases; write one on each line after @data")
    return header, cases


def _read_header(lines: Lines, path: Path) -> _Header:
    """Reads the tags that matter; the others repeat what the cases show."""
    header = _Header((), False)
    for where, text in lines:
        name, *arguments = text.split()
        tag = name.lower()
        if tag == "@data":
            return header
        if not tag.startswith("@"):
            raise UserError(
                f"{where}: begins with {shown(name)}; before @data, allowed are tags, "
                "which begin with @, and comments, which begin with #"
            )
        if tag not in ("@timestamps", "@targetlabel", "@equallength", "@classlabel"):
            continue
        flag = arguments[0].lower() if arguments else ""
        if flag not in ("true", "false"):
            raise UserError(
                f"{where}: {name} is {shown(flag)}; allowed are 'true' and 'false'"
            )
        if tag == "@equallength":
            header = header._replace(equal_length=flag == "true")
        elif tag == "@classlabel" and flag == "true":
            header = header._replace(classes=tuple(arguments[1:]))
            if not header.classes or len(set(header.classes)) < len(header.classes):
                raise UserError(
                    f"{where}: {shown(text)} must name each class once after 'true'"
                )
        elif flag == "true" and tag != "@classlabel":
            raise UserError(
                f"{where}: {name} is true; allowed are values without times, and "
                "classes instead of target values"
            )
    raise UserError(f"{path}: has no line @data; write it before the cases")


def _parse_case(text: str, classes: tuple[str, ...], where: str) -> _Case:
    dimensions = text.split(":")
    label = dimensions.pop().strip() if classes else ""
    if classes and label not in classes:
        allowed = f"allowed are the classes of @classLabel, {shown(' '.join(classes))}"
        remedy = did_you_mean(label, classes, allowed)
        raise UserError(f"{where}: the label is {shown(label)}; {remedy}")
    columns = [_parse_numbers(part, where) for part in dimensions]
    sizes = sorted({len(column) for column in columns})
    if len(sizes) != 1:
        raise UserError(
            f"{where}: the dimensions have {shown(sizes)} values; write as many in each"
        )
    with np.errstate(over="ignore"):  # such values are refused with all others
        return _Case(np.array(columns).T.astype(np.float32), label)


def _parse_numbers(text: str, where: str) -> list[float]:
    try:
        if "_" in text:  # which float() would ignore
            raise ValueError(f"{shown(text)} contains an underscore")
        cells = [cell.strip() for cell in text.split(",")]
        return [math.nan if cell == "?" else float(cell) for cell in cells]
    except ValueError as error:
        raise UserError(f"{where}: {error}; a missing value is ? or nan") from error
