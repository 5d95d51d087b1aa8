"""Users' sequence files: every format, and every refusal in one line."""

import re
import struct
import subprocess
import sys
import types
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pyarrow as pa
import pyarrow.parquet
import pytest
from support import damaged

from rnnmnist.config.schema import DataConfig
from rnnmnist.data.examples import SPLITS, Dataset
from rnnmnist.data.sequences import reading
from rnnmnist.data.sequences.reading import read, to_dataset
from rnnmnist.data.sequences.validation import Sequences, validate
from rnnmnist.errors import UserError, as_run_error

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
TS = """\
# A comment.
@problemName animals
@timeStamps false
@missing true
@UNIVARIATE false
@dimensions 2
@equalLength false
@classLabel true bird cat
@data
1,3,0.5:-2,?,4:cat
5:6:bird

7,NaN:8,1e-3:cat
"""
CSV = """\
sequence,time,0,1,label
a,0,1,-2,cat
b,7,5,6,bird
a,2.5,0.5,4,cat
c,-1,7,8,cat
a,1,3,nan,cat
c,10,,1e-3,cat
"""


def arrays_of(**others: Any) -> dict[str, Any]:
    return {"inputs": INPUTS, "labels": LABELS, "lengths": LENGTHS} | others


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
    path.write_text(content, encoding="utf-8")
    return path


def write_parquet(folder: Path, **columns: Any) -> Path:
    """Writes the rows of `CSV`, or other columns, as pandas writes a filtered frame."""
    rows = [row.split(",") for row in CSV.splitlines()[1:]]
    sequence, time, first, second, label = zip(*rows, strict=True)
    features = [[float(x or "nan") for x in column] for column in (first, second)]
    table = {
        "sequence": sequence,
        "time": [float(x) for x in time],
        "0": pa.array(features[0], pa.float32()),
        "1": pa.array(features[1], pa.float32()),
        "label": label,
        "__index_level_0__": range(len(rows)),
    }
    path = folder / "data.parquet"
    pyarrow.parquet.write_table(pa.table(table | columns), path)
    return path


WRITERS: dict[str, Callable[[Path], Path]] = {
    "npz": lambda folder: write_npz(folder, **arrays_of()),
    "folder": lambda folder: write_folder(folder, **arrays_of()),
    "ts": lambda folder: write_text(folder, "data.ts", TS),
    "csv": lambda folder: write_text(folder, "data.csv", CSV),
    "parquet": write_parquet,
}
every_format = pytest.mark.parametrize("write", WRITERS.values(), ids=WRITERS)


def load(path: Path) -> Dataset:
    """Loads a file for training."""
    return reading.load(DataConfig(name="files", path=str(path), missing="zero"))


def refusal(path: Path) -> str:
    """Returns the message with which a file is refused, which is one line."""
    with pytest.raises((UserError, OSError)) as error:
        load(path)
    message = str(as_run_error(error.value))
    assert message.startswith(str(path.parent))
    assert message.isprintable()
    return message


def check(sequences: Sequences) -> None:
    """Checks what `Sequences` promises."""
    examples, time_steps, features = sequences.inputs.shape
    assert sequences.inputs.dtype.kind in "biuf"
    assert min(examples, time_steps, features) > 0
    assert len(sequences.feature_names) == features
    if sequences.lengths is not None:
        assert sequences.lengths.shape == (examples,)
        assert sequences.lengths.dtype == np.int32
        assert 1 <= sequences.lengths.min() < time_steps
        assert sequences.lengths.max() <= time_steps
    if sequences.split is not None:
        assert sequences.split.shape == (examples,)
        assert set(sequences.split.tolist()) <= set(SPLITS)
    if sequences.labels is not None:
        assert sequences.labels.shape == (examples,)
        assert sequences.labels.dtype == np.int32
        assert 0 <= sequences.labels.min() <= sequences.labels.max()
        assert sequences.labels.max() < len(set(sequences.classes))


