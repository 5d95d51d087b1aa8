"""Reads .csv and .parquet files: a row for each time step of a sequence."""

import bisect
import contextlib
import csv
import functools
import itertools
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv
import pyarrow.parquet

from rnnmnist.data.sequences.validation import check_memory, pad
from rnnmnist.errors import UserError, escape_unprintable, format_value

INDEX = r"(__index_level_\d+__|Unnamed: \d+)?"  # of pandas, or without a name
# The others are features.
COLUMNS = ("sequence", "time", "label", "split", "groups")
MAX_BLOCK = 1 << 27  # bytes of a file that are parsed at a time; a row fits into one
CELL_BYTES = 32  # memory of a value while it is read
# What the texts of a column can be, of which the first one that suits all is used.
TIMES = (pa.int64(), pa.timestamp("ns"), pa.timestamp("ns", "UTC"), pa.float64())

Place = Callable[[int], str]  # names a row, from 0, for messages
Roles = Mapping[str, str]  # of columns that are not named so, by their names


def read_csv(path: Path, roles: Roles) -> dict[str, Any]:
    """Reads a table in UTF-8, whose first line names the columns."""
    with path.open(encoding="utf-8-sig", newline="") as file:
        reader = csv.reader(file)
        names = [name.strip() for name in next(reader, [])]
        header_lines = reader.line_num
    if len(names) == 1:
        raise UserError(
            f"line 1: has one column, {format_value(names[0])}; separate columns by "
            "commas, and write numbers with a decimal point"
        )
    _check_columns(names, roles, "line 1: ")
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
        if row is None:
            raise
        place = _line(path, int(row[1]) - header_lines - 1)
        raise UserError(
            f"{place}: {escape_unprintable(row[2])}; separate cells by commas, and "
            "quote texts that contain one"
        ) from error
    return _to_arrays(table, roles, lambda row: _line(path, row))


def _line(path: Path, row: int) -> str:
    """Returns `line N`, on which a row ends; the first one after the names is 0."""
    with path.open(encoding="utf-8-sig", errors="replace", newline="") as file:
        reader = csv.reader(file)
        rows = (cells for cells in reader if cells)  # without empty lines
        next(itertools.islice(rows, row + 1, None), None)
        return f"line {reader.line_num}"


def read_parquet(path: Path, roles: Roles) -> dict[str, Any]:
    """Reads a table with the columns of a .csv file."""
    with path.open("rb") as stream, pyarrow.parquet.ParquetFile(stream) as file:
        names = _check_columns(file.schema_arrow.names, roles)
        check_memory(file.metadata.num_rows * len(names) * CELL_BYTES, "the columns")
        table = file.read(columns=names)
    return _to_arrays(table, roles, lambda row: f"row {row + 1}")


def read_stream(inputs: Any, roles: Roles, *, is_wide: bool) -> dict[str, Any] | None:
    """Reads what offers the Arrow stream; None if that can be an array of numbers."""
    if not hasattr(inputs, "__arrow_c_stream__"):
        return None
    reader = pa.RecordBatchReader.from_stream(inputs)
    names = {roles.get(name, name) for name in reader.schema.names}
    is_numeric = all(
        pa.types.is_integer(kind) or pa.types.is_floating(kind)
        for kind in reader.schema.types
    )
    if is_wide and is_numeric and names.isdisjoint(("sequence", "time")):
        return None
    return _to_arrays(reader.read_all(), roles, lambda row: f"row {row + 1}")


def _check_columns(names: list[str], roles: Roles, where: str = "") -> list[str]:
    """Returns names without those of an index: no name, or one that pandas gives."""
    names = [name for name in names if name in roles or not re.fullmatch(INDEX, name)]
    unique = {roles.get(name, name) for name in names}
    is_complete = {"sequence", "time"} < unique and not unique <= set(COLUMNS)
    if not is_complete or len(unique) < len(names):
        remedy = (
            "data.columns=sequence=NAME,time=NAME,label=NAME gives others these roles"
        )
        for name, role in roles.items():
            if role in ("sequence", "time") and role not in unique:
                remedy = f"data.columns: no column is named {format_value(name)}"
        raise UserError(
            f"{where}has the columns {format_value(names)}; needed are sequence, time, "
            "one or more features, and optionally label, split and groups, each once; "
            f"{remedy}"
        )
    return names


