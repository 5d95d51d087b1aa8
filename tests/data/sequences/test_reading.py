"""Users' sequence files: all formats, and refusals in one line."""

import gzip
import io
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet
import pytest
from support import damaged, data_warnings

from rnnmnist.config.schema import Config, DataConfig
from rnnmnist.data import datasets
from rnnmnist.data.examples import Dataset
from rnnmnist.data.sequences import checking
from rnnmnist.data.sequences.checking import Sequences, check_arrays
from rnnmnist.data.sequences.moments import compute_moments
from rnnmnist.data.sequences.reading import read, to_dataset
from rnnmnist.data.sequences.tables import read_csv, read_stream
from rnnmnist.errors import UserError, to_expected_error

NAN = float("nan")
# Three sequences of two features, padded to the longest.
INPUTS = np.array(
    [
        [[1, -2], [3, NAN], [0.5, 4]],
        [[5, 6], [0, 0], [0, 0]],
        [[7, 8], [NAN, 1e-3], [0, 0]],
    ],
    np.float32,
)
LENGTHS = np.array([3, 1, 2], np.int32)
LABELS = np.array(["cat", "bird", "cat"])
ARRAYS: dict[str, Any] = {"inputs": INPUTS, "labels": LABELS, "lengths": LENGTHS}
TS = """\
# A comment in Latin-1: M\udcfcller.
@problemName animals
@timeStamps false
@missing true
@UNIVARIATE false
@dimensions 2
@equalLength false
@classLabel True bird cat
@data
1,3,0.5:-2,?,4:cat
5:6:bird

7,NaN:8,1e-3:cat
"""
CSV = """\
sequence, time,0,1,label
a,0,1,-2,cat
b,7,5,6,bird
a,2.5,0.5,4,cat
c , -1, 7 ,8, cat
a,1,3, NaN ,cat
c,10,,1e-3,cat
"""


NOISE = np.random.default_rng(0).normal(size=(62, 3, 2))  # [sequences, time, features]


def write_npz(folder: Path, **arrays: Any) -> Path:
    path = folder / "data.npz"
    np.savez_compressed(path, **arrays)
    return path


def write_folder(folder: Path, **arrays: Any) -> Path:
    path = folder / "arrays"
    path.mkdir()
    for name, array in arrays.items():
        np.save(path / f"{name}.npy", array)
    return path


def write_text(folder: Path, name: str, content: str) -> Path:
    path = folder / name
    path.write_text(content, "utf-8", "surrogateescape")
    return path


def write_parquet(folder: Path, **columns: Any) -> Path:
    """Writes the table of `CSV`, with given columns, like a filtered pandas frame."""
    kinds = {
        "sequence": pa.large_string(),
        "0": pa.float32(),
        "1": pa.float32(),
        "label": pa.dictionary(pa.int32(), pa.string()),
    }
    rows = pyarrow.csv.read_csv(
        io.BytesIO(CSV.replace(" ", "").encode()),
        convert_options=pyarrow.csv.ConvertOptions(column_types=kinds),
    )
    table = dict(zip(rows.column_names, rows.columns, strict=True))
    table["__index_level_0__"] = range(len(rows))
    path = folder / "data.parquet"
    pyarrow.parquet.write_table(pa.table(table | columns), path)
    return path


PARTS = "TRAIN", "TEST"
WRITERS: dict[str, Callable[[Path], Path]] = {
    "npz": lambda folder: write_npz(folder, **ARRAYS),
    "folder": lambda folder: write_folder(folder, **ARRAYS),
    "ts": lambda folder: write_text(folder, "data.ts", TS),
    "csv": lambda folder: write_text(folder, "data.csv", "\ufeff" + CSV),
    "parquet": write_parquet,
}
every_format = pytest.mark.parametrize("write", WRITERS.values(), ids=WRITERS)


def load(path: Path) -> Dataset:
    """Loads a file for training."""
    return datasets.load(
        Config(data=DataConfig(name="files", path=str(path), missing="zero"))
    )