@every_format
def test_the_same_data_in_every_format_are_equal(
    tmp_path: Path, write: Callable[[Path], Path]
) -> None:
    path = write(tmp_path)
    sequences = read(path)
    check(sequences)
    np.testing.assert_array_equal(sequences.inputs, INPUTS)
    assert sequences.inputs.dtype == np.float32
    np.testing.assert_array_equal(sequences.lengths, LENGTHS)
    np.testing.assert_array_equal(sequences.labels, [1, 0, 1])
    assert sequences.classes == ("bird", "cat")
    assert sequences.split is None
    assert sequences.feature_names == ("0", "1")
    table = path.suffix in (".csv", ".parquet")
    assert sequences.ids == (("a", "b", "c") if table else None)


def test_inputs_of_a_folder_are_a_read_only_map(tmp_path: Path) -> None:
    path = write_folder(
        tmp_path, inputs=np.asfortranarray(INPUTS[..., 0]), labels=LABELS
    )
    (path / "readme.txt").touch()
    inputs = read(path).inputs
    assert not inputs.flags.writeable
    np.testing.assert_array_equal(inputs, INPUTS[..., :1])
    np.load(path / "inputs.npy", mmap_mode="r+")[0, 0] = 9
    assert inputs[0, 0] == 9


def test_splits_and_feature_names_are_kept(tmp_path: Path) -> None:
    names = {"feature_names": np.array(["x", "y"])}
    splits = np.array(["train", "test", "train"])
    rows = CSV.replace("0,1,label", "x,y,label,split").replace("cat\n", "cat,train\n")
    for path in (
        write_npz(tmp_path, **arrays_of(split=splits, **names)),
        write_folder(tmp_path, **arrays_of(split=splits, **names)),
        write_text(tmp_path, "bom.csv", "\ufeff" + rows.replace("bird", "bird,test")),
    ):
        sequences = read(path)
        assert sequences.split is not None
        assert sequences.split.tolist() == splits.tolist()
        assert sequences.feature_names == ("x", "y")


def test_equal_lengths_become_none(tmp_path: Path) -> None:
    inputs = np.zeros((3, 2), np.uint8)
    path = write_npz(tmp_path, inputs=inputs, labels=LABELS, lengths=[2, 2, 2])
    assert read(path).lengths is None
    equal = "@equalLength TRUE\n@classLabel true a b\n@data\n1,2:a\n3,4:b\n"
    sequences = read(write_text(tmp_path, "equal.ts", equal))
    assert sequences.lengths is None
    assert sequences.inputs.tolist() == [[[1], [2]], [[3], [4]]]


@pytest.mark.parametrize("name", ["animals_TRAIN.ts", "animals_TEST.ts"])
def test_either_file_of_a_pair_names_both(tmp_path: Path, name: str) -> None:
    test = TS.replace("bird cat", "cat bird").replace(
        "5:6:bird", "9,9,9,9:6,6,6,6:bird"
    )
    write_text(tmp_path, "animals_TEST.ts", test)
    train = write_text(tmp_path, "animals_TRAIN.ts", TS)
    both = read(tmp_path / name)
    check(both)
    assert both.inputs.shape == (6, 4, 2)
    np.testing.assert_array_equal(both.inputs[:3, :3], INPUTS)
    assert not both.inputs[:3, 3].any()
    assert both.lengths is not None
    assert both.lengths.tolist() == [3, 1, 2, 3, 4, 2]
    assert both.labels is not None
    assert both.labels.tolist() == [1, 0, 1] * 2
    assert both.split is not None
    assert both.split.tolist() == ["train"] * 3 + ["test"] * 3
    for old, new, message in (
        ("cat", "dog", ": animals_TEST.ts: line 10: the label is 'dog'; allowed"),
        (
            "5:6",
            "5",
            ": animals_TEST.ts: line 11: has 1 dimensions, but the first",
        ),
    ):
        write_text(tmp_path, "animals_TEST.ts", TS.replace(old, new))
        assert message in refusal(tmp_path / name)
    (tmp_path / "animals_TEST.ts").unlink()
    assert read(train).split is None