def _to_arrays(table: pa.Table, roles: Roles, place: Place) -> dict[str, Any]:
    """Groups rows by sequence, in the order of their first rows, and sorts by time."""
    table = table.select(_check_columns(table.column_names, roles))
    columns = {roles.get(name, name): name for name in table.column_names}
    if not table.num_rows:
        raise UserError("has no rows; write one for each time step")
    column = functools.partial(_Column, table, place)
    sequence, ids = column(columns["sequence"]).texts()
    time = column(columns["time"]).times()
    order = np.lexsort((time, sequence))
    sequence = sequence[order]
    first = np.flatnonzero(np.diff(sequence, prepend=-1))  # row of each sequence
    lengths = np.diff(first, append=len(order))

    def refuse(name: str, faults: np.ndarray, rule: str) -> None:
        """Refuses faults between a row and the next one of its sequence, bool [n-1]."""
        faulty = np.flatnonzero(faults & (np.diff(sequence) == 0))
        if len(faulty):
            earlier, row = order[faulty[0] : faulty[0] + 2]
            own, other = (
                format_value(str(table[name][index])) for index in (row, earlier)
            )
            raise UserError(
                f"{place(row)}: sequence {format_value(ids[sequence[faulty[0]]])} has "
                f"the {escape_unprintable(name)} {own}, and {other} in "
                f"{place(earlier)}; it must {rule}"
            )

    time = time[order]
    refuse(columns["time"], time[1:] == time[:-1], "differ in each row")
    features = [name for role, name in columns.items() if role not in COLUMNS]
    values = [column(name).numbers()[order] for name in features]
    arrays: dict[str, Any] = {
        "inputs": pad(np.stack(values, axis=1), lengths),
        "lengths": lengths,
        "feature_names": features,
        "ids": ids,
    }
    for role, key in ("label", "labels"), ("split", "split"), ("groups", "groups"):
        if name := columns.get(role):
            codes, texts = column(name).texts()
            codes = codes[order]
            refuse(name, np.diff(codes) != 0, "be the same in all rows")
            arrays[key] = np.array(texts)[codes[first]]
    return arrays


class _Column:
    """A column, whose texts are stripped, and null where they are empty."""

    def __init__(self, table: pa.Table, place: Place, name: str) -> None:
        self.name = name
        self.place = place
        values = table[name]
        if pa.types.is_dictionary(values.type):
            kind = values.type.value_type
            if str(kind) == "string_view":  # that of polars, which Arrow cannot take
                kind = pa.string()
            values = pa.chunked_array(
                [one.dictionary.cast(kind).take(one.indices) for one in values.chunks]
            )
        if str(values.type) in ("string", "large_string", "string_view"):
            values = pc.utf8_trim_whitespace(values.cast(pa.string()))
            values = pc.if_else(pc.not_equal(values, ""), values, None)
        self.values = values

    def texts(self) -> tuple[np.ndarray, list[str]]:
        """Returns indices of texts, int32 [rows], and the texts."""
        values = self.values
        row = pc.index(values.is_null(nan_is_null=True), True).as_py()
        if row >= 0:
            raise self._refusal(row, "texts")
        if pa.types.is_boolean(values.type) or pa.types.is_floating(values.type):
            values = pa.chunked_array([values.to_numpy().astype(str)])  # as pandas does
        encoded = values.cast(pa.string()).combine_chunks().dictionary_encode()
        return encoded.indices.to_numpy(), encoded.dictionary.to_pylist()

    def times(self) -> np.ndarray:
        """Returns numbers or timestamps [rows]."""
        allowed = "numbers, or times such as 2026-05-01 12:00, all or none with offset"
        kind = self.values.type
        times = self._cast(TIMES if kind == pa.string() else (kind,), allowed)
        valid = np.isfinite(times) if times.dtype.kind in "iufM" else np.array([False])
        if not valid.all():
            raise self._refusal(int(np.argmin(valid)), allowed)
        return times

    def numbers(self) -> np.ndarray:
        """Returns floats [rows], with NaN for missing values."""
        kind = self.values.type
        if not pa.types.is_floating(kind):
            kind = pa.float64()
        allowed = "numbers with a decimal point, and an empty cell or nan where missing"
        others = "; leave out texts, or name labels and groups by data.columns"
        return self._cast((kind,), allowed + others)

    def _cast(self, kinds: tuple[pa.DataType, ...], allowed: str) -> np.ndarray:
        """Converts all values to the first kind for which that is possible."""
        for kind in kinds:
            if (values := self._first_rows(len(self.values), kind)) is not None:
                return values.to_numpy()
        raise self._refusal(max(map(self._first_misfit, kinds)), allowed)

    def _first_misfit(self, kind: pa.DataType) -> int:
        """Returns the first row whose value cannot be converted."""
        rows = range(len(self.values))
        return bisect.bisect(
            rows, False, key=lambda row: self._first_rows(row + 1, kind) is None
        )

    def _first_rows(self, rows: int, kind: pa.DataType) -> pa.ChunkedArray | None:
        """Converts the values of some rows; None if one cannot be converted."""
        with contextlib.suppress(pa.ArrowInvalid, pa.ArrowNotImplementedError):
            # An integer beyond 2**53 is rounded.
            return self.values.slice(0, rows).cast(kind, safe=False)
        return None

    def _refusal(self, row: int, allowed: str) -> UserError:
        value = self.values[row].as_py()
        text = "" if value is None else str(value)
        return UserError(
            f"{self.place(row)}: the column {escape_unprintable(self.name)} has "
            f"{format_value(text)}; allowed are {allowed}"
        )
