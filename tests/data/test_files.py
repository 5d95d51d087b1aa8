"""Users' sequence files: every format, and every refusal in one line."""

import io
import re
import struct
import time
import tracemalloc
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from rnnmnist.data import files
from rnnmnist.data.examples import SPLITS
from rnnmnist.data.files import Sequences
from rnnmnist.data.formats import raw
from rnnmnist.errors import UserError

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


WRITERS: dict[str, Callable[[Path], Path]] = {
    "npz": lambda folder: write_npz(folder, **arrays_of()),
    "folder": lambda folder: write_folder(folder, **arrays_of()),
    "ts": lambda folder: write_text(folder, "data.ts", TS),
    "csv": lambda folder: write_text(folder, "data.csv", CSV),
}
every_format = pytest.mark.parametrize("write", WRITERS.values(), ids=WRITERS)


def refusal(path: Path, *, labelled: bool = True) -> str:
    """Returns the message with which a file is refused, which is one line."""
    with pytest.raises(UserError) as error:
        files.read(path, labelled=labelled)
    message = str(error.value)
    assert message.startswith(str(path.parent))
    assert message.isprintable()
    return message


def check(sequences: Sequences, *, labelled: bool = True) -> None:
    """Checks what `Sequences` promises."""
    examples, time_steps, features = sequences.inputs.shape
    assert sequences.inputs.dtype.kind in "biuf"
    assert min(examples, time_steps, features) > 0
    assert len(set(sequences.feature_names)) == features
    if sequences.lengths is not None:
        assert sequences.lengths.shape == (examples,)
        assert sequences.lengths.dtype == np.int32
        assert 1 <= sequences.lengths.min() < time_steps
        assert sequences.lengths.max() <= time_steps
    if sequences.splits is not None:
        assert sequences.splits.shape == (examples,)
        assert set(sequences.splits.tolist()) <= set(SPLITS)
    if sequences.labels is None:
        assert not labelled
        assert sequences.classes == ()
    else:
        assert sequences.labels.shape == (examples,)
        assert sequences.labels.dtype == np.int32
        assert 0 <= sequences.labels.min() <= sequences.labels.max()
        assert sequences.labels.max() < len(set(sequences.classes))


@every_format
def test_the_same_data_in_every_format_are_equal(
    tmp_path: Path, write: Callable[[Path], Path]
) -> None:
    path = write(tmp_path)
    sequences = files.read(path)
    check(sequences)
    np.testing.assert_array_equal(sequences.inputs, INPUTS)
    assert sequences.inputs.dtype == np.float32
    np.testing.assert_array_equal(sequences.lengths, LENGTHS)
    np.testing.assert_array_equal(sequences.labels, [1, 0, 1])
    assert sequences.classes == ("bird", "cat")
    assert sequences.splits is None
    assert sequences.feature_names == ("0", "1")
    assert sequences.ids == (("a", "b", "c") if path.suffix == ".csv" else None)


def test_inputs_of_a_folder_are_a_read_only_map(tmp_path: Path) -> None:
    path = write_folder(
        tmp_path, inputs=np.asfortranarray(INPUTS[..., 0]), labels=LABELS
    )
    (path / "readme.txt").touch()
    inputs = files.read(path).inputs
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
        sequences = files.read(path)
        assert sequences.splits is not None
        assert sequences.splits.tolist() == splits.tolist()
        assert sequences.feature_names == ("x", "y")


def test_equal_lengths_become_none(tmp_path: Path) -> None:
    inputs = np.zeros((3, 2), np.uint8)
    path = write_npz(tmp_path, inputs=inputs, labels=LABELS, lengths=[2, 2, 2])
    assert files.read(path).lengths is None
    equal = "@equalLength TRUE\n@classLabel true a b\n@data\n1,2:a\n3,4:b\n"
    sequences = files.read(write_text(tmp_path, "equal.ts", equal))
    assert sequences.lengths is None
    assert sequences.inputs.tolist() == [[[1], [2]], [[3], [4]]]


