"""Arrays and tables in memory. Tables are read by the Arrow stream interface."""

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest
import scipy.sparse
from support import called, flags_of, output_of, save_network, task_of

import rnnmnist
from rnnmnist.config.schema import Config, DataConfig, ModelConfig
from rnnmnist.data.sequences.reading import read, read_memory
from rnnmnist.errors import UserError

# Three sequences of two features, in unordered rows. The second is shorter.
COLUMNS = {
    "sequence": ["b", "a", "b", "c", "a", "c", "b", "c"],
    "time": [2, 1, 1, 3, 2, 2, 3, 1],
    "x": [0.5, 1, 1.5, 2, np.nan, 3, 3.5, 4],
    "y": [1, 2, 3, 4, 5, 6, 7, 8],
    "label": ["up", "down", "up", "up", "down", "up", "up", "up"],
}
TABLE = pa.table(COLUMNS)
FRAME = TABLE.to_pandas()
TWICE = pd.concat([FRAME, FRAME], ignore_index=True)
LSTM = Config(data=DataConfig(name="files"), model=ModelConfig(hidden_size=4))
TABLES: dict[str, Any] = {
    "pyarrow": TABLE,
    "pandas": FRAME,
    "filtered": TWICE[TWICE.index < 8],  # its index becomes a column
    "index of columns": FRAME.set_index(["sequence", "time"]),
    "categoricals": FRAME.astype({"sequence": "category", "label": "category"}),
    "polars": pl.DataFrame(TABLE),
    "categoricals of polars": pl.DataFrame(TABLE).cast({"label": pl.Categorical}),
}


@pytest.mark.parametrize("name", TABLES)
def test_a_table_is_read_as_arrays(name: str) -> None:
    found = read_memory(TABLES[name], labels=None)
    x = np.array([[1.5, 0.5, 3.5], [1, np.nan, 0], [4, 3, 2]])
    y = np.array([[3, 1, 7], [2, 5, 0], [8, 6, 4]])
    np.testing.assert_array_equal(found.inputs, np.stack([x, y], axis=-1))
    np.testing.assert_array_equal(found.lengths, [3, 2, 3])
    assert (found.feature_names, found.ids) == (("x", "y"), ("b", "a", "c"))
    assert found.classes == ("down", "up")
    np.testing.assert_array_equal(found.labels, [1, 0, 1])


@pytest.mark.parametrize(
    ("labels", "classes", "indices"),
    [
        (["b", "a", "B"], ("B", "a", "b"), [2, 1, 0]),
        (["10", "9", "x"], ("10", "9", "x"), [0, 1, 2]),
        ([10, 9, -1], ("-1", "9", "10"), [2, 1, 0]),
        ([True, False, True], ("False", "True"), [1, 0, 1]),
    ],
)
def test_classes_do_not_depend_on_where_the_labels_are_stored(
    labels: Any, classes: tuple[str, ...], indices: list[int], tmp_path: Path
) -> None:
    columns = {"sequence": [0, 1, 2], "time": [0, 0, 0], "x": [3, 4, 5]}
    columns["label"] = labels
    frame = pd.DataFrame(columns)
    frame.to_csv(tmp_path / "table.csv", index=False)
    frame.to_parquet(tmp_path / "table.parquet")
    found = [read(path) for path in tmp_path.iterdir()]
    found += map(read_memory, [frame, pl.DataFrame(columns)])
    found.append(read_memory([[3], [4], [5]], labels=frame["label"]))
    for sequences in found:
        assert sequences.classes == classes
        np.testing.assert_array_equal(sequences.labels, indices)


@pytest.mark.parametrize("create", [pd.DataFrame, pl.DataFrame])
def test_whole_floats_are_read_as_integers(create: Any) -> None:
    """When pandas merges frames, integers can become floats."""
    table = {"sequence": [7.0, 8.0, 9.0], "time": [0, 0, 0], "x": [1, 2, 3]}
    table |= {"label": [2.0, 10.0, 2.0], "groups": [1.0, 1.0, 2.0]}
    found = read_memory(create(table))
    assert (found.classes, found.ids) == (("2", "10"), ("7", "8", "9"))
    assert found.groups is not None
    assert found.groups.tolist() == ["1", "1", "2"]


@pytest.mark.parametrize("label", [np.nan, 0.5, np.inf, 1e19])
def test_a_missing_or_fractional_label_is_refused(label: float) -> None:
    table = {"sequence": [0, 1], "time": [0, 0], "x": [1, 2], "label": [1.0, label]}
    frame = pd.DataFrame(table)
    for kind in ("float32", "category"):
        with pytest.raises(UserError, match="column 'label': "):
            read_memory(frame.astype({"label": kind}))


