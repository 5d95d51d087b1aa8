"""Reads .csv and .parquet files: a row for each time step of a sequence."""

import contextlib
import csv
import itertools
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv
import pyarrow.parquet

from rnnmnist.data.examples import SPLITS
from rnnmnist.data.sequences.validation import check_memory, pad
from rnnmnist.errors import UserError, did_you_mean, printable, shown

COLUMNS = ("sequence", "time", "label", "split")  # the others are features


def read_csv(path: Path) -> dict[str, Any]:
    """Reads a table in UTF-8, whose first line names the columns."""
    with path.open(encoding="utf-8-sig", newline="") as file:
        names = [name.strip() for name in next(csv.reader(file), [])]
    _check_columns(names, f"{path}: line 1")
    try:
        table = pyarrow.csv.read_csv(
            path,
            # Without threads, an error names the row.
            pyarrow.csv.ReadOptions(use_threads=False, column_names=names, skip_rows=1),
            pyarrow.csv.ParseOptions(newlines_in_values=True),
            pyarrow.csv.ConvertOptions(column_types=dict.fromkeys(names, pa.string())),
        )
    except pa.ArrowInvalid as error:
        row = re.search(r"Row #(\d+): (.*)", str(error), re.DOTALL)
        place = _line(path, int(row[1])) if row else "the table"
        reason = row[2] if row else str(error)
        raise UserError(f"{path}: {place}: {printable(reason)}") from error
    return _to_arrays(table, lambda row: f"{path}: {_line(path, row + 2)}", path)


def _line(path: Path, row: int) -> str:
    """Returns the line on which a row ends; the columns' names are row 1."""
    with path.open(encoding="utf-8-sig", errors="replace", newline="") as file:
        reader = csv.reader(file)
        rows = (cells for cells in reader if cells)  # without empty lines
        next(itertools.islice(rows, row - 1, None), None)
        return f"line {reader.line_num}"


def read_parquet(path: Path) -> dict[str, Any]:
    """Reads a table with the columns of a .csv file."""
    with pyarrow.parquet.ParquetFile(path) as file:
        groups = [file.metadata.row_group(i) for i in range(file.num_row_groups)]
        size = sum(group.total_byte_size for group in groups)
        check_memory(size, f"{path}: the columns", "split the file")
        # pandas adds a column for the index of a filtered frame.
        names = [name for name in file.schema_arrow.names if "__index_" not in name]
        _check_columns(names, str(path))
        table = file.read(columns=names)
    return _to_arrays(table, lambda row: f"{path}: row {row + 1}", path)


def _check_columns(names: list[str], where: str) -> None:
    features = [name for name in names if name not in COLUMNS]
    listed = "the columns are sequence, time, one for each feature, label, and split"
    for name in ("sequence", "time"):
        if name not in names:
            remedy = did_you_mean(name, features, listed)
            raise UserError(f"{where}: there is no column {name!r}; {remedy}")
    if not features or len(set(names)) < len(names):
        raise UserError(f"{where}: {listed}, each once, not {shown(names)}")


def _to_arrays(
    table: pa.Table, where: Callable[[int], str], path: Path
) -> dict[str, Any]:
    """Groups rows by sequence, in the order of their first rows, and sorts by time."""
    if not table.num_rows:
        raise UserError(
            f"{path}: has no rows; write one for each time step of a sequence"
        )
    features = [name for name in table.column_names if name not in COLUMNS]
    texts = {
        name: _texts(table[name], name, where)
        for name in ("sequence", "label", "split")
        if name in table.column_names
    }
    sequence, ids = texts.pop("sequence")
    time = _times(table["time"], where)
    order = np.lexsort((time, sequence))
    sequence = sequence[order]
    first = np.flatnonzero(np.diff(sequence, prepend=-1))  # row of each sequence
    lengths = np.diff(first, append=len(order))
    again = np.flatnonzero((np.diff(sequence) == 0) & (np.diff(time[order]) == 0))
    if len(again):
        row = order[again[0] + 1]
        raise UserError(
            f"{where(row)}: sequence {shown(ids[sequence[again[0]]])} has the time "
            f"{table['time'][row]} twice"
        )
    values = np.stack(
        [_numbers(table[name], name, where)[order] for name in features], 1
    )
    arrays: dict[str, Any] = {
        "inputs": pad(values, lengths, str(path)),
        "lengths": lengths,
        "feature_names": features,
        "ids": tuple(ids),
    }
    for name, (codes, found) in texts.items():
        of_first = codes[order[first]]
        differs = np.flatnonzero(codes[order] != np.repeat(of_first, lengths))
        if len(differs):
            row = order[differs[0]]
            raise UserError(
                f"{where(row)}: sequence {shown(ids[sequence[differs[0]]])} has the "
                f"{name} {shown(found[codes[row]])}, but another one before"
            )
        arrays[f"{name}s" if name == "label" else name] = np.array(found)[of_first]
    return arrays


