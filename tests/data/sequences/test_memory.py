"""Tables in memory, which offer the Arrow stream."""

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest

import rnnmnist
from rnnmnist.data.sequences.reading import from_memory
from rnnmnist.errors import UserError

# Three sequences of two features, the second one shorter, in rows of any order.
COLUMNS = {
    "sequence": ["b", "a", "b", "c", "a", "c", "b", "c"],
    "time": [2, 1, 1, 3, 2, 2, 3, 1],
    "x": [0.5, 1, 1.5, 2, np.nan, 3, 3.5, 4],
    "y": [1, 2, 3, 4, 5, 6, 7, 8],
    "label": ["up", "down", "up", "up", "down", "up", "up", "up"],
    "split": ["train"] * 8,
}
TABLE = pa.table(COLUMNS)
FRAME = TABLE.to_pandas()


TWICE = pd.concat([FRAME, FRAME], ignore_index=True)
TABLES: dict[str, Any] = {
    "pyarrow": TABLE,
    "batches": pa.RecordBatchReader.from_batches(TABLE.schema, TABLE.to_batches(3)),
    "pandas": FRAME,
    "filtered": TWICE[TWICE.index < 8],  # whose index becomes a column
    "index of numbers": FRAME.set_index(pd.Index([3, 1, 4, 0, 5, 9, 2, 6])),
    "index of columns": FRAME.set_index(["sequence", "time"]),
    "categoricals": FRAME.astype({"sequence": "category", "label": "category"}),
    "polars": pl.DataFrame(TABLE),
    "categoricals of polars": pl.DataFrame(TABLE).cast({"label": pl.Categorical}),
}


@pytest.mark.parametrize("name", TABLES)
def test_a_table_is_read_as_arrays(name: str) -> None:
    found = from_memory(TABLES[name], labels=None)
    nan = np.nan
    expected = [
        [[1.5, 3], [0.5, 1], [3.5, 7]],
        [[1, 2], [nan, 5], [0, 0]],
        [[4, 8], [3, 6], [2, 4]],
    ]
    np.testing.assert_array_equal(found.inputs, expected)
    np.testing.assert_array_equal(found.lengths, [3, 2, 3])
    assert found.feature_names == ("x", "y")
    assert found.ids == ("b", "a", "c")
    assert found.classes == ("down", "up")
    np.testing.assert_array_equal(found.labels, [1, 0, 1])
    np.testing.assert_array_equal(found.split, ["train"] * 3)


def test_fit_and_predict_take_tables(tmp_path: Path) -> None:
    rows = np.arange(40 * 5)
    columns = {
        "sequence": rows // 5,
        "time": pd.to_datetime(rows, unit="s"),
        "level": rows // 5 % 2,
        "label": np.array(["low", "high"])[rows // 5 % 2],
    }
    frame = pd.DataFrame(columns)
    settings: dict[str, Any] = {"hidden_size": 8, "num_steps": 100, "verbose": False}
    run = rnnmnist.fit(frame, workdir=tmp_path / "run", **settings)
    predictor = rnnmnist.Predictor(run)
    found = predictor.classify(pl.DataFrame(frame.drop(columns="label")))
    names = np.array(predictor.task.classes)[found.argmax(-1)]
    np.testing.assert_array_equal(names, ["low", "high"] * 20)
    with pytest.raises(UserError, match="level"):
        predictor.classify(frame.rename(columns={"level": "height"}))


@pytest.mark.parametrize(
    ("table", "arrays", "message"),
    [
        (FRAME.drop(columns="time"), {}, r"inputs: has the columns .* needed are seq"),
        (FRAME.assign(time=1), {}, "inputs: row 3: sequence 'b' has the time '1'"),
        (FRAME.assign(x="high"), {}, "inputs: row 1: the column x has 'high'; allowed"),
        (FRAME[["x", "y"]], {}, "^labels: are missing; add the array"),
        (FRAME.drop(columns="label"), {}, "^labels: are missing; add the array"),
        (FRAME, {"labels": [0, 1, 0]}, "^labels: a table has its own columns"),
        (FRAME, {"lengths": [3, 2, 3]}, "^lengths: a table has its own columns"),
    ],
)
def test_wrong_tables_are_one_line(
    tmp_path: Path, table: Any, arrays: dict[str, Any], message: str
) -> None:
    with pytest.raises(UserError, match=message) as error:
        rnnmnist.fit(table, workdir=tmp_path / "run", **arrays)
    assert "\n" not in str(error.value)
    assert not (tmp_path / "run").exists()