def test_a_network_of_one_feature_accepts_tables_and_wide_arrays(
    tmp_path: Path,
) -> None:
    task = dataclasses.replace(task_of(5, 1, 2), feature_names=("level",))
    model = rnnmnist.load(save_network(tmp_path / "run", LSTM, task))
    levels = np.random.default_rng(0).normal(size=(4, 5))
    rows = np.arange(4 * 5)
    columns = {"sequence": rows // 5, "time": rows % 5, "level": levels.ravel()}
    expected = model.classify(levels[..., None])
    for table in (pl.DataFrame(columns), levels):
        np.testing.assert_array_equal(model.classify(table), expected)


@pytest.mark.slow
def test_columns_can_have_custom_names(tmp_path: Path) -> None:
    """Ids and groups are passed to scikit-learn's tools and to predictions."""
    rows = np.arange(40 * 5)
    frame = pd.DataFrame(
        {
            "recording": [f"new {row // 5}" for row in rows],
            "t": rows % 5,
            "level": rows // 5 % 2 + rows // 5 / 100,
            "activity": np.array(["rest", "walk"])[rows // 5 % 2],
            "mouse": rows // 20,
        }
    )
    path = tmp_path / "table.csv"
    frame.to_csv(path)  # with an index
    columns = "sequence=recording,time=t,label=activity,groups=mouse"
    roles = dict(pair.split("=") for pair in columns.split(","))
    tables: list[Any] = [frame, path]
    for table in tables:
        with pytest.raises(UserError, match=r"data\.columns="):
            rnnmnist.read_sequences(table)
        found: Any = rnnmnist.read_sequences(table, roles)
        X, y, groups, ids = found  # noqa: N806
        assert (X[1].shape, X[1][0]) == ((5, 1), 1.01)
        assert (y[1], groups[5], ids[1]) == ("walk", "1", "new 1")
    with pytest.raises(UserError, match=r"groups=absent"):
        rnnmnist.read_sequences(frame, roles | {"groups": "absent"})
    run = tmp_path / "run"
    rnnmnist.fit(frame, workdir=run, columns=roles, **FILTERS)
    frame.rename(columns={"recording": "id"}).to_csv(path)
    columns = columns.replace("recording", "id")
    flags = f"--workdir={run}", path, "--json", f"--config.data.columns={columns}"
    line = json.loads(output_of(called("predict", *flags)).splitlines()[3])
    assert (line["sequence"], line["id"]) == (3, "new 3")


def test_a_trained_network_selects_columns_by_name(tmp_path: Path) -> None:
    """Any order and additional columns are allowed, in memory and in files."""
    frame = FRAME.fillna(0)
    task = dataclasses.replace(
        task_of(3, 2, 2), feature_names=("x", "y"), classes=("down", "up")
    )
    run = save_network(tmp_path / "run", LSTM, task)
    model = rnnmnist.load(run)
    expected = model.classify(frame)
    more = frame.assign(remark="none")[["remark", "y", "sequence", "time", "x"]]
    np.testing.assert_array_equal(model.classify(more), expected)
    path = tmp_path / "more.csv"
    more.assign(label=frame["label"]).to_csv(path, index=False)
    flags = f"--workdir={run}", f"--config.data.path={path}"
    evaluated = output_of(called("evaluate", *flags))
    assert f"({(expected.argmax(1) == [1, 0, 1]).sum()} of 3;" in evaluated
    with pytest.raises(UserError, match=r"^inputs: has no feature 'y'"):
        model.classify(more.rename(columns={"y": "yy"}))


# Recordings of two features, with two additional columns: a text and a row number.
COUNT, TIME = 20, 6
NOISE = np.random.default_rng(0).normal(size=(COUNT, TIME, 2))
ROWS = np.arange(COUNT * TIME)
BESIDE = pd.DataFrame({"sequence": ROWS // TIME, "time": ROWS % TIME, "row": ROWS})
BESIDE = BESIDE.assign(u=NOISE[..., 0].ravel(), remark="none", v=NOISE[..., 1].ravel())
BESIDE["label"] = np.where(ROWS // TIME % 2, "odd", "even")
FILTERS: dict[str, Any] = {"cell": "filters", "hidden_size": 10, "num_devices": 1}


@pytest.mark.slow
@pytest.mark.usefixtures("fast_programs")
def test_only_chosen_features_are_read(tmp_path: Path) -> None:
    """A table, a file and an array with names give the same network."""
    run = tmp_path / "run"
    model = rnnmnist.fit(BESIDE, workdir=run, features="v,u", **FILTERS)
    assert model.task.feature_names == ("v", "u")
    expected = model.classify(NOISE[..., ::-1])
    np.testing.assert_array_equal(model.classify(BESIDE), expected)
    path = tmp_path / "table.csv"
    BESIDE.to_csv(path, index=False)
    flags = flags_of(FILTERS | {"path": path, "features": "v,u"})
    of_file = tmp_path / "of_file"
    output_of(called("main", "--config=files", f"--workdir={of_file}", *flags))
    of_arrays = rnnmnist.fit(
        np.concatenate([ROWS.reshape(COUNT, TIME, 1), NOISE], axis=2),
        BESIDE["label"][::TIME].to_numpy(),
        feature_names=["row", "u", "v"],
        features=["v", "u"],
        **FILTERS,
    )
    for other in (rnnmnist.load(of_file), of_arrays):
        assert other.params_sha256 == model.params_sha256
    with pytest.raises(UserError, match=r"data\.features=u \(checkpoint: v,u\)"):
        rnnmnist.fit(BESIDE, workdir=run, features="u", **FILTERS)


@pytest.mark.parametrize(
    ("inputs", "features", "message"),
    [
        (BESIDE, "u,vv", "has no feature 'vv', .*data.features"),
        (BESIDE, "label", "has no feature 'label', "),
        (NOISE, "2", r"features \('2',\) \(1\), .* not \('0', '1'\) \(2\)"),
        (BESIDE, "u,", "^data.features: must be NAME,NAME"),
    ],
)
def test_unknown_features_are_refused(
    inputs: Any, features: Any, message: str, tmp_path: Path
) -> None:
    labels = None if inputs is BESIDE else BESIDE["label"][::TIME].to_numpy()
    with pytest.raises(UserError, match=message):
        rnnmnist.fit(inputs, labels, workdir=tmp_path / "run", features=features)
    assert not (tmp_path / "run").exists()


def test_probabilities_in_the_padding_are_nan(tmp_path: Path) -> None:
    model = rnnmnist.load(save_network(tmp_path / "run", LSTM, task_of(5, 1, 2)))
    found = model.classify([np.ones((2, 1)), np.ones((7, 1))], every_step=True)
    assert np.isnan(found[0, 2:]).all()
    assert np.isfinite(found[0, :2]).all()
    assert np.isfinite(found[1]).all()


@pytest.mark.parametrize(
    ("inputs", "labels", "remedy"),
    [
        (scipy.sparse.csr_array(np.eye(3)), [0, 1, 0], r"\.toarray\(\)"),
        (np.array([np.ones((n, 2)) for n in (3, 4)], object), [0, 1], r"list\(\)"),
        ("sensors.csv", None, r"rnnmnist\.read_sequences"),
        (np.array([list("acgt")]), ["a"], "^inputs: .*one-hot"),
        (np.ones((3, 4)), None, "pass labels"),
        (pd.DataFrame(np.ones((3, 4))), None, r"\.to_numpy\(\) and labels"),
        (FRAME.assign(x=[[0.5]] * len(FRAME)), None, "^inputs: column 'x': .*list"),
        (FRAME.drop(columns="time"), None, "inputs: has the columns"),
        (FRAME, [0, 1, 0], "^labels: must be a column of the table"),
        (BESIDE.assign(u=["err", *BESIDE["u"][1:]]), None, r"\.astype\(str\)"),
        (pl.DataFrame(BESIDE).lazy(), None, r"^inputs: .*\.collect\(\)"),
        ((one for one in NOISE), [0, 1] * 10, r"^inputs: .*with list\(\)"),
        ([], [], "^inputs: .*pass a list of arrays"),
        ([0.5, 1.5], [0, 1], "^inputs: .*pass a list of arrays"),
        ([np.ones((2, n)) for n in (5, 6)], [0, 1], "^inputs: .*pass a list of arrays"),
        (NOISE, NOISE[:, 0, 0], r"^labels: .*np\.digitize"),
        (NOISE, np.eye(COUNT, dtype=int), r"^labels: .* \(20,\), .* \(20, 20\)"),
        (NOISE, [[0], [1, 2]], "^labels: .*ValueError"),
    ],
)
def test_unsupported_objects_are_refused_with_a_remedy(
    inputs: Any, labels: Any, remedy: str, tmp_path: Path
) -> None:
    with pytest.raises(UserError, match=remedy):
        rnnmnist.fit(inputs, labels, workdir=tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_single_sequence_needs_a_batch_axis(tmp_path: Path) -> None:
    model = rnnmnist.load(save_network(tmp_path / "run", LSTM, task_of(5, 2, 2)))
    sequence = np.ones((12, 2))
    for method in (model.classify, model.occlusion):
        with pytest.raises(UserError, match=r"^inputs: .* inputs\[None\]"):
            method(sequence)
    assert model.classify(sequence[None]).shape == (1, 2)


def test_texts_as_values_are_refused_by_the_classifier() -> None:
    texts = np.array([list("acgt"), list("tgca")])
    with pytest.raises(UserError, match=r"^X: .*one-hot"):
        rnnmnist.RNNClassifier().fit(texts, ["a", "b"])