@pytest.mark.parametrize(
    ("labels", "classes", "indices"),
    [
        ([10, 9, -1], ("-1", "9", "10"), [2, 1, 0]),
        (np.array([7, 0, 7], np.uint64), ("0", "7"), [1, 0, 1]),
        (["b", "a", "B"], ("B", "a", "b"), [2, 1, 0]),
        (["10", "9", "-1"], ("-1", "9", "10"), [2, 1, 0]),
        (["10", "9", "x"], ("10", "9", "x"), [0, 1, 2]),
    ],
)
def test_classes_are_sorted(
    tmp_path: Path, labels: Any, classes: tuple[str, ...], indices: list[int]
) -> None:
    rows = "".join(f"{i},0,1,{label}\n" for i, label in enumerate(labels))
    for path in (
        write_npz(tmp_path, inputs=np.zeros((3, 2)), labels=labels),
        write_text(tmp_path, "labels.csv", "sequence,time,x,label\n" + rows),
    ):
        sequences = read(path)
        assert sequences.classes == classes
        assert sequences.labels is not None
        assert sequences.labels.tolist() == indices


def test_the_classes_of_a_ts_file_keep_their_order_and_need_not_occur(
    tmp_path: Path,
) -> None:
    header = TS.replace("true bird cat", "true cat dog bird")
    sequences = read(write_text(tmp_path, "order.ts", header))
    assert sequences.classes == ("cat", "dog", "bird")
    assert sequences.labels is not None
    assert sequences.labels.tolist() == [0, 2, 0]


def test_prediction_needs_no_labels_and_keeps_given_ones(tmp_path: Path) -> None:
    unlabelled = [
        write_npz(tmp_path, inputs=INPUTS),
        write_folder(tmp_path, inputs=INPUTS),
        write_text(tmp_path, "a.ts", "@classLabel false\n@data\n1,2:3,4\n5,6:7,8\n"),
        write_text(tmp_path, "a.csv", "sequence,time,x\na,0,1\na,1,2\n"),
    ]
    for path in unlabelled:
        sequences = read(path)
        check(sequences)
        assert sequences.labels is None
        assert "has no labels; add" in refusal(path)
    one_class = "sequence,time,x,label,split\na,0,1,cat,test\n"
    path = write_text(tmp_path, "one.csv", one_class)
    assert read(path).classes == ("cat",)
    assert "has 1 classes, ('cat',); allowed are 2 to 1000" in refusal(path)


def test_times_are_numbers_or_timestamps_and_sort_as_such(tmp_path: Path) -> None:
    def values_of(*times: str) -> list[float]:
        rows = "".join(f"a,{time},{i},u\n" for i, time in enumerate(times))
        text = f"sequence,time,x,label\n{rows}b,{times[0]},0,v\n"
        return read(write_text(tmp_path, "t.csv", text)).inputs[0, :, 0].tolist()

    assert values_of("10", "2.5", "-1", "1e2") == [2, 1, 0, 3]
    assert values_of("1700000000000000001", "1700000000000000000") == [1, 0]
    assert values_of("2026-05-01 10:00", "2026-05-01 09:30") == [1, 0]
    for times in (("1s", "2s", "10s"), ("1", "2026-05-01"), ("inf", "1"), ("", "1")):
        with pytest.raises(UserError, match=r"line .: the column time has "):
            values_of(*times)
    days = pa.array(np.arange(6, 0, -1), pa.timestamp("us"))
    reversed_rows = read(write_parquet(tmp_path, time=days))
    assert reversed_rows.inputs[0, :, 0].tolist()[::2] == [3, 1]
    wrong = write_parquet(tmp_path, time=pa.array([None, 1, 2, 3, 4, 5]))
    assert "row 1: the column time has ''; allowed are numbers" in refusal(wrong)


def test_columns_of_parquet_files_are_numbers_and_texts(tmp_path: Path) -> None:
    """A feature can be an integer, a boolean or missing; a sequence a number."""
    mixed = {"1": pa.array([1, None, 3, 4, 5, 6]), "sequence": [7, 8, 7, 9, 7, 9]}
    sequences = read(write_parquet(tmp_path, **mixed))
    assert sequences.inputs.dtype == np.float64
    assert sequences.ids == ("7", "8", "9")
    np.testing.assert_array_equal(sequences.inputs[:, 0, 1], [1, NAN, 4])
    days = pa.array(np.arange(6), pa.timestamp("us"))
    kinds = {
        "time": pa.array(["0", "7", "2.5", "-1", "1", "10"], pa.large_string()),
        "label": pa.array(list("xyxzxz")).dictionary_encode(),
        "my__index_0": pa.array(2**60 + np.arange(6)),
    }
    sequences = read(write_parquet(tmp_path, **kinds))
    assert sequences.feature_names == ("0", "1", "my__index_0")
    assert sequences.classes == ("x", "y", "z")
    np.testing.assert_array_equal(sequences.inputs[..., :2], INPUTS)
    wrong = write_parquet(tmp_path, **{"1": days})
    assert "row 1: the column 1 has '1970-01-01 00:00:00'; allowed" in refusal(wrong)