@pytest.mark.parametrize("name", ["animals_TRAIN.ts", "animals_TEST.ts"])
def test_either_file_of_a_pair_names_both(tmp_path: Path, name: str) -> None:
    test = TS.replace("bird cat", "cat bird").replace(
        "5:6:bird", "9,9,9,9:6,6,6,6:bird"
    )
    write_text(tmp_path, "animals_TEST.ts", test)
    train = write_text(tmp_path, "animals_TRAIN.ts", TS)
    both = files.read(tmp_path / name)
    check(both)
    assert both.inputs.shape == (6, 4, 2)
    np.testing.assert_array_equal(both.inputs[:3, :3], INPUTS)
    assert not both.inputs[:3, 3].any()
    assert both.lengths is not None
    assert both.lengths.tolist() == [3, 1, 2, 3, 4, 2]
    assert both.labels is not None
    assert both.labels.tolist() == [1, 0, 1] * 2
    assert both.splits is not None
    assert both.splits.tolist() == ["train"] * 3 + ["test"] * 3
    write_text(tmp_path, "animals_TEST.ts", TS.replace("cat", "dog"))
    assert "name the files differently" in refusal(tmp_path / name)
    (tmp_path / "animals_TEST.ts").unlink()
    assert files.read(train).splits is None


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
        sequences = files.read(path)
        assert sequences.classes == classes
        assert sequences.labels is not None
        assert sequences.labels.tolist() == indices


def test_the_classes_of_a_ts_file_keep_their_order_and_need_not_occur(
    tmp_path: Path,
) -> None:
    header = TS.replace("true bird cat", "true cat dog bird")
    sequences = files.read(write_text(tmp_path, "order.ts", header))
    assert sequences.classes == ("cat", "dog", "bird")
    assert sequences.labels is not None
    assert sequences.labels.tolist() == [0, 2, 0]


def test_class_names_belong_to_labels() -> None:
    def labels_of(labels: Any) -> list[int]:
        sequences = files.from_arrays(
            np.zeros((3, 2)), labels, source="arrays", class_names=("b", "a")
        )
        assert sequences.classes == ("b", "a")
        assert sequences.labels is not None
        return sequences.labels.tolist()

    assert labels_of(["a", "b", "a"]) == labels_of([1, 0, 1]) == [1, 0, 1]
    for labels, value in (([0, 2, 1], "'2'"), (["a", "c", "b"], "'c'")):
        with pytest.raises(UserError, match=rf"arrays: labels\[1\] is {value}"):
            labels_of(labels)


def test_prediction_needs_no_labels_and_keeps_given_ones(tmp_path: Path) -> None:
    unlabelled = [
        write_npz(tmp_path, inputs=INPUTS),
        write_folder(tmp_path, inputs=INPUTS),
        write_text(tmp_path, "a.ts", "@classLabel false\n@data\n1,2:3,4\n5,6:7,8\n"),
        write_text(tmp_path, "a.csv", "sequence,time,x\na,0,1\na,1,2\n"),
    ]
    for path in unlabelled:
        sequences = files.read(path, labelled=False)
        check(sequences, labelled=False)
        assert sequences.labels is None
        assert "has no labels; add" in refusal(path)
    one_class = "sequence,time,x,label,split\na,0,1,cat,test\n"
    path = write_text(tmp_path, "one.csv", one_class)
    assert files.read(path, labelled=False).classes == ("cat",)
    assert "has 1 classes, ('cat',); allowed are 2 to 1000" in refusal(path)


def test_a_time_in_nanoseconds_is_exact(tmp_path: Path) -> None:
    first = 1_700_000_000_000_000_001
    text = f"sequence,time,x,label\na,{first},2,u\na,{first - 1},1,u\nb,0,3,v\n"
    sequences = files.read(write_text(tmp_path, "ns.csv", text))
    assert sequences.inputs[0].tolist() == [[1], [2]]