def refusal(path: Path) -> str:
    """Returns the one-line message with which a file is refused."""
    with pytest.raises((UserError, OSError)) as error:
        load(path)
    message = str(to_expected_error(error.value))
    assert message.startswith(str(path.parent))
    assert message.isprintable()
    return message


def check(sequences: Sequences) -> None:
    """Checks the invariants of `Sequences`."""
    examples, time_steps, features = sequences.inputs.shape
    assert len(sequences.feature_names) == features > 0
    assert sequences.lengths.shape == (examples,)
    assert 1 <= sequences.lengths.min() <= sequences.lengths.max() == time_steps
    if sequences.labels is not None:
        assert sequences.labels.shape == (examples,)
        assert sequences.labels.max() < len(set(sequences.classes))


@every_format
def test_every_format_is_read_as_the_same_sequences(
    tmp_path: Path, write: Callable[[Path], Path]
) -> None:
    path = write(tmp_path)
    sequences = read(path)
    check(sequences)
    np.testing.assert_array_equal(np.float32(sequences.inputs), INPUTS)
    is_text = path.suffix in (".ts", ".csv")
    assert sequences.inputs.dtype == (np.float64 if is_text else np.float32)
    np.testing.assert_array_equal(sequences.lengths, LENGTHS)
    np.testing.assert_array_equal(sequences.labels, [1, 0, 1])
    assert sequences.classes == ("bird", "cat")
    assert sequences.split is None
    assert sequences.feature_names == ("0", "1")
    table = path.suffix in (".csv", ".parquet")
    assert sequences.ids == (("a", "b", "c") if table else None)


@pytest.mark.parametrize(("dtype", "mean"), [(np.float32, 52), (np.float64, 1.767e9)])
def test_a_feature_is_constant_up_to_the_rounding_of_its_type(
    dtype: Any, mean: float
) -> None:
    """This also holds if many values are summed, in two blocks."""
    ulp = np.spacing(dtype(mean))
    noise = np.random.default_rng(0).normal(size=(1000, 1000, 1)).astype(dtype)
    features = mean + ulp * noise * np.array([0, 0.5, 10], dtype)
    means, stds, _ = compute_moments(check_arrays(features), np.arange(1000))
    assert means[0] == mean
    deviations = np.float64(features[..., 2] - dtype(mean))
    error = means[2] - mean - deviations.mean()
    assert abs(error) <= np.spacing(means[2])
    assert stds.tolist() == [1, 1, pytest.approx(deviations.std())]


def test_inputs_of_a_folder_are_memory_mapped_read_only(tmp_path: Path) -> None:
    path = write_folder(
        tmp_path, inputs=np.asfortranarray(INPUTS[..., 0]), labels=LABELS
    )
    (path / "readme.txt").touch()
    inputs = read(path).inputs
    assert not inputs.flags.writeable
    np.testing.assert_array_equal(inputs, INPUTS[..., :1])
    np.load(path / "inputs.npy", mmap_mode="r+")[0, 0] = 9
    assert inputs[0, 0] == 9


def test_chosen_features_of_a_folder_are_read_in_order(tmp_path: Path) -> None:
    inputs = NOISE.swapaxes(1, 2)
    path = write_folder(tmp_path, feature_names=["a", "b", "c"], inputs=inputs)
    sequences = read(path, features=("c", "a"))
    assert sequences.feature_names == ("c", "a")
    np.testing.assert_array_equal(sequences.inputs, inputs[..., [2, 0]])


def test_either_file_of_a_pair_loads_both(tmp_path: Path) -> None:
    longer = TS.replace("5:6:bird", "9,9,9,9:6,6,6,6:bird")
    train_path, test_path = (tmp_path / f"animals_{part}.ts" for part in PARTS)
    write_text(tmp_path, train_path.name, TS)
    write_text(tmp_path, test_path.name, longer)
    for path in (train_path, test_path):
        both = read(path)
        np.testing.assert_array_equal(both.lengths, [3, 1, 2, 3, 4, 2])
        assert both.classes == ("bird", "cat")
        np.testing.assert_array_equal(both.labels, [1, 0, 1] * 2)
        np.testing.assert_array_equal(both.split, ["train"] * 3 + ["test"] * 3)
    write_text(tmp_path, test_path.name, TS.replace("5:6", "5:six"))
    assert ": animals_TEST.ts, line 11: cannot be read (" in refusal(train_path)
    test_path.unlink()
    assert read(train_path).split is None


