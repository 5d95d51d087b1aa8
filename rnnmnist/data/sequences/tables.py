"""Reads tables: a row for each time step of a sequence."""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv
import pyarrow.parquet

from rnnmnist.data.sequences.checking import (
    are_names,
    pad,
    refuse_absent_features,
)
from rnnmnist.errors import (
    UserError,
    escape_unprintable,
    format_value,
)

# Columns of an index have no name, or one that pandas gives them.
INDEX = r"(__index_level_\d+__|Unnamed: \d+)?"
# The roles of columns. A column without a role is a feature.
COLUMNS = ("sequence", "time", "label", "split", "groups")

# The types of times, in the order in which they are tried: an integer could also be
# converted to a float, with fewer digits.
TIME_TYPES = (pa.int64(), pa.timestamp("ns"), pa.timestamp("ns", "UTC"), pa.float64())

NUMBERS = (
    "a number with a decimal point, or an empty cell or nan if missing; exclude text "
    "with data.features, name labels and groups with data.columns, or encode "
    "categories one-hot, or as integers for an embedding in your own network"
)
TIMES = "a number, or a time such as 2026-05-01 12:00, all or none with an offset"
TEXTS = (
    "text or a 64-bit whole number; divide other numbers into classes, as with "
    "np.digitize; remove sequences without a label, or classify them with rnnmnist "
    "predict, in a file without this column"
)

Roles = Mapping[str, str]  # the roles of columns with other names, by their names


def read_csv(path: Path, roles: Roles, wanted: Sequence[str] = ()) -> dict[str, Any]:
    """Reads a table in UTF-8, perhaps compressed, whose first line names the columns.

    If the wanted features have names, these alone are converted to numbers, as by the
    other functions.
    """
    # With threads, Arrow does not say which row has another number of cells.
    reading = pyarrow.csv.ReadOptions(use_threads=False)
    parsing = pyarrow.csv.ParseOptions(newlines_in_values=True)
    with pyarrow.csv.open_csv(path, reading, parsing) as reader:
        header = reader.schema.names
    are_texts = pyarrow.csv.ConvertOptions(
        column_types=dict.fromkeys(header, pa.string())
    )
    table = pyarrow.csv.read_csv(path, reading, parsing, are_texts)
    names = [name.strip() for name in header]
    return read_stream(table.rename_columns(names), roles, wanted)


def read_parquet(
    path: Path, roles: Roles, wanted: Sequence[str] = ()
) -> dict[str, Any]:
    """Reads a table with the columns of a .csv file."""
    with pyarrow.parquet.ParquetFile(path) as file:
        columns = _choose_columns(file.schema_arrow.names, roles, wanted)
        table = file.read(columns=list(columns.values()))
    return _to_arrays(table, columns)


def read_stream(
    inputs: Any, roles: Roles, wanted: Sequence[str] = ()
) -> dict[str, Any]:
    """Reads a table in memory, which is an object that offers the Arrow stream."""
    table = pa.RecordBatchReader.from_stream(inputs).read_all()
    columns = _choose_columns(table.column_names, roles, wanted)
    return _to_arrays(table, columns)


def _choose_columns(
    names: Sequence[str], roles: Roles, wanted: Sequence[str]
) -> dict[str, str]:
    named = [name for name in names if name in roles or not re.fullmatch(INDEX, name)]
    columns = {roles.get(name, name): name for name in named}
    features = [role for role in columns if role not in COLUMNS]
    is_complete = {"sequence", "time"} <= columns.keys() and features
    if not is_complete or len(columns) < len(named):
        raise UserError(
            f"has the columns {format_value(named)}; expected sequence, time, one or "
            "more features, and optionally label, split and groups, each once; in a "
            ".csv file, separate cells by commas; for other names, set "
            "data.columns=sequence=NAME,time=NAME,label=NAME; pass a table with one "
            "row for each sequence as .to_numpy(), with labels"
        )
    if not are_names(wanted):
        return columns
    refuse_absent_features(features, wanted)
    chosen = {*COLUMNS, *wanted}
    return {role: name for role, name in columns.items() if role in chosen}


def _to_arrays(table: pa.Table, columns: Mapping[str, str]) -> dict[str, Any]:
    """Makes the arguments of `check_arrays` of the columns of a table.

    The sequences are in the order of their first rows in the table.
    """
    cells = {
        role: _Column(name, _decode(table[name])) for role, name in columns.items()
    }
    for column in cells.values():
        if pa.types.is_nested(column.values.type):
            raise column.refusal(0, "one number or text in each row")
    codes, ids = cells.pop("sequence").texts()
    lengths = np.bincount(codes)
    order = cells.pop("time").order_within(codes)
    arrays: dict[str, Any] = {"ids": ids, "lengths": lengths}
    for role, key in ("label", "labels"), ("split", "split"), ("groups", "groups"):
        if role in cells:
            arrays[key] = cells.pop(role).texts_of_sequences(codes)
    values = [
        column.convert((pa.float64(),), NUMBERS)[order] for column in cells.values()
    ]
    arrays["inputs"] = pad(np.stack(values, axis=1), lengths)
    arrays["feature_names"] = list(cells)
    return arrays