def test_only_comments_of_ts_files_can_be_of_any_encoding(tmp_path: Path) -> None:
    path = tmp_path / "latin.ts"
    path.write_bytes("# M\u00fcller\n".encode("latin-1") + TS.encode())
    assert files.read(path).classes == ("bird", "cat")
    unused = TS.replace("bird cat", "bird cat M\u00fcller")
    path.write_bytes(unused.encode("latin-1"))
    assert r"class_names[2] is 'M\udcfcller'; allowed are printable" in refusal(path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"inputs": INPUTS * 1j}, r"inputs.npy: has the type 'complex64'; convert"),
        (
            {"inputs": INPUTS.astype(str)},
            r"inputs: is '<U32'; allowed are real numbers",
        ),
        ({"inputs": np.zeros(3)}, r"inputs: has the shape \(3,\); allowed are \[exam"),
        ({"inputs": np.zeros((3, 0, 2))}, r"shape \(3, 0, 2\); store at least one"),
        ({"labels": LABELS[:2]}, r"labels: has the shape \(2,\); .* must be \(3,\)"),
        ({"labels": np.zeros(3)}, r"labels: is 'float64'; .*integers or strings"),
        ({"labels": np.array([True, False, True])}, r"labels: is 'bool'"),
        ({"labels": ["a", "", "b"]}, r"labels\[1\] is ''; allowed are printable"),
        ({"labels": ["a", "b\nc", "b"]}, r"labels\[1\] is 'b\\nc'; allowed"),
        ({"labels": ["a", "\ud800", "b"]}, r"labels\[1\] is '\\ud800'; allowed"),
        ({"labels": ["a", "a", "a"]}, r"1 classes, \('a',\); allowed are 2 to 1000"),
        ({"labels": [b"a", b"b", b"a"]}, r"labels.npy: has the type '\|S1'; convert"),
        ({"labels": np.array([{}, 1, 2], object)}, r"'object'; .* never unpickled"),
        ({"lengths": [3, 0, 1]}, r"lengths\[1\] is 0; allowed are 1 to 3"),
        ({"lengths": [3, 1, 4]}, r"lengths\[2\] is 4; allowed are 1 to 3"),
        ({"lengths": [3.0, 1, 2]}, r"lengths: is 'float64'; allowed are integers"),
        ({"split": ["train", "test", "trian"]}, r"split\[2\] is 'trian'; .* 'train'\?"),
        ({"split": ["test", "test", "validation"]}, r"split has no 'train'; mark"),
        ({"split": [0, 1, 2]}, r"split: is 'int64'; allowed are strings"),
        ({"feature_names": ["x"]}, r"feature_names: has the shape \(1,\)"),
        ({"feature_names": ["x", "x"]}, r"feature_names: \('x', 'x'\) are not unique"),
        ({"lenghts": LENGTHS}, r"'lenghts.npy'; did you mean 'lengths.npy'\? allowed"),
        ({"inputs": None}, r"contains no inputs.npy; name the sequences"),
    ],
)
@pytest.mark.parametrize("write", [write_npz, write_folder])
def test_wrong_arrays_are_refused(
    tmp_path: Path, write: Callable[..., Path], change: dict[str, Any], message: str
) -> None:
    arrays = {k: v for k, v in arrays_of(**change).items() if v is not None}
    assert re.search(message, refusal(write(tmp_path, **arrays)))


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        (
            "@timeStamps false",
            "@timeStamps true",
            "line 3: @timeStamps is true; allowed",
        ),
        ("@missing true", "@targetLabel true", "line 4: @targetLabel is true; allowed"),
        (
            "@equalLength false",
            "@equalLength no",
            "line 7: @equalLength is 'no'; allow",
        ),
        ("@equalLength false", "@equalLength", "line 7: @equalLength is ''; allowed"),
        ("@equalLength false", "@equalLength true", "line 11: has 2 dimensions of 1"),
        ("true bird cat", "true cat cat", "line 8: '@classLabel true cat cat' must"),
        ("true bird cat", "true", "line 8: '@classLabel true' must name each class"),
        ("@data", "@date", "line 10: begins with '1,3,0.5:-2,?,4:cat'; before @data"),
        (TS[TS.index("@data") :], "", "has no line @data; write it"),
        (TS[TS.index("1,3") :], "", "has no cases; write one on each line"),
        ("bird\n", "brid\n", "line 11: the label is 'brid'; did you mean 'bird'?"),
        ("6:bird", "6,6:bird", "line 11: the dimensions have [1, 2] values; write"),
        ("5:6:bird", "5:bird", "line 11: has 1 dimensions of 1 values, but the first"),
        ("5:6", ":6", "line 11: '' is not a number"),
        ("5:6", "1_0:6", "line 11: '1_0' is not a number"),
        ("5:6", "1e39:6", "line 11: '1e39' is not a number from -3.4e+38 to 3.4e+38;"),
        ("5:6", "-inf:6", "line 11: '-inf' is not a number"),
        ("5:6", "5\0:6", r"line 11: '5\x00' is not a number"),
        ("5:6:bird", "bird", "line 11: the dimensions have [] values"),
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
        (CSV, "", "line 1: there is no column 'sequence'; the columns are"),
        ("sequence,", "sequnce,", "did you mean 'sequnce'?"),
        (",label", ",lable", "line 2: 'cat' is not a number"),
        ("0,1,label", "0,0,label", "line 1: the columns are"),
        (CSV[CSV.index("a,0") :], "", "has no rows; write one for each time step"),
        ("b,7,5,6,bird", "b,7,5,bird", "line 3: has 4 cells; write 5"),
        ("b,7,5", "b,7,x", "line 3: 'x' is not a number"),
        ("b,7,5", "b,7,1e39", "line 3: '1e39' is not a number from"),
        ("b,7,5", "b,nan,5", "line 3: the time is 'nan'; allowed are numbers"),
        ("b,7,5", "b,,5", "line 3: the time is ''; allowed are numbers"),
        ("b,7", " ,7", "line 3: the sequence or label is ''"),
        ("6,bird", "6,", "line 3: the sequence or label is ''"),
        ("a,1,", "a,2.50,", "line 6: sequence 'a' has the time 2.5 as in line 4"),
        ("4,cat", "4,dog", "line 6: sequence 'a' has the label 'cat', but 'dog' in"),
        ("6,bird", '6,"bird', "line 7: unexpected end of data; separate"),
    ],
)
def test_wrong_csv_files_are_refused(
    tmp_path: Path, old: str, new: str, message: str
) -> None:
    assert old in CSV
    path = write_text(tmp_path, "data.csv", CSV.replace(old, new, 1))
    assert message in refusal(path)


