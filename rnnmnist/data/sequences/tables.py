"""Reads .csv and .parquet files: a row for each time step of a sequence."""

import contextlib
import csv
import itertools
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv
import pyarrow.parquet

from rnnmnist.data.sequences.validation import (
    NO_REGRESSION,
    are_names,
    check_memory,
    pad,
    refuse_absent_features,
)
from rnnmnist.errors import (
    UserError,
    escape_unprintable,
    format_value,
    suggest_name,
)

# Columns of an index have no name, or one that pandas gives them.
INDEX = r"(__index_level_\d+__|Unnamed: \d+)?"
# The roles of columns. A column without a role is a feature.
COLUMNS = ("sequence", "time", "label", "split", "groups")
# The bytes of a file that are parsed at a time, which have to contain a whole row.
MAX_BLOCK = 1 << 27
CELL_BYTES = 32  # memory of a value while it is read

TEXT_TYPES = (
    pa.string(),
    pa.large_string(),
    pa.string_view(),
    pa.binary(),
    pa.large_binary(),
    pa.binary_view(),
)

# The types of times that are texts. Integers are before floats, to which they could be
# converted, too, with fewer digits.
TIME_TYPES = (pa.int64(), pa.timestamp("ns"), pa.timestamp("ns", "UTC"), pa.float64())

Place = Callable[[int], str]  # returns how a message calls a row, from 0
Roles = Mapping[str, str]  # the roles of columns with other names, by their names


def read_csv(path: Path, roles: Roles, wanted: Sequence[str] = ()) -> dict[str, Any]:
    """Reads a table in UTF-8, whose first line names the columns.

    If the wanted features have names, these alone are read, as by the other functions.
    """
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
        place = _format_line(path, int(row[1]) - header_lines - 1)
        raise UserError(
            f"{place}: {escape_unprintable(row[2])}; separate cells by commas, and "
            "quote texts that contain one"
        ) from error
    return _to_arrays(table, roles, wanted, lambda row: _format_line(path, row))


def _format_line(path: Path, row: int) -> str:
    """Returns `line N`, on which a row ends. Row 0 is the first one after the names."""
    with path.open(encoding="utf-8-sig", errors="replace", newline="") as file:
        reader = csv.reader(file)
        rows = (cells for cells in reader if cells)  # without empty lines
        next(itertools.islice(rows, row + 1, None), None)
        return f"line {reader.line_num}"


def read_parquet(
    path: Path, roles: Roles, wanted: Sequence[str] = ()
) -> dict[str, Any]:
    """Reads a table with the columns of a .csv file."""
    with path.open("rb") as stream, pyarrow.parquet.ParquetFile(stream) as file:
        names = _check_columns(file.schema_arrow.names, roles)
        check_memory(file.metadata.num_rows * len(names) * CELL_BYTES, "the columns")
        table = file.read(columns=names)
    return _to_arrays(table, roles, wanted, lambda row: f"row {row + 1}")


def read_stream(
    inputs: Any, roles: Roles, wanted: Sequence[str] = (), *, can_be_array: bool
) -> dict[str, Any] | None:
    """Reads a table in memory, which is an object that offers the Arrow stream.

    Returns None for other objects. If a table of numbers can be an array with a row for
    each sequence, also for one without the columns sequence and time.
    """
    if not hasattr(inputs, "__arrow_c_stream__"):
        return None
    reader = pa.RecordBatchReader.from_stream(inputs)
    names = {roles.get(name, name) for name in reader.schema.names}
    is_numeric = all(
        pa.types.is_integer(kind) or pa.types.is_floating(kind)
        for kind in reader.schema.types
    )
    if can_be_array and is_numeric and names.isdisjoint(("sequence", "time")):
        return None
    return _to_arrays(reader.read_all(), roles, wanted, lambda row: f"row {row + 1}")


def _check_columns(names: list[str], roles: Roles, where: str = "") -> list[str]:
    """Checks the names of columns, and returns them without those of an index."""
    _check_roles(names, roles, needed=("sequence", "time"))
    names = [name for name in names if name in roles or not re.fullmatch(INDEX, name)]
    unique = {roles.get(name, name) for name in names}
    is_complete = {"sequence", "time"} < unique and not unique <= set(COLUMNS)
    if not is_complete or len(unique) < len(names):
        raise UserError(
            f"{where}has the columns {format_value(names)}; needed are sequence, time, "
            "one or more features, and optionally label, split and groups, each once; "
            "data.columns=sequence=NAME,time=NAME,label=NAME gives others these roles; "
            "a table with a row for each sequence is passed by .to_numpy(), with labels"
        )
    return names