def test_cells_are_stripped(tmp_path: Path) -> None:
    spaced = CSV.replace(",", " , ").replace("bird", " bird ").replace("nan", " NaN ")
    sequences = read(write_text(tmp_path, "data.csv", spaced))
    np.testing.assert_array_equal(sequences.inputs, INPUTS)
    assert sequences.classes == ("bird", "cat")


def test_only_comments_of_ts_files_can_be_of_any_encoding(tmp_path: Path) -> None:
    path = tmp_path / "latin.ts"
    path.write_bytes("# M\u00fcller\n".encode("latin-1") + TS.encode())
    assert read(path).classes == ("bird", "cat")
    unused = TS.replace("bird cat", "bird cat M\u00fcller")
    path.write_bytes(unused.encode("latin-1"))
    assert r"feature is named 'M\udcfcller'; allowed are printable" in refusal(path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"inputs": INPUTS * 1j}, r"inputs: is 'complex64'; allowed are real"),
        ({"inputs": INPUTS.astype(str)}, r"inputs: is '<U32'; allowed are real"),
        ({"inputs": [["a"]]}, r"inputs: is '<U1'"),
        ({"inputs": [[{}]]}, r"inputs: is 'object'"),
        ({"inputs": None}, r"inputs: is 'object'"),
        ({"inputs": [[1, 2], [3]]}, r"inputs: ValueError: setting an array element"),
        ({"inputs": np.zeros(3)}, r"inputs: has the shape \(3,\); allowed are \[exam"),
        ({"inputs": np.zeros((3, 0, 2))}, r"\(3, 0, 2\); allowed .* none of them 0"),
        ({"labels": LABELS[:2]}, r"labels: has the shape \(2,\); .* must be \(3,\)"),
        ({"labels": np.zeros(3)}, r"labels: is 'float64'; .*integers or strings"),
        ({"labels": np.array([True, False, True])}, r"labels: is 'bool'"),
        ({"labels": np.zeros(3, object)}, r"labels: is 'object'; .*\.astype\(int\) or"),
        ({"labels": [b"a", b"b", b"a"]}, r"labels: is '\|S1'"),
        ({"labels": ["a", "", "b"]}, r"class .* is named ''; allowed are printable"),
        ({"labels": ["a", "b\nc", "b"]}, r"is named 'b\\nc'; allowed"),
        ({"labels": ["a", "\ud800", "b"]}, r"is named '\\ud800'; allowed"),
        ({"labels": ["a", "a", "a"]}, r"1 classes, \('a',\); allowed are 2 to 1000"),
        ({"lengths": [3, 0, 1]}, r"lengths\[1\] is 0; allowed are 1 to 3"),
        ({"lengths": [3, 1, 4]}, r"lengths\[2\] is 4; allowed are 1 to 3"),
        ({"lengths": [3.0, 1, 2]}, r"lengths: is 'float64'; allowed are integers"),
        (
            {"split": ["train", "test", "trian"]},
            r"split: contains 'trian'; .*'train'\?",
        ),
        ({"split": ["test", "test", "validation"]}, "has 0 training and 1 validation"),
        ({"split": [0, 1, 2]}, r"split: is 'int64'; allowed are strings"),
        ({"feature_names": ["x"]}, r"feature_names: has the shape \(1,\)"),
        ({"feature_names": ["x", "x"]}, r"feature_names: \('x', 'x'\) has a name twi"),
        ({"inputs": np.full((3, 3, 2), np.inf, np.float16)}, "is larger than 3.4e.38"),
        (
            {"inputs": [np.zeros((n, 2, 2)) for n in (1, 2, 3)], "lengths": None},
            r"inputs: ValueError: a sequence must be \[time, features\]",
        ),
    ],
)
def test_wrong_arrays_are_refused(change: dict[str, Any], message: str) -> None:
    settings = DataConfig(missing="zero")
    with pytest.raises(UserError, match=message) as error:
        to_dataset("mine", validate(**arrays_of(**change)), settings)
    assert str(error.value).isprintable()


