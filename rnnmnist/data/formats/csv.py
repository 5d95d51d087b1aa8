"""Reads .csv files in long format: one row for each time step of a sequence."""

import csv
import itertools
import math
from pathlib import Path
from typing import NamedTuple

import numpy as np

from rnnmnist.data.examples import SPLITS
from rnnmnist.data.formats.raw import Raw, pad, parse_numbers
from rnnmnist.errors import UserError, did_you_mean, shown

COLUMNS = ("sequence", "time", "label", "split")  # the others are features


class _Row(NamedTuple):
    line: int
    sequence: str
    time: float
    label: str | None  # None without such a column
    split: str | None
    values: np.ndarray  # float32 [features]


def read(path: Path) -> Raw:
    """Reads the columns `sequence`, `time`, `label`, `split` and one for each feature.

    Sequences are in order of their first rows. The rows of each are sorted by time.
    """
    columns, rows = _read_rows(path)
    groups: dict[str, list[_Row]] = {}
    for row in rows:
        groups.setdefault(row.sequence, []).append(row)
    if not groups:
        raise UserError(
            f"{path}: has no rows; write one for each time step of a sequence"
        )
    sequences = list(groups.values())
    for sequence in sequences:
        sequence.sort(key=lambda row: row.time)
        _check_sequence(sequence, path)
    values = np.stack([row.values for sequence in sequences for row in sequence])
    lengths = np.array([len(sequence) for sequence in sequences])
    labels = [sequence[0].label or "" for sequence in sequences]
    splits = [sequence[0].split or "" for sequence in sequences]
    return Raw(
        pad(values, lengths, str(path)),
        labels=labels if "label" in columns else None,
        lengths=lengths,
        splits=splits if "split" in columns else None,
        feature_names=[name for name in columns if name not in COLUMNS],
        ids=tuple(groups),
    )


def _read_rows(path: Path) -> tuple[list[str], list[_Row]]:
    with path.open(encoding="utf-8-sig", newline="") as file:
        reader = csv.reader(file, strict=True)
        try:
            columns = [name.strip() for name in next(reader, [])]
            _check_columns(columns, f"{path}: line 1")
            rows = [
                _parse_row(columns, cells, reader.line_num, path)
                for cells in reader
                if cells
            ]
        except csv.Error as error:
            raise UserError(
                f"{path}: line {reader.line_num}: {error}; separate cells by commas, "
                "and quote only whole cells"
            ) from error
    return columns, rows


def _check_columns(columns: list[str], where: str) -> None:
    features = [name for name in columns if name not in COLUMNS]
    for name in ("sequence", "time"):
        if name not in columns:
            listed = "the columns are sequence, time, one for each feature, label, "
            remedy = did_you_mean(name, features, listed + "and optionally split")
            raise UserError(f"{where}: there is no column {name!r}; {remedy}")
    if not features or "" in columns or len(set(columns)) < len(columns):
        raise UserError(
            f"{where}: the columns are {shown(columns)}; write at least one feature, "
            "and name each column differently"
        )


def _parse_row(columns: list[str], row: list[str], line: int, path: Path) -> _Row:
    where = f"{path}: line {line}"
    if len(row) != len(columns):
        raise UserError(
            f"{where}: has {len(row)} cells; write {len(columns)}, as in line 1"
        )
    cells = {name: cell.strip() for name, cell in zip(columns, row, strict=True)}
    sequence = cells.pop("sequence")
    time = cells.pop("time")
    label = cells.pop("label", None)
    split = cells.pop("split", None)
    if "" in (sequence, label):
        raise UserError(f"{where}: the sequence or label is ''; fill in both")
    if split is not None and split not in SPLITS:
        remedy = did_you_mean(split, SPLITS, f"allowed are {', '.join(SPLITS)}")
        raise UserError(f"{where}: the split is {shown(split)}; {remedy}")
    values = np.array(parse_numbers(list(cells.values()), "", where), np.float32)
    return _Row(line, sequence, _parse_time(time, where), label, split, values)


def _parse_time(cell: str, where: str) -> float:
    try:
        return int(cell)  # exact, for times in nanoseconds
    except ValueError:
        pass
    try:
        time = float(cell)
    except ValueError:
        time = math.nan
    if not math.isfinite(time):
        raise UserError(f"{where}: the time is {shown(cell)}; allowed are numbers")
    return time


def _check_sequence(rows: list[_Row], path: Path) -> None:
    """Checks that times differ, but not labels and splits. Rows are sorted by time."""
    for pair in itertools.pairwise(rows):
        first, second = sorted(pair, key=lambda row: row.line)
        where = f"{path}: line {second.line}: sequence {shown(first.sequence)}"
        if first.time == second.time:
            raise UserError(
                f"{where} has the time {shown(first.time)} as in line {first.line}; "
                "keep one of the rows"
            )
        for column in ("label", "split"):
            values = getattr(first, column), getattr(second, column)
            if values[0] != values[1]:
                raise UserError(
                    f"{where} has the {column} {shown(values[1])}, but "
                    f"{shown(values[0])} in line {first.line}; write the same"
                )
