"""Reads .ts files, the format of the UEA and UCR archives of time series.

A header of `@` tags is followed by one line for each case: its dimensions, separated
by colons, each with its values, separated by commas; the last part is the label.

References:
    Bagnall et al., "The UEA multivariate time series classification archive, 2018".
"""

from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np

from rnnmnist.data.formats.raw import Raw, pad, parse_numbers
from rnnmnist.errors import UserError, did_you_mean, shown

MISSING = "?"
ENDINGS = ("_TRAIN", "_TEST")  # of the stems of a pair of files


class _Header(NamedTuple):
    classes: tuple[str, ...]  # in the order of @classLabel; () without labels
    equal_length: bool


class _Case(NamedTuple):
    values: np.ndarray  # float32 [time, dimensions]
    label: str  # "" without labels


Lines = Iterator[tuple[str, str]]  # the file and number, and the stripped text


def read(path: Path, *, pair: bool = True) -> Raw:
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
    splits = ["train"] * len(files[0][1]) + ["test"] * len(last)
    return Raw(
        pad(values, lengths, str(path)),
        labels=[case.label for case in cases] if classes else None,
        lengths=lengths,
        splits=splits if len(files) == 2 else None,
        class_names=classes or None,
    )


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
            cases.append(_parse_case(text, header.classes, where))
            _check_shape(cases[-1], cases[0], header, where)
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
        if tag in ("@timestamps", "@targetlabel") and _flag(name, arguments, where):
            raise UserError(
                f"{where}: {name} is true; allowed are values without times, and "
                "classes instead of target values"
            )
        if tag == "@equallength":
            header = header._replace(equal_length=_flag(name, arguments, where))
        if tag == "@classlabel" and _flag(name, arguments, where):
            header = header._replace(classes=tuple(arguments[1:]))
            if not header.classes or len(set(header.classes)) < len(header.classes):
                raise UserError(
                    f"{where}: {shown(text)} must name each class once after 'true'"
                )
    raise UserError(f"{path}: has no line @data; write it before the cases")


def _flag(name: str, arguments: list[str], where: str) -> bool:
    value = arguments[0].lower() if arguments else ""
    if value not in ("true", "false"):
        raise UserError(
            f"{where}: {name} is {shown(value)}; allowed are 'true' and 'false'"
        )
    return value == "true"


def _parse_case(text: str, classes: tuple[str, ...], where: str) -> _Case:
    parts = text.split(":")
    label = parts.pop().strip() if classes else ""
    if classes and label not in classes:
        allowed = f"allowed are the classes of @classLabel, {shown(' '.join(classes))}"
        remedy = did_you_mean(label, classes, allowed)
        raise UserError(f"{where}: the label is {shown(label)}; {remedy}")
    columns = [parse_numbers(part.split(","), MISSING, where) for part in parts]
    sizes = {len(column) for column in columns}
    if len(sizes) != 1:
        raise UserError(
            f"{where}: the dimensions have {shown(sorted(sizes))} values; write the "
            "same number in each"
        )
    return _Case(np.array(columns, np.float32).T, label)


def _check_shape(case: _Case, first: _Case, header: _Header, where: str) -> None:
    time, dimensions = case.values.shape
    first_time, first_dimensions = first.values.shape
    if dimensions != first_dimensions or (header.equal_length and time != first_time):
        raise UserError(
            f"{where}: has {dimensions} dimensions of {time} values, but the first "
            f"case has {first_dimensions} of {first_time}; write the same number, or "
            "@equalLength false if only the lengths differ"
        )