@pytest.mark.skipif(np.dtype("g").itemsize == 8, reason="longdouble is float64")
def test_long_doubles_are_refused() -> None:
    with pytest.raises(UserError, match=r"^inputs: .* at most 64 bits; "):
        validate(INPUTS.astype(np.longdouble), LABELS)


@pytest.mark.parametrize("write", [write_npz, write_folder])
@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        (arrays_of(lenghts=LENGTHS), "'lenghts'; did you mean 'lengths'? allowed"),
        ({"labels": LABELS}, "contains no inputs; name the sequences"),
        (arrays_of(labels=np.array([{}, 1, 2], object)), "cannot be read (ValueError"),
    ],
)
def test_files_of_other_arrays_are_refused(
    tmp_path: Path, write: Callable[..., Path], arrays: dict[str, Any], message: str
) -> None:
    assert message in refusal(write(tmp_path, **arrays))


def test_an_archive_with_an_array_twice_is_refused(tmp_path: Path) -> None:
    path = write_npz(tmp_path, **arrays_of())
    twice = pytest.warns(UserWarning, match="Duplicate name")
    with zipfile.ZipFile(path, "a") as archive, twice:
        archive.writestr("inputs.npy", b"")
    assert "contains inputs twice" in refusal(path)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("@timeStamps false", "@timeStamps true", "line 3: @timestamps is true;"),
        ("@missing true", "@targetLabel true", "line 4: @targetlabel is true; allowed"),
        ("@data", "@date", "has no line @data; write it before the cases"),
        (TS[TS.index("@data") :], "", "has no line @data; write it"),
        (TS[TS.index("1,3") :], "", "has no cases; write one on each line"),
        ("bird\n", "brid\n", "line 11: the label is 'brid'; did you mean 'bird'?"),
        ("6:bird", "6,6:bird", "line 11: the dimensions have [1, 2] values; write"),
        ("5:6:bird", "5:bird", "line 11: has 1 dimensions, but the first case 2"),
        ("5:6", ":6", "line 11: could not convert string to float: ''"),
        ("5:6", "5\0:6", r"line 11: could not convert string to float: '5\x00'"),
        ("5:6:bird", "bird", "line 11: the dimensions have [] values"),
        ("5:6", "5_0:6", "line 11: '5_0' contains an underscore"),
    ],
)
def test_wrong_ts_files_are_refused(
    tmp_path: Path, old: str, new: str, message: str
) -> None:
    assert old in TS
    path = write_text(tmp_path, "data.ts", TS.replace(old, new))
    assert message in refusal(path)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        (CSV, "", "line 1: has the columns []; needed are sequence,"),
        ("sequence,", "sequnce,", "line 1: has the columns ['sequnce', 'time',"),
        (",label", ",lable", "line 2: the column lable has 'cat'; allowed are"),
        ("0,1,label", "0,0,label", "optionally label and split, each once"),
        (CSV[CSV.index("a,0") :], "", "has no rows; write one for each time step"),
        ("b,7,5,6,bird", "b,7,5,bird", "line 3: Expected 5 columns, got 4: b,7,5,bird"),
        ("b,7,5", "b,7,x", "line 3: the column 0 has 'x'; allowed are numbers"),
        ("b,7,5", "b,7,1_0", "line 3: the column 0 has '1_0'; allowed are numb"),
        ("\na,1,3", "\n\na,1,3,", "line 7: Expected 5 columns, got 6"),
        ("b,7,5", "b,7s,5", "line 3: the column time has '7s'; allowed are numbers"),
        ("b,7,5", "b,nan,5", "line 3: the column time has 'nan'; allowed are"),
        ("b,7,5", "b,,5", "line 3: the column time has ''; allowed are numbers"),
        ("b,7", " ,7", "line 3: the column sequence has ''; allowed are texts"),
        ("6,bird", "6,", "line 3: the column label has ''; allowed are texts"),
        ("a,1,", "a,2.50,", "line 6: sequence 'a' has the time '2.50', and '2.5' in"),
        ("4,cat", "4,dog", "sequence 'a' has the label 'dog', and 'cat' in line 6"),
        ("6,bird", '6,"bird', "class or feature is named 'bird"),
    ],
)
def test_wrong_csv_files_are_refused(
    tmp_path: Path, old: str, new: str, message: str
) -> None:
    assert old in CSV
    path = write_text(tmp_path, "data.csv", CSV.replace(old, new, 1))
    assert message in refusal(path)