def test_prediction_needs_no_labels_and_keeps_given_labels(tmp_path: Path) -> None:
    for path in (
        write_npz(tmp_path, inputs=INPUTS, lengths=[3, 3, 3]),  # without padding
        write_folder(tmp_path, inputs=INPUTS),
        write_text(tmp_path, "a.ts", "@classLabel false\n@data\n1,2:3,4\n5,6:7,8\n"),
        write_text(tmp_path, "a.csv", "sequence,time,x\na,0,1\na,1,2\n"),
    ):
        sequences = read(path)
        check(sequences)
        assert sequences.labels is None
        assert "labels: are missing; add" in refusal(path)
    one_class = "sequence,time,x,label,split\na,0,1,cat,test\n"
    path = write_text(tmp_path, "one.csv", one_class)
    assert read(path).classes == ("cat",)
    assert "must have 2 to 1,000 classes, not 0 of" in refusal(path)


@pytest.mark.parametrize(
    ("times", "order"),
    [
        (["10", "2.5", "-1", "1e2"], [2, 1, 0, 3]),
        (["9223372036854775807", "9223372036854775806"], [1, 0]),
        (["2026-05-01 10:00", "2026-05-01 09:30"], [1, 0]),
        (["2026-05-01 10:00Z", "2026-05-01 10:30+01:00"], [1, 0]),
    ],
)
def test_times_are_sorted_as_numbers_or_timestamps(
    tmp_path: Path, times: list[str], order: list[int]
) -> None:
    rows = "".join(f"a,{time},{i}\n" for i, time in enumerate(times))
    path = write_text(tmp_path, "t.csv", f"sequence,time,x\n{rows}")
    np.testing.assert_array_equal(read(path).inputs[0, :, 0], order)


@pytest.mark.parametrize(
    ("column", "value", "message"),
    [
        ("x", "1,5", "^column 'x': .*'1,5'.*expected a number with a decimal point"),
        ("time", "2026-02-30", "^column 'time': must contain only numbers, or times"),
        ("time", "2300-01-01 10:00Z", "^column 'time': must contain only numbers"),
    ],
)
def test_a_column_with_a_wrong_value_is_named(
    column: str, value: str, message: str
) -> None:
    columns = {"sequence": ["a", "a"], "time": ["1", "2"], "x": ["1", "2"]}
    columns[column][1] = value
    with pytest.raises(UserError, match=message):
        read_stream(pa.table(columns), {})


def test_labels_and_ids_are_read_as_texts(tmp_path: Path) -> None:
    rows = "007,0,1,NA\n7,0,2,1e0\nNA,0,3,007\n1.0,0,4,7\n"
    sequences = read(write_text(tmp_path, "a.csv", f"sequence,time,x,label\n{rows}"))
    assert sequences.ids == ("007", "7", "NA", "1.0")
    labels = np.array(sequences.classes)[sequences.labels]
    assert labels.tolist() == ["NA", "1e0", "007", "7"]


def test_columns_of_parquet_files_keep_their_types(tmp_path: Path) -> None:
    """Features can be integers or missing, ids can be numbers and times dates."""
    columns = {
        "sequence": [7, 8, 7, 9, 7, 9],
        "time": pa.array(np.arange(6, 0, -1), pa.timestamp("us")),
        "1": pa.array([1, None, 3, 4, 5, 6]),
    }
    sequences = read(write_parquet(tmp_path, **columns))
    assert sequences.inputs.dtype == np.float64
    assert sequences.ids == ("7", "8", "9")
    np.testing.assert_array_equal(sequences.inputs[0, :, 1], [5, 3, 1])
    np.testing.assert_array_equal(sequences.inputs[1, 0, 1], NAN)
    wrong = write_parquet(tmp_path, time=pa.array([None, 1, 2, 3, 4, 5]))
    assert "column 'time': must contain only numbers, or times" in refusal(wrong)