def _texts(
    column: pa.ChunkedArray, name: str, where: Callable[[int], str]
) -> tuple[np.ndarray, list[str]]:
    """Returns a column's texts without surrounding spaces: indices, and those found."""
    texts = pc.utf8_trim_whitespace(pc.fill_null(column.cast(pa.string()), ""))
    encoded = texts.combine_chunks().dictionary_encode()
    codes = encoded.indices.to_numpy()
    found = encoded.dictionary.to_pylist()
    for code, text in enumerate(found):
        if text == "" or (name == "split" and text not in SPLITS):
            allowed = ", ".join(SPLITS) if name == "split" else "texts"
            remedy = did_you_mean(text, SPLITS, f"allowed are {allowed}")
            row = int(np.argmax(codes == code))
            raise UserError(f"{where(row)}: the {name} is {shown(text)}; {remedy}")
    return codes, found


def _times(column: pa.ChunkedArray, where: Callable[[int], str]) -> np.ndarray:
    """Returns numbers or timestamps; of texts, integers if all of them are."""
    if pa.types.is_string(column.type):
        codes, found = _texts(column, "time", where)
        times = _parse_times(found)[codes]
    else:
        times = column.to_numpy()
    comparable = times.dtype.kind in "iufM"
    valid = np.isfinite(times) if comparable else np.zeros(len(times), bool)
    if not valid.all():
        row = int(np.argmin(valid))
        raise UserError(
            f"{where(row)}: the time is {shown(column[row].as_py())}; allowed are "
            "numbers, or in every row timestamps such as 2026-05-01 12:00:00"
        )
    return times


def _parse_times(texts: list[str]) -> np.ndarray:
    """Converts texts to integers, timestamps, or numbers with NaN for other texts."""
    for kind in (pa.int64(), pa.timestamp("ns")):
        with contextlib.suppress(pa.ArrowInvalid):
            return pa.array(texts).cast(kind).to_numpy()
    numbers = np.full(len(texts), np.nan)
    for index, text in enumerate(texts):
        with contextlib.suppress(ValueError):
            numbers[index] = float(text)
    return numbers


def _numbers(
    column: pa.ChunkedArray, name: str, where: Callable[[int], str]
) -> np.ndarray:
    """Returns the values of a feature as floats, with NaN for missing ones."""
    if not pa.types.is_string(column.type):
        kind = column.type if pa.types.is_floating(column.type) else pa.float64()
        try:
            return column.cast(kind).to_numpy()
        except (pa.ArrowInvalid, pa.ArrowNotImplementedError) as error:
            raise UserError(
                f"{where(0)}: the column {name} is {column.type}; a feature has numbers"
            ) from error
    texts = pc.utf8_trim_whitespace(column)
    texts = pc.if_else(pc.equal(texts, ""), pa.scalar(None, pa.string()), texts)
    try:
        return texts.cast(pa.float32()).to_numpy()
    except pa.ArrowInvalid:
        first = 0
        count = len(texts)
        while count > 1:  # the first text that is not a number is among these
            half = count // 2
            try:
                texts.slice(first, half).cast(pa.float32())
            except pa.ArrowInvalid:
                count = half
            else:
                first += half
                count -= half
        raise UserError(
            f"{where(first)}: {shown(texts[first].as_py())} is not a number; a missing "
            "value is an empty cell or nan"
        ) from None
