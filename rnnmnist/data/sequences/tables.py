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
MAX_BLOCK = 1 << 27  # bytes of a file that are parsed at a time; a row fits into one
CELL_BYTES = 32  # that a value takes while it is read
TIMES = (pa.int64(), pa.timestamp("ns"), pa.timestamp("ns", "UTC"))  # of texts

Place = Callable[[int], str]  # names a row, from 0, for messages


def read_csv(path: Path) -> dict[str, Any]:
    """Reads a table in UTF-8, whose first line names the columns."""
    with path.open(encoding="utf-8-sig", newline="") as file:
        reader = csv.reader(file)
        names = [name.strip() for name in next(reader, [])]
        header_lines = reader.line_num
        _check_columns(names, f"{path}: line 1")
        if not any(reader):
            raise _no_rows(path)
    try:
        table = pyarrow.csv.read_csv(
            path,
            pyarrow.csv.ReadOptions(
                use_threads=False,  # so that an error names the row
                block_size=min(path.stat().st_size, MAX_BLOCK),
                column_names=names,
                skip_rows=header_lines,
            ),
            pyarrow.csv.ParseOptions(newlines_in_values=True),
            pyarrow.csv.ConvertOptions(column_types=dict.fromkeys(names, pa.string())),
        )
    except pa.ArrowInvalid as error:
        # Arrow counts rows from 1, with that of the names but without empty lines.
        row = re.search(r"Row #(\d+): (.*)", str(error), re.DOTALL)
        place = _line(path, int(row[1]) - header_lines - 1) if row else "the table"
        reason = printable(row[2] if row else str(error))
        raise UserError(
            f"{path}: {place}: {reason}; separate cells by commas, and quote texts "
            "that contain one"
        ) from error
    return _to_arrays(table, lambda row: _line(path, row), path)


def _line(path: Path, row: int) -> str:
    """Returns `line N`, on which a row ends; the first one after the names is 0."""
    with path.open(encoding="utf-8-sig", errors="replace", newline="") as file:
        reader = csv.reader(file)
        rows = (cells for cells in reader if cells)  # without empty lines
        next(itertools.islice(rows, row + 1, None), None)
        return f"line {reader.line_num}"


def read_parquet(path: Path) -> dict[str, Any]:
    """Reads a table with the columns of a .csv file."""
    with pyarrow.parquet.ParquetFile(path) as file:
        names = [
            name
            for name in file.schema_arrow.names
            # pandas adds this column for the index of a filtered frame.
            if not re.fullmatch(r"__index_level_\d+__", name)
        ]
        _check_columns(names, str(path))
        size = file.metadata.num_rows * len(names) * CELL_BYTES
        check_memory(size, f"{path}: its columns", "split the file")
        table = file.read(columns=names)
    return _to_arrays(table, lambda row: f"row {row + 1}", path)


def _check_columns(names: list[str], where: str) -> None:
    features = [name for name in names if name not in COLUMNS]
    listed = "the columns are sequence, time, one or more features, and optionally "
    listed += "label and split"
    for name in ("sequence", "time"):
        if name not in names:
            remedy = did_you_mean(name, features, listed)
            raise UserError(f"{where}: there is no column {name!r}; {remedy}")
    if not features or len(set(names)) < len(names):
        raise UserError(f"{where}: {listed}, each once, not {shown(names)}")


def _no_rows(path: Path) -> UserError:
    return UserError(f"{path}: has no rows; write one for each time step of a sequence")


def _to_arrays(table: pa.Table, place: Place, path: Path) -> dict[str, Any]:
    """Groups rows by sequence, in the order of their first rows, and sorts by time."""
    if not table.num_rows:
        raise _no_rows(path)
    columns = {name: _plain(table[name]) for name in table.column_names}
    features = [name for name in columns if name not in COLUMNS]

    def where(row: int) -> str:
        return f"{path}: {place(row)}"

    sequence, ids = _texts(columns["sequence"], "sequence", where)
    time = _times(columns["time"], where)
    order = np.lexsort((time, sequence))
    sequence = sequence[order]
    first = np.flatnonzero(np.diff(sequence, prepend=-1))  # row of each sequence
    lengths = np.diff(first, append=len(order))
    again = np.flatnonzero((np.diff(sequence) == 0) & (np.diff(time[order]) == 0))
    if len(again):
        earlier, row = order[again[0] : again[0] + 2]
        raise UserError(
            f"{where(row)}: sequence {shown(ids[sequence[again[0]]])} has the time "
            f"{columns['time'][row]} as in {place(earlier)}"
        )
    values = [_numbers(columns[name], name, where)[order] for name in features]
    arrays: dict[str, Any] = {
        "inputs": pad(np.stack(values, axis=1), lengths, str(path)),
        "lengths": lengths,
        "feature_names": features,
        "ids": tuple(ids),
    }
    for name, argument in (("label", "labels"), ("split", "split")):
        if name not in columns:
            continue
        codes, found = _texts(columns[name], name, where)
        of_first = codes[order[first]]
        differs = np.flatnonzero(codes[order] != np.repeat(of_first, lengths))
        if len(differs):
            row = order[differs[0]]
            earlier = order[np.repeat(first, lengths)[differs[0]]]
            raise UserError(
                f"{where(row)}: sequence {shown(ids[sequence[differs[0]]])} has "
                f"the {name} {shown(found[codes[row]])}, but "
                f"{shown(found[codes[earlier]])} in {place(earlier)}"
            )
        arrays[argument] = np.array(found)[of_first]
    return arrays