def with_value(value: float) -> np.ndarray:
    inputs = np.asarray(INPUTS, np.float64).copy()
    inputs[1, 0, 1] = value
    return inputs


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"inputs": INPUTS * 1j}, "inputs: has the dtype complex64"),
        ({"inputs": [[1, 2], [3]]}, "inputs: .*ValueError: setting an array element"),
        ({"inputs": [[], [], []], "lengths": None}, r"^inputs: .*\(3, 0\)"),
        ({"inputs": np.zeros(3)}, r"inputs: must have the shape .*, not \(3,\)"),
        ({"labels": LABELS[:2]}, r"labels: must have the shape \(3,\), .* \(2,\)"),
        ({"labels": [0, 1, np.nan]}, "labels: has the dtype float64; .*missing"),
        ({"labels": pd.Series(["a", None, "b"], dtype="category")}, "dtype object; "),
        (
            {"labels": np.ma.masked_equal([0, 1, 0], 1)},
            "labels: contains masked values",
        ),
        ({"labels": ["a", "b\nc", "b"]}, r"text, not 'b\\nc'"),
        ({"labels": ["a", "a", "a"]}, r"^split: .* not 1 of \('a',\); .*"),
        ({"lengths": [3, 0, 1]}, "lengths: .*between 1 and 3, .* range from 0 to 3"),
        ({"split": ["train", "test", "trian"]}, "split: .*train, .* not 'trian'"),
        ({"split": ["train", "test", "train"]}, "^split: .* classes, not 1 of"),
        ({"feature_names": ["x", "x"]}, "feature_names: must be distinct"),
        (
            {"inputs": np.full((3, 3, 2), np.inf, np.float16)},
            "at time step 0, feature 0, is inf; it must be a float32 number",
        ),
        # The mean of the feature is not finite, so no value can be standardized.
        ({"inputs": with_value(np.inf)}, "1 at time step 0, feature 1, is inf; it"),
        ({"inputs": with_value(1e39)}, r"1 at time step 0, feature 1, is 1e\+39; it"),
        ({"inputs": [pd.DataFrame({"x": [1]})] * 3, "lengths": None}, "list of tables"),
    ],
)
def test_wrong_arrays_are_refused(change: dict[str, Any], message: str) -> None:
    settings = Config(data=DataConfig(missing="zero"))
    with pytest.raises(UserError, match=message) as error:
        to_dataset("mine", check_arrays(**(ARRAYS | change)), settings)
    assert str(error.value).isprintable()


@pytest.mark.parametrize("kind", [pd.Series, pl.Series])
def test_a_list_of_series_is_a_list_of_arrays(kind: Any) -> None:
    values = [kind([1.0, 2.0]), kind([3.0])]
    assert check_arrays(values).lengths.tolist() == [2, 1]


def test_classes_that_are_missing_in_training_are_named() -> None:
    labels = ["walk", "run"] * 30 + ["sit", "lie"]
    split = ["train"] * 30 + ["validation"] * 30 + ["train", "test"]
    sequences = check_arrays(NOISE[:62], labels, split=split)
    with data_warnings() as messages:
        to_dataset("mine", sequences, Config(data=DataConfig(validation=False)))
    assert [text.partition(": ")[2] for text in messages] == ["lie"]