def test_other_wrong_csv_files_are_refused(tmp_path: Path) -> None:
    rows = "sequence,time,x,label,split\na,0,1,u,train\na,1,1,u,test\n"
    path = write_text(tmp_path, "s.csv", rows)
    message = "line 3: sequence 'a' has the split 'test', and 'train' in line 2"
    assert message in refusal(path)
    path.write_text(rows.replace("train", "tset").replace("test", "tset"))
    assert "split: contains 'tset'; did you mean 'test'?" in refusal(path)
    path.write_bytes(CSV.encode("utf-16"))
    assert "'utf-8' codec can't decode" in refusal(path)


def test_missing_and_unknown_files_are_refused(tmp_path: Path) -> None:
    other = write_text(tmp_path, "animals.txt", CSV)
    assert refusal(other) == (
        f"{other}: is in no known format; name a .npz, .ts, .csv or .parquet file, or "
        "a folder of .npy files"
    )
    for name in ("a.npz", "a.ts", "a.csv", "a.parquet"):
        assert "No such file or directory" in refusal(tmp_path / name)
    (tmp_path / "empty").mkdir()
    assert "contains no inputs" in refusal(tmp_path / "empty")


def test_what_does_not_fit_in_memory_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    memory = types.SimpleNamespace(available=2_000_000)
    monkeypatch.setattr(psutil, "virtual_memory", lambda: memory)
    rows = "1:a\n2:b\n" * 1000 + ",".join(["1"] * 10_000) + ":b\n"
    path = write_text(tmp_path, "a.ts", "@classLabel true a b\n@data\n" + rows)
    assert "longest of 10000 time steps, 2001 sequences need 0.08 GB" in refusal(path)
    path = write_npz(tmp_path, inputs=np.zeros((2, 3_000_000)), labels=[0, 1])
    assert "arrays need 0.048 GB of memory, more than the avail" in refusal(path)
    rows = pa.array(np.zeros(100_000, np.float32))  # which take little space in a file
    path = tmp_path / "constant.parquet"
    pyarrow.parquet.write_table(
        pa.table({"sequence": rows, "time": rows, "x": rows}), path
    )
    assert "columns need 0.0096 GB of memory" in refusal(path)


@every_format
def test_a_damaged_file_is_valid_or_refused_in_one_line(
    tmp_path: Path, write: Callable[[Path], Path]
) -> None:
    path = write(tmp_path)
    targets = sorted(path.iterdir()) if path.is_dir() else [path]
    contents = [target.read_bytes() for target in targets]
    generator = np.random.default_rng(0)
    for edit in range(200):
        index = edit % len(targets)
        for target, content in zip(targets, contents, strict=True):
            target.write_bytes(content)
        targets[index].write_bytes(damaged(contents[index], generator))
        try:
            check(read(path))
            load(path)
        except UserError as error:
            assert str(error).startswith(str(path))
            assert str(error).isprintable(), str(error)


def npy(header: str, data: bytes = b"") -> bytes:
    encoded = header.encode()
    return b"\x93NUMPY\1\0" + struct.pack("<H", len(encoded)) + encoded + data


def header_of(shape: str, descr: str = "'<f4'") -> str:
    return f"{{'descr': {descr}, 'fortran_order': False, 'shape': {shape}}}"


HOSTILE = [
    b"",
    npy(header_of(f"({10**12}, 28)")),
    npy(header_of("(-1, -4)"), bytes(16)),
    npy(header_of("(" + "9" * 5000 + ", 1)")),
    npy(header_of("(0x" + "f" * 5000 + ", 1)")),
    npy(header_of("(2, 2)", "'|O'"), b"cos\nsystem\n(S'exit'\ntR."),
    npy(header_of("(2, 2)", "'<U0'")),
    npy(header_of("(2, 2)", "'a4'"), bytes(16)),
    npy(header_of("(2, 2)", "[('x', '<f4')]"), bytes(16)),
    npy(header_of("(" + "1, " * 70 + ")"), bytes(4)),
    npy(header_of("(" * 3000 + ")" * 3000)),
    npy(header_of("-" * 3000 + "1")),
    npy(header_of("[]." * 2000)),
    npy(header_of("(2, '\\d')"), bytes(16)),
    npy("{" * 60_000),
    b"\x93NUMPY\2\0" + struct.pack("<I", 2**32 - 1) + b" " * 20_000,
    b"\x93NUMPY\3\0" + struct.pack("<I", 10) + b" " * 10,
]