def _plain(column: pa.ChunkedArray) -> pa.ChunkedArray:
    """Decodes a dictionary, and gives texts of any kind the type `string`."""
    if pa.types.is_dictionary(column.type):
        column = column.cast(column.type.value_type)
    if str(column.type) in ("large_string", "string_view"):
        column = column.cast(pa.string())
    return column


def _texts(
    column: pa.ChunkedArray, name: str, where: Place
) -> tuple[np.ndarray, list[str]]:
    """Returns a column's texts without surrounding spaces: indices, and those found."""
    codes, found = _encode(column)
    allowed = ", ".join(SPLITS) if name == "split" else "texts"
    for code, text in enumerate(found):
        if not text or (name == "split" and text not in SPLITS):
            row = int(np.argmax(codes == code))
            remedy = did_you_mean(text, SPLITS, f"allowed are {allowed}")
            raise UserError(f"{where(row)}: the {name} is {shown(text)}; {remedy}")
    return codes, found


def _encode(column: pa.ChunkedArray) -> tuple[np.ndarray, list[str]]:
    """Returns indices into the list of texts found, where '' is a missing one."""
    texts = pc.utf8_trim_whitespace(pc.fill_null(column.cast(pa.string()), ""))
    encoded = texts.combine_chunks().dictionary_encode()
    return encoded.indices.to_numpy(), encoded.dictionary.to_pylist()


def _times(column: pa.ChunkedArray, where: Place) -> np.ndarray:
    """Returns numbers or timestamps; of texts, integers if all of them are."""
    if pa.types.is_string(column.type):
        codes, found = _encode(column)
        times = _parse_times(found)[codes]
    else:
        times = column.to_numpy()
    comparable = times.dtype.kind in "iufM"
    valid = np.isfinite(times) if comparable else np.zeros(len(times), bool)
    if not valid.all():
        row = int(np.argmin(valid))
        raise UserError(
            f"{where(row)}: the time is {shown(str(column[row]))}; allowed are "
            "numbers, or in every row timestamps such as 2026-05-01 12:00:00"
        )
    return times


def _parse_times(texts: list[str]) -> np.ndarray:
    """Converts texts to integers, timestamps, or numbers with NaN for other texts."""
    for kind in TIMES:
        with contextlib.suppress(pa.ArrowInvalid):
            return pa.array(texts).cast(kind).to_numpy()
    numbers = np.full(len(texts), np.nan)
    for index, text in enumerate(texts):
        with contextlib.suppress(ValueError):
            numbers[index] = float(text)
    return numbers


def _numbers(column: pa.ChunkedArray, name: str, where: Place) -> np.ndarray:
    """Returns the values of a feature as floats, with NaN for missing ones."""
    if not pa.types.is_string(column.type):
        kind = column.type if pa.types.is_floating(column.type) else pa.float64()
        try:
            # An integer beyond 2**53 is rounded.
            return column.cast(kind, safe=False).to_numpy()
        except (pa.ArrowInvalid, pa.ArrowNotImplementedError) as error:
            raise UserError(
                f"{where(0)}: the column {name} is {column.type}; a feature has numbers"
            ) from error
    texts = pc.utf8_trim_whitespace(column)
    texts = pc.if_else(pc.equal(texts, ""), pa.scalar(None, pa.string()), texts)
    try:
        return texts.cast(pa.float32()).to_numpy()
    except pa.ArrowInvalid:
        row = _first_non_number(texts)
        raise UserError(
            f"{where(row)}: {shown(texts[row].as_py())} in the column {name} is not a "
            "number; a missing value is an empty cell or nan"
        ) from None


def _first_non_number(texts: pa.ChunkedArray) -> int:
    """Returns the index of the first text that is not a number, by bisection."""
    first = 0
    count = len(texts)
    while count > 1:
        half = count // 2
        try:
            texts.slice(first, half).cast(pa.float32())
        except pa.ArrowInvalid:
            count = half
        else:
            first += half
            count -= half
    return first