def test_sequences_of_groups_that_are_also_in_training_are_counted() -> None:
    """Two of the test split's five groups are also in training."""
    split = np.repeat(["train", "test"], [20, 10])
    groups = np.append(np.arange(20) % 10, np.arange(10) // 2 + 8)
    sequences = check_arrays(NOISE[:30], np.arange(30) % 2, split=split, groups=groups)
    with data_warnings() as messages:
        to_dataset("mine", sequences, Config(data=DataConfig(validation=False)))
    (message,) = messages
    assert message.startswith("4 of 10 test sequences have the same groups")


def test_equal_sequences_in_different_splits_are_counted() -> None:
    """Neither the padding nor the sign of a zero matters."""
    inputs = NOISE[:40].copy()
    inputs[:, 1] = 0
    inputs[20:23] = inputs[[3, 3, 5]]
    inputs[30] = inputs[7]
    inputs[:20, 1] = -0.0
    inputs[30, 2] = 7  # padding
    split = np.repeat(["train", "validation", "test"], [20, 10, 10])
    sequences = check_arrays(
        inputs, np.arange(40) % 2, lengths=np.full(40, 2), split=split
    )
    with data_warnings() as messages:
        to_dataset("mine", sequences, Config())
    validation, test = messages
    assert validation.startswith("3 of 10 validation sequences are identical")
    assert test.startswith("1 of 10 test sequences are identical")


def test_test_sequences_do_not_affect_training(monkeypatch: pytest.MonkeyPatch) -> None:
    """Test sequences are longer, with other values. Training is read in parts."""
    six_sequences = 6 * 2 * 2 * 8
    monkeypatch.setattr(checking, "BLOCK_BYTES", six_sequences)
    split = np.repeat(["train", "validation", "test"], [20, 10, 10])
    inputs = NOISE[:40].copy()
    lengths = np.full(40, 2)
    tasks = []
    for _ in range(2):
        sequences = check_arrays(
            inputs, np.arange(40) % 2, lengths=lengths, split=split
        )
        task, splits = to_dataset("mine", sequences, Config())
        tasks.append(replace(task, sha256=""))
        inputs[30:] += 1e5
        lengths[30:] = 3
    assert tasks[0] == tasks[1]
    assert splits["train"].time_steps == tasks[1].time_steps == 2
    assert splits["test"].time_steps == 3


def test_a_missing_value_is_named() -> None:
    values = np.zeros((4, 3, 2))
    values[3, 1, 1] = NAN
    sequences = check_arrays(
        values, [0, 0, 1, 1], feature_names=["x", "y"], ids=tuple("abcd")
    )
    with pytest.raises(UserError) as error:
        to_dataset("mine", sequences, Config())
    start = "the value of sequence 'd' at time step 1, feature y, is missing"
    assert str(error.value).startswith(start)


@pytest.mark.parametrize("write", [write_npz, write_folder])
def test_an_array_with_an_unknown_name_is_refused(
    tmp_path: Path, write: Callable[..., Path]
) -> None:
    """The name is not used as a path."""
    path = write(tmp_path, lenghts=LENGTHS, **ARRAYS)
    assert "array 'lenghts'; the arrays are inputs, labels," in refusal(path)


def test_texts_in_object_arrays_must_be_saved_as_texts(tmp_path: Path) -> None:
    objects = LABELS.astype(object)
    message = refusal(write_npz(tmp_path, **ARRAYS | {"labels": objects}))
    assert ".astype(str)" in message


WRONG_TS = [
    ("@data", "@date", "has no @data line; "),
    ("5:6:bird", "(0,5):(0,6):bird", "line 11: cannot be read (ValueError: could not"),
    ("6:bird", "6,6:bird", "line 11: cannot be read (ValueError: "),
    ("5:6:bird", "5:bird", "size 1); pass a list of arrays"),
]
WRONG_CSV = [
    (CSV, CSV.replace(",", ";"), "has the columns ['sequence; time;0;1;label'];"),
    (CSV, "", "cannot be read (ArrowInvalid: Empty CSV file); save it again"),
    (CSV[CSV.index("a,0") :], "", "without empty axes, not (0, 0, 2)"),
    ("sequence,", "sequnce,", ": has the columns ['sequnce', 'time',"),
    (",label", ",lable", "column 'lable': cannot be read (ArrowInvalid: Failed to"),
    ("0,1,label", "0,0,label", ": has the columns ['sequence', 'time', '0', '0'"),
    (
        "b,7,5,6,bird",
        '"b\n2",7,5',
        "Row #3: Expected 5 columns, got 3: ",
    ),
    (
        "b,7,5",
        f"b,{2**64},0,0,bird\nb,{2**64 + 1},5",  # equal as floats
        "must have distinct times within each sequence, but contains 1.8",
    ),
    ("b,7,5", "b,inf,5", "column 'time': must contain only numbers, or times"),
    ("6,bird", "6,", "column 'label': has missing values; expected text"),
    ("a,2.5", "a,0.0", "within each sequence, but contains 0.0 twice"),
    ("4,cat", "4,dog", "column 'label': must have the same value in all rows"),
]


@pytest.mark.parametrize(
    ("name", "content", "old", "new", "message"),
    [
        *(("data.ts", TS, *change) for change in WRONG_TS),
        *(("data.csv", CSV, *change) for change in WRONG_CSV),
    ],
)
def test_malformed_text_files_are_refused(
    tmp_path: Path, name: str, content: str, old: str, new: str, message: str
) -> None:
    assert old in content
    path = write_text(tmp_path, name, content.replace(old, new, 1))
    assert message in refusal(path)


def test_a_setting_that_names_an_absent_column_is_refused(tmp_path: Path) -> None:
    path = write_text(tmp_path, "data.csv", CSV)
    for features in None, "1":
        settings = DataConfig(
            name="files", path=str(path), features=features, columns="groups=animal"
        )
        with pytest.raises(
            UserError, match="groups=animal, but this column is missing; correct or"
        ):
            datasets.load(Config(data=settings))
    other = {"animal": "label"}  # a column `label` exists, too
    for text in CSV, CSV.replace(",1,label", ",animal,label"):
        with pytest.raises(UserError, match="label=animal, but the table has"):
            read_csv(write_text(tmp_path, "other.csv", text), other)
    lines = [line.rpartition(",")[0] for line in CSV.splitlines()]
    unlabelled = write_text(tmp_path, "new.csv", "\n".join(lines))
    # A network names its features. New sequences for it need no labels.
    assert "labels" not in read_csv(unlabelled, {"activity": "label"}, ("0", "1"))


def test_a_compressed_table_must_be_named_gz(tmp_path: Path) -> None:
    path = tmp_path / "data.csv.gz"
    path.write_bytes(gzip.compress(CSV.encode()))
    np.testing.assert_array_equal(read(path).lengths, LENGTHS)
    assert "only a compressed file" in refusal(path.rename(tmp_path / "data.csv"))


def test_missing_and_unknown_files_are_refused(tmp_path: Path) -> None:
    other = write_text(tmp_path, "animals.txt", CSV)
    assert refusal(other).startswith(f"{other}: has an unknown format; pass a .npz,")
    assert "pickle" not in refusal(other.rename(tmp_path / "animals.npz"))
    assert "No such file or directory" in refusal(tmp_path / "absent.npz")
    folder = tmp_path / "folder"
    folder.mkdir()
    write_text(folder, "a.csv", CSV)
    assert "contains no array 'inputs'" in refusal(folder)


@every_format
@pytest.mark.parametrize("count", [10, pytest.param(200, marks=pytest.mark.slow)])
def test_a_damaged_file_is_valid_or_refused_in_one_line(
    tmp_path: Path, write: Callable[[Path], Path], count: int
) -> None:
    path = write(tmp_path)
    targets = sorted(path.iterdir()) if path.is_dir() else [path]
    contents = [target.read_bytes() for target in targets]
    generator = np.random.default_rng(0)
    for edit in range(count):
        index = edit % len(targets)
        targets[index].write_bytes(damaged(contents[index], generator))
        try:
            check(read(path))
            with data_warnings():
                load(path)
        except UserError as error:
            assert str(error).startswith(str(path))
            assert str(error).isprintable(), str(error)
        targets[index].write_bytes(contents[index])