def _check_roles(names: Sequence[str], roles: Roles, needed: Sequence[str]) -> None:
    """Refuses names of columns that a table does not have, for the needed roles."""
    for name, role in roles.items():
        if role in needed and not {name, role} & set(names):
            columns = escape_unprintable(", ".join(names)[:300])
            remedy = suggest_name(name, names, f"the columns are {columns}")
            raise UserError(
                f"data.columns: no column is named {format_value(name)}; {remedy}"
            )


def _to_arrays(
    table: pa.Table, roles: Roles, wanted: Sequence[str], place: Place
) -> dict[str, Any]:
    """Makes the arguments of `validate` of a table."""
    names = _check_columns(table.column_names, roles)
    if not wanted:  # else the table of a prediction, which needs no labels
        _check_roles(names, roles, needed=COLUMNS)
    if not table.num_rows:
        raise UserError("has no rows; write one for each time step")
    name_of = {roles.get(name, name): name for name in names}
    features = [name for role, name in name_of.items() if role not in COLUMNS]
    if are_names(wanted):
        refuse_absent_features(features, wanted)
        features = list(wanted)

    def column(name: str) -> _Column:
        return _Column(name, table[name], place, roles.get(name, name))

    rows = _SortedRows(column(name_of["sequence"]), column(name_of["time"]))
    values = [column(name).numbers()[rows.order] for name in features]
    arrays: dict[str, Any] = {
        "inputs": pad(np.stack(values, axis=1), rows.lengths),
        "lengths": rows.lengths,
        "feature_names": features,
        "ids": rows.ids,
    }
    for role, key in ("label", "labels"), ("split", "split"), ("groups", "groups"):
        if role in name_of:
            arrays[key] = rows.texts_of_sequences(column(name_of[role]))
    return arrays


class _Column:
    """A column of a table. Its texts are stripped, and null where they are empty."""

    def __init__(
        self, name: str, values: pa.ChunkedArray, place: Place, role: str
    ) -> None:
        self.role = role  # of `COLUMNS`, or the name of a feature
        self.name = escape_unprintable(name)
        self.values = _strip_texts(_decode(values))
        self.place = place

    def texts(self) -> tuple[np.ndarray, list[str]]:
        """Returns indices of texts, int32 [rows], and the texts."""
        values = self.values
        row = pc.index(values.is_null(nan_is_null=True), True).as_py()
        if row >= 0:
            remedy = "write a text into each of its cells"
            if self.role == "label":
                remedy = (
                    "leave out sequences without a label, or classify them with "
                    "rnnmnist predict, in a file without this column"
                )
            place = self.place(row)
            raise UserError(f"{place}: the column {self.name} is empty; {remedy}")
        if pa.types.is_boolean(values.type):
            values = pa.chunked_array([values.to_numpy().astype(str)])  # as pandas does
        if pa.types.is_floating(values.type):  # as pandas makes of integers in a merge
            numbers = values.to_numpy()
            is_fraction = np.rint(numbers) != numbers
            if is_fraction.any():
                allowed = f"texts and whole numbers; as labels, {NO_REGRESSION}"
                raise self._refusal(int(is_fraction.argmax()), allowed)
            values = values.cast(pa.int64())
        encoded = values.cast(pa.string()).combine_chunks().dictionary_encode()
        return encoded.indices.to_numpy(), encoded.dictionary.to_pylist()

    def times(self) -> np.ndarray:
        """Returns numbers or timestamps [rows]."""
        allowed = "numbers, or times such as 2026-05-01 12:00, all or none with offset"
        values = self._parse(TIME_TYPES, allowed)
        times = values.to_numpy()
        if times.dtype.kind not in "iufM":  # such as times of the day without a date
            raise self._refusal(0, allowed)
        is_valid = np.isfinite(times)
        if not is_valid.all():
            raise self._refusal(int(is_valid.argmin()), allowed)
        return times

    def numbers(self) -> np.ndarray:
        """Returns floats [rows], with NaN for missing values."""
        allowed = (
            "numbers with a decimal point, and an empty cell or nan where missing; "
            "leave out texts by data.features, or name labels and groups by "
            "data.columns"
        )
        values = self._parse((pa.float64(),), allowed)
        if not pa.types.is_floating(values.type):
            try:
                # An integer beyond 2**53 is rounded.
                values = values.cast(pa.float64(), safe=False)
            except (pa.ArrowInvalid, pa.ArrowNotImplementedError):  # such as timestamps
                raise self._refusal(0, allowed) from None
        return values.to_numpy()

    def _parse(self, kinds: Sequence[pa.DataType], allowed: str) -> pa.ChunkedArray:
        """Converts texts to the first possible type; returns other values as they are.

        If no type is possible, the refused text is the first one that cannot be
        converted to a type of all texts before it.
        """
        if self.values.type != pa.string():
            return self.values
        for kind in kinds:
            with contextlib.suppress(pa.ArrowInvalid):
                return self.values.cast(kind)
        row = max(_find_misfit(self.values, kind) for kind in kinds)
        raise self._refusal(row, allowed)

    def format_cell(self, row: int) -> str:
        """Returns the value of a row as a message shows it."""
        value = self.values[row].as_py()
        return format_value("" if value is None else str(value))

    def _refusal(self, row: int, allowed: str) -> UserError:
        return UserError(
            f"{self.place(row)}: the column {self.name} has {self.format_cell(row)}; "
            f"allowed are {allowed}"
        )