def test_wrong_splits_of_csv_files_are_refused(tmp_path: Path) -> None:
    rows = "sequence,time,x,label,split\na,0,1,u,train\na,1,1,u,{}\n"
    path = write_text(tmp_path, "s.csv", rows.format("tset"))
    assert "line 3: the split is 'tset'; did you mean 'test'?" in refusal(path)
    write_text(tmp_path, "s.csv", rows.format("test"))
    assert "has the split 'test', but 'train' in line 2" in refusal(path)


def test_a_csv_file_that_is_not_utf_8_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "data.csv"
    path.write_bytes(CSV.encode("utf-16"))
    assert "is not UTF-8" in refusal(path)


def test_missing_and_unknown_files_are_refused_with_the_formats(tmp_path: Path) -> None:
    write_text(tmp_path, "animals.csv", CSV)
    other = write_text(tmp_path, "animals.txt", CSV)
    formats = "name a .npz, .ts or .csv file, or a folder of .npy files"
    for path, fault in (
        (tmp_path / "animal.csv", "does not exist; did you mean 'animals.csv'?"),
        (tmp_path / "a" / "b.csv", "does not exist;"),
        (other, "is in no known format; did you mean 'animals.csv'?"),
    ):
        message = refusal(path)
        assert message.startswith(f"{path}: {fault}")
        assert message.endswith(formats)
    (tmp_path / "empty").mkdir()
    assert "contains no inputs.npy" in refusal(tmp_path / "empty")


@pytest.mark.parametrize("values", [[[1, 2], [3]], [[1j, 2]], [["a"]], [[{}]], None])
def test_wrong_arrays_of_a_caller_are_refused(values: Any) -> None:
    with pytest.raises(UserError, match=r"^my arrays: inputs: .*; "):
        files.from_arrays(values, [0, 1], source="my arrays")


@pytest.mark.parametrize("dtype", [bool, float, object])
def test_labels_of_a_caller_that_are_to_be_converted_are_refused(dtype: type) -> None:
    message = r"^my arrays: labels: is '.*'; .* with .astype\(int\) or .astype\(str\)$"
    with pytest.raises(UserError, match=message):
        files.from_arrays(
            np.ones((2, 3)), np.arange(2, dtype=dtype), source="my arrays"
        )


@pytest.mark.skipif(np.dtype("g").itemsize == 8, reason="longdouble is float64")
def test_long_doubles_are_refused(tmp_path: Path) -> None:
    inputs = INPUTS.astype(np.longdouble)
    with pytest.raises(UserError, match=r"^my arrays: inputs: .* at most 64 bits; "):
        files.from_arrays(inputs, LABELS, source="my arrays")
    for write in (write_npz, write_folder):
        assert "inputs.npy: has the type" in refusal(write(tmp_path, inputs=inputs))


def test_padding_that_does_not_fit_in_memory_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(raw, "available_memory", lambda: 10_000_000)
    rows = "1:a\n2:b\n" * 1000 + ",".join(["1"] * 10_000) + ":b\n"
    path = write_text(tmp_path, "a.ts", "@classLabel true a b\n@data\n" + rows)
    assert "longest of 10000 time steps, 2001 sequences need 0.08 GB" in refusal(path)
    path = write_npz(tmp_path, inputs=np.zeros((2, 3_000_000)), labels=[0, 1])
    assert "arrays need 0.048 GB of memory, more than the avail" in refusal(path)