class _Column(NamedTuple):
    """A column of a table."""

    name: str
    values: pa.ChunkedArray

    def texts(self) -> tuple[np.ndarray, list[str]]:
        """Returns indices of texts, int32 [rows], and the texts.

        Floats have to be whole numbers, as pandas makes of integers in a merge.
        """
        values = self.values
        if pa.types.is_floating(values.type):
            values = self.cast(values, (pa.int64(),), TEXTS)
        texts = _to_texts(values)
        self.refuse(texts.is_null().to_numpy(), TEXTS)
        encoded = texts.dictionary_encode().combine_chunks()
        return encoded.indices.to_numpy(), encoded.dictionary.to_pylist()

    def texts_of_sequences(self, codes: np.ndarray) -> np.ndarray:
        """Returns the text of each sequence, which is the same in all of its rows.

        `codes` are the sequences of the rows.
        """
        text_codes, texts = self.texts()
        _, first_rows = np.unique(codes, return_index=True)
        first_codes = text_codes[first_rows]
        self.refuse(
            text_codes != first_codes[codes], "the same text in all rows of a sequence"
        )
        return np.array(texts)[first_codes]

    def order_within(self, codes: np.ndarray) -> np.ndarray:
        """Returns the rows sorted by sequence, and within a sequence by this time.

        `codes` are the sequences of the rows.
        """
        times = self.convert(TIME_TYPES, TIMES)
        self.refuse(~np.isfinite(times), TIMES)
        order = np.lexsort((times, codes))
        earlier, later = order[:-1], order[1:]
        is_equal = (codes[earlier] == codes[later]) & (times[earlier] == times[later])
        if is_equal.any():
            row = int(later[is_equal.argmax()])
            raise self.refusal(row, "distinct times within each sequence")
        return order

    def convert(self, kinds: Sequence[pa.DataType], allowed: str) -> np.ndarray:
        """Returns the values as `cast` does, except that floats are not converted.

        Missing values are NaN.
        """
        values = self.values
        if pa.types.is_floating(values.type):
            return values.to_numpy()
        if not pa.types.is_primitive(values.type):
            values = _to_texts(values)
        return self.cast(values, kinds, allowed).to_numpy()

    def cast(
        self, values: pa.ChunkedArray, kinds: Sequence[pa.DataType], allowed: str
    ) -> pa.ChunkedArray:
        """Returns values as the first of the types to which all can be converted.

        If there is no such type, the refused value is the first one that cannot be
        converted to a type of all values before it.
        """
        for kind in kinds:
            converted = _try_cast(values, kind)
            if converted is not None:
                return converted
        row = -1
        while kinds:
            row += 1
            kinds = [kind for kind in kinds if _try_cast(values[row], kind) is not None]
        raise self.refusal(row, allowed)

    def refuse(self, are_wrong: np.ndarray, allowed: str) -> None:
        """Refuses the value of the first row that is wrong, bool [rows]."""
        if are_wrong.any():
            raise self.refusal(int(are_wrong.argmax()), allowed)

    def refusal(self, row: int, allowed: str) -> UserError:
        """Returns the error that the value of a row is not allowed.

        Messages count rows from 1, without the line of the columns' names.
        """
        value = self.values[row].as_py()
        text = "" if value is None else str(value)
        return UserError(
            f"row {row + 1}: the column {escape_unprintable(self.name)} has "
            f"{format_value(text)}; expected {allowed}"
        )


def _try_cast(values: Any, kind: pa.DataType) -> Any:
    try:
        # An integer beyond 2**53 is rounded to a float.
        return values.cast(kind, safe=kind != pa.float64())
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError):
        return None


def _to_texts(values: pa.ChunkedArray) -> pa.ChunkedArray:
    """Returns the texts of a column, stripped, and null where a value is missing."""
    texts = pc.utf8_trim_whitespace(values.cast(pa.string()))
    if pa.types.is_boolean(values.type):
        texts = pc.utf8_capitalize(texts)  # as Python and pandas write them
    is_missing = pc.is_in(texts, pa.array(["", "nan"]))
    return pc.if_else(is_missing, None, texts)


def _decode(values: pa.ChunkedArray) -> pa.ChunkedArray:
    """Returns the texts or numbers of a column, also of categories."""
    if not pa.types.is_dictionary(values.type):
        return values
    kind = values.type.value_type
    if pa.types.is_string_view(kind):  # Arrow cannot decode the texts of polars
        kind = pa.string()
        values = values.cast(pa.dictionary(pa.int32(), kind))
    return values.cast(kind)