def test_hostile_arrays_are_refused_without_their_memory(tmp_path: Path) -> None:
    """In a process of its own, whose memory no other test has raised."""
    for index, content in enumerate(HOSTILE):
        with zipfile.ZipFile(tmp_path / f"{index}.npz", "w") as file:
            file.writestr("inputs.npy", content)
        folder = tmp_path / f"{index}"
        folder.mkdir()
        (folder / "inputs.npy").write_bytes(content)
        np.save(folder / "labels.npy", LABELS)
    program = (
        "import resource, sys\n"
        "from pathlib import Path\n"
        "from rnnmnist.data.sequences.reading import read\n"
        "from rnnmnist.errors import UserError\n"
        "def peak(): return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\n"
        "before, refused = peak(), 0\n"
        "for path in Path(sys.argv[1]).iterdir():\n"
        "    try:\n"
        "        read(path)\n"
        "    except UserError as error:\n"
        "        line = str(error)\n"
        "        assert 'inputs' in line and line.isprintable(), line\n"
        "        refused += 1\n"
        "print(refused, peak() - before)\n"
    )
    finished = subprocess.run(
        [sys.executable, "-c", program, tmp_path],
        capture_output=True,
        text=True,
        check=True,
    )
    refused, kilobytes = map(int, finished.stdout.split())
    assert refused == 2 * len(HOSTILE)
    assert kilobytes < 300_000


def test_archives_that_claim_other_sizes_are_refused(tmp_path: Path) -> None:
    small = npy(header_of("(2, 5000)"), bytes(40_000))
    giant = npy(header_of(f"({10**8}, 4)"), bytes(40_000))
    sizes = [struct.pack("<I", len(small) - missing) for missing in (0, 1)]
    crc = zlib.crc32(small)
    crcs = [struct.pack("<I", crc ^ flipped) for flipped in (0, 1)]
    path = tmp_path / "data.npz"
    for content, claims, message in (
        (small[:-1], sizes[::-1], "cannot be read"),
        (small, sizes, "cannot be read"),
        (small, crcs, "Bad CRC"),
        (giant, (b"", b""), "inputs: cannot be read .*reading array data"),
    ):
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as file:
            file.writestr("inputs.npy", content)
        path.write_bytes(path.read_bytes().replace(*claims))
        assert re.search(message, refusal(path))


@pytest.mark.parametrize(
    ("old", "new"), [(b"(200, 100)", b"(200, 99) "), (b"'<f4'", b"'<f2'")]
)
@pytest.mark.parametrize("write", [write_npz, write_folder])
def test_a_header_that_claims_less_than_there_is_is_refused(
    tmp_path: Path, write: Callable[..., Path], old: bytes, new: bytes
) -> None:
    path = write(tmp_path, inputs=np.zeros((200, 100), np.float32), labels=LABELS)
    target = path / "inputs.npy" if path.is_dir() else path
    if target == path:  # not compressed, so that the header can be found
        np.savez(path, inputs=np.zeros((200, 100), np.float32), labels=LABELS)
    content = target.read_bytes()
    assert old in content
    target.write_bytes(content.replace(old, new, 1))
    assert "inputs" in refusal(path)


def test_a_table_can_be_wide(tmp_path: Path) -> None:
    """The names of the columns take more than a megabyte."""
    names = [f"{index:0200}" for index in range(6_000)]
    lines = [f"sequence,time,{','.join(names)},label"]
    lines += [f"{i},0,{','.join(['1.5'] * len(names))},{'ab'[i]}" for i in range(2)]
    found = read(write_text(tmp_path, "wide.csv", "\n".join(lines)))
    assert found.inputs.shape == (2, 1, len(names))
    assert found.feature_names == tuple(names)
    assert "too short" in refusal(write_text(tmp_path, "wide.csv", lines[0]))