class _SortedRows:
    """The rows of a table, sorted by sequence, and within a sequence by time.

    The sequences are in the order of their first rows in the table.
    """

    def __init__(self, sequence: _Column, time: _Column) -> None:
        codes, self.ids = sequence.texts()
        times = time.times()
        self.order = np.lexsort((times, codes))  # the row at each position
        self._codes = codes[self.order]  # the sequence at each position
        times = times[self.order]
        # Whether a position and the next one are of the same sequence, bool [rows - 1].
        self._continues = self._codes[1:] == self._codes[:-1]
        self._starts = np.flatnonzero(np.append(True, ~self._continues))
        self.lengths = np.diff(self._starts, append=len(codes))
        self._refuse(time, times[1:] == times[:-1], "differ in each row")

    def texts_of_sequences(self, column: _Column) -> np.ndarray:
        """Returns the text of each sequence, which is the same in all of its rows."""
        codes, texts = column.texts()
        codes = codes[self.order]
        self._refuse(column, codes[1:] != codes[:-1], "be the same in all rows")
        return np.array(texts)[codes[self._starts]]

    def _refuse(self, column: _Column, is_fault: np.ndarray, rule: str) -> None:
        """Refuses the first fault between neighbours of a sequence, bool [rows - 1]."""
        faults = np.flatnonzero(is_fault & self._continues)
        if not len(faults):
            return
        position = faults[0]
        earlier, row = self.order[position : position + 2].tolist()
        raise UserError(
            f"{column.place(row)}: sequence "
            f"{format_value(self.ids[self._codes[position]])} has the {column.name} "
            f"{column.format_cell(row)}, and {column.format_cell(earlier)} in "
            f"{column.place(earlier)}; it must {rule}"
        )


def _decode(values: pa.ChunkedArray) -> pa.ChunkedArray:
    """Returns the values of a column of categories; others as they are."""
    kind = values.type
    if not pa.types.is_dictionary(kind):
        return values
    if kind.value_type != pa.string_view():
        return values.cast(kind.value_type)
    # Arrow cannot decode the categories of polars, which are views of texts.
    chunks = [
        one.dictionary.cast(pa.string()).take(one.indices) for one in values.chunks
    ]
    return pa.chunked_array(chunks, pa.string())


def _strip_texts(values: pa.ChunkedArray) -> pa.ChunkedArray:
    """Returns texts of any type as stripped strings, null where they are empty.

    Values of other types are returned as they are.
    """
    if values.type not in TEXT_TYPES:
        return values
    texts = pc.utf8_trim_whitespace(values.cast(pa.string()))
    return pc.if_else(pc.not_equal(texts, ""), texts, None)


def _find_misfit(texts: pa.ChunkedArray, kind: pa.DataType) -> int:
    """Returns the first row whose text cannot be converted to a type; there is one.

    It is found by bisection, since Arrow's error can name a text of a later row.
    """
    start, stop = 0, len(texts)  # the row is in this range
    while stop - start > 1:
        middle = (start + stop) // 2
        try:
            texts.slice(start, middle - start).cast(kind)
        except pa.ArrowInvalid:
            stop = middle
        else:
            start = middle
    return start