def damaged(content: bytes, generator: np.random.Generator) -> bytes:
    """Flips a bit of, cuts, inserts into, or deletes from a file at a random place."""
    start, end = np.sort(generator.integers(0, len(content), 2))
    kind = generator.integers(4)
    if kind == 0:
        flipped = bytes([content[start] ^ 1 << generator.integers(8)])
        return content[:start] + flipped + content[start + 1 :]
    if kind == 1:
        return content[:start]
    if kind == 2:
        return content[:start] + generator.bytes(1 + end % 8) + content[start:]
    return content[:start] + content[min(end, start + 8) :]


@pytest.mark.parametrize("labelled", [True, False])
@every_format
def test_a_damaged_file_is_valid_or_refused_in_one_line(
    tmp_path: Path, write: Callable[[Path], Path], labelled: bool
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
            sequences = files.read(path, labelled=labelled)
        except UserError as error:
            assert str(error).startswith(str(path))
            assert str(error).isprintable(), str(error)
        else:
            check(sequences, labelled=labelled)


def npy(header: str, data: bytes = b"") -> bytes:
    encoded = header.encode()
    return b"\x93NUMPY\1\0" + struct.pack("<H", len(encoded)) + encoded + data


def header_of(shape: str, descr: str = "'<f4'") -> str:
    return f"{{'descr': {descr}, 'fortran_order': False, 'shape': {shape}}}"


@pytest.mark.parametrize(
    "content",
    [
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
    ],
)
def test_hostile_arrays_are_refused_before_they_are_allocated(
    tmp_path: Path, content: bytes
) -> None:
    archive = tmp_path / "data.npz"
    with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED) as file:
        file.writestr("inputs.npy", content)
    folder = write_folder(tmp_path, labels=LABELS)
    (folder / "inputs.npy").write_bytes(content)
    for path in (archive, folder):
        tracemalloc.start()
        message = refusal(path)
        assert tracemalloc.get_traced_memory()[1] < 20_000_000
        tracemalloc.stop()
        assert "inputs.npy" in message


def zipped(
    content: bytes, *, size: int | None = None, crc: int | None = None, method: int = 8
) -> bytes:
    """Returns an archive of `inputs.npy`, which claims another size and checksum."""
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", method) as file:
        file.writestr("inputs.npy", content)
    archive = stream.getvalue()
    truths = len(content), zlib.crc32(content)
    for truth, claim in zip(truths, (size, crc), strict=True):
        if claim is not None:
            packed = struct.pack("<I", truth), struct.pack("<I", claim)
            assert archive.count(packed[0]) == 2
            archive = archive.replace(*packed)
    return archive


def test_archives_that_claim_other_sizes_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "data.npz"
    small = npy(header_of("(2, 5000)"), bytes(40_000))
    size, crc = len(small), zlib.crc32(small)
    giant = npy(header_of(f"({10**8}, 4)"), bytes(40_000))
    for content, message in (
        # NumPy reads this one.
        (zipped(small + bytes(50_000_000), size=size, crc=crc), "Bad CRC"),
        (zipped(small + b"1", size=size, crc=zlib.crc32(small + b"1")), "not have the"),
        (zipped(small[:-1], size=size), "not have the"),
        (zipped(small, size=size - 1), "by its header"),
        (zipped(giant), "bytes, but 16000000.. by its header"),
        (zipped(giant, size=2**32 - 2), "more than .* compressed bytes can hold"),
        (zipped(small, crc=crc ^ 1), "Bad CRC"),
        (zipped(small, method=zipfile.ZIP_BZIP2), "has compression method 12"),
    ):
        path.write_bytes(content)
        start = time.monotonic()
        tracemalloc.start()
        assert re.search(message, refusal(path))
        assert tracemalloc.get_traced_memory()[1] < 20_000_000
        tracemalloc.stop()
        assert time.monotonic() - start < 5


def test_archives_with_duplicate_or_encrypted_members_are_refused(
    tmp_path: Path,
) -> None:
    path = tmp_path / "data.npz"
    content = zipped(npy(header_of("(2, 5)"), bytes(40)))
    with pytest.warns(UserWarning, match="Duplicate"):
        stream = io.BytesIO(content)
        with zipfile.ZipFile(stream, "a") as file:
            file.writestr("inputs.npy", b"")
    path.write_bytes(stream.getvalue())
    assert "contains inputs.npy twice" in refusal(path)
    encrypted = bytearray(content)
    encrypted[6] |= 1
    encrypted[content.index(b"PK\1\2") + 8] |= 1
    path.write_bytes(encrypted)
    assert "is encrypted" in refusal(path)
