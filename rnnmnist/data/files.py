"""Users' sequences: reads files of all formats, and validates their arrays."""

import dataclasses
import re
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import ArrayLike

from rnnmnist.data.examples import SPLITS
from rnnmnist.data.formats import arrays, csv, ts
from rnnmnist.data.formats.raw import Raw
from rnnmnist.errors import UserError, did_you_mean, first_line, shown

READERS = {".npz": arrays.read_npz, ".ts": ts.read, ".csv": csv.read}
FORMATS = "a .npz, .ts or .csv file, or a folder of .npy files"
MAX_CLASSES = 1_000
KINDS = {  # of NumPy's types
    "biuf": "real numbers of at most 64 bits; convert them with .astype(float)",
    "iuU": "integers or strings; convert them with .astype(int) or .astype(str)",
    "iu": "integers; convert them with .astype(int)",
    "U": "strings; convert them with .astype(str)",
}


@dataclasses.dataclass(frozen=True, eq=False)
class Sequences:
    """The sequences of a file, validated except for the values of `inputs`.

    Attributes:
        inputs: real [examples, time, features]; a read-only memory map for a folder.
        lengths: int32 [examples], each from 1 to time; None if every one is time.
        labels: int32 [examples], indices into `classes`; None without labels.
        classes: the names of the classes; () without labels.
        splits: str [examples], "train", "validation" or "test"; None without splits.
        feature_names: one for each feature; by default "0", "1", and so on.
        ids: the file's names of the sequences, any texts; None if it has none.
    """

    inputs: np.ndarray
    lengths: np.ndarray | None
    labels: np.ndarray | None
    classes: tuple[str, ...]
    splits: np.ndarray | None
    feature_names: tuple[str, ...]
    ids: tuple[str, ...] | None


def read(path: Path, *, labelled: bool = True, pair: bool = True) -> Sequences:
    """Reads a .npz, .ts or .csv file, or a folder of .npy files.

    With `labelled`, labels of at least two classes are required, and training sequences
    if there are splits. With `pair`, either file of NAME_TRAIN.ts and NAME_TEST.ts
    names both.
    """
    try:
        reader = _reader(path)
        raw = ts.read(path, pair=pair) if reader is ts.read else reader(path)
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: is not UTF-8 ({error}); save it as UTF-8") from error
    except MemoryError as error:
        raise UserError(f"{path}: does not fit in memory; split it") from error
    return from_arrays(**raw._asdict(), source=str(path), labelled=labelled)


def _reader(path: Path) -> Callable[[Path], Raw]:
    if path.is_dir():
        return arrays.read_folder
    if path.is_file() and (reader := READERS.get(path.suffix.lower())):
        return reader
    fault = "is in no known format" if path.exists() else "does not exist"
    siblings = path.parent.iterdir() if path.parent.is_dir() else ()
    names = [file.name for file in siblings if file.suffix.lower() in READERS]
    remedy = did_you_mean(path.name, names, f"name {FORMATS}")
    raise UserError(f"{path}: {fault}; {remedy}")


def from_arrays(
    inputs: ArrayLike,
    labels: ArrayLike | None,
    lengths: ArrayLike | None = None,
    splits: ArrayLike | None = None,
    feature_names: ArrayLike | None = None,
    *,
    source: str,
    labelled: bool = True,
    class_names: Sequence[str] | None = None,
    ids: tuple[str, ...] | None = None,
) -> Sequences:
    """Validates arrays of sequences.

    Args:
        inputs: real [examples, time, features], or [examples, time] of one feature.
        labels: integers or non-empty strings [examples].
        lengths: integers [examples], each from 1 to time; by default, time.
        splits: strings [examples]: "train", "validation" or "test".
        feature_names: unique strings [features].
        source: the file or variable that messages name.
        labelled: as in `read`.
        class_names: the classes in order, which string labels name and integer labels
            are indices into. By default, the labels that occur: integers, and strings
            that all are integers, sorted by value; other strings alphabetically.
        ids: names of the sequences [examples], which are not validated.
    """
    sequences = _valid_inputs(inputs, source)
    examples, time, features = sequences.shape
    names = _valid_names("feature_names", feature_names, features, source)
    targets = None
    classes: tuple[str, ...] = ()
    if labels is not None:
        vector = _vector("labels", labels, "iuU", examples, source)
        targets, classes = _encode(vector, class_names, source)
    elif labelled:
        add = "add the array 'labels', the column 'label', or @classLabel and labels"
        raise UserError(f"{source}: has no labels; {did_you_mean('label', names, add)}")
    if labelled and not 2 <= len(classes) <= MAX_CLASSES:
        raise UserError(
            f"{source}: labels: has {len(classes)} classes, {shown(classes)}; allowed "
            f"are 2 to {MAX_CLASSES}"
        )
    return Sequences(
        inputs=sequences,
        lengths=_valid_lengths(lengths, examples, time, source),
        labels=targets,
        classes=classes,
        splits=_valid_splits(splits, examples, labelled, source),
        feature_names=names,
        ids=ids,
    )


def _array(name: str, values: ArrayLike, kinds: str, source: str) -> np.ndarray:
    try:
        array = np.asarray(values)  # of a memory map, a view
    except (ValueError, TypeError) as error:  # as of lists of unequal lengths
        raise UserError(f"{source}: {name}: {first_line(error)}; pad them") from error
    dtype = array.dtype
    if dtype.kind not in kinds or (dtype.kind == "f" and dtype.itemsize > 8):
        raise UserError(
            f"{source}: {name}: is {shown(str(dtype))}; allowed are {KINDS[kinds]}"
        )
    return array


def _valid_inputs(values: ArrayLike, source: str) -> np.ndarray:
    inputs = _array("inputs", values, "biuf", source)
    if inputs.ndim not in (2, 3) or not inputs.size:
        raise UserError(
            f"{source}: inputs: has the shape {inputs.shape}; allowed are [examples, "
            "time, features] and [examples, time], none of them 0"
        )
    return inputs[..., None] if inputs.ndim == 2 else inputs


def _vector(
    name: str, values: ArrayLike, kinds: str, count: int, source: str
) -> np.ndarray:
    vector = _array(name, values, kinds, source)
    if vector.shape != (count,):
        raise UserError(
            f"{source}: {name}: has the shape {vector.shape}; to match inputs, it must "
            f"be {(count,)}"
        )
    if vector.dtype.kind == "U":
        _check_strings(name, vector, source)
    return vector


def _check_strings(name: str, vector: np.ndarray, source: str) -> None:
    try:
        texts = vector.tolist()
    except ValueError as error:  # code points that do not exist
        raise UserError(f"{source}: {name}: {first_line(error)}") from error
    for index, text in enumerate(texts):
        if not text.strip() or not text.isprintable():
            raise UserError(
                f"{source}: {name}[{index}] is {shown(text)}; allowed are printable "
                "texts that are not empty"
            )


def _encode(
    labels: np.ndarray, class_names: Sequence[str] | None, source: str
) -> tuple[np.ndarray, tuple[str, ...]]:
    """Returns the labels as int32 indices, and the classes."""
    values, first, inverse = np.unique(labels, return_index=True, return_inverse=True)
    names = [str(value) for value in values.tolist()]
    if class_names is None:
        integers = all(re.fullmatch(r"-?[0-9]{1,20}", name) for name in names)
        classes = tuple(sorted(names, key=int) if integers else names)
        keys = classes
    else:
        count = len(class_names)
        classes = keys = _valid_names("class_names", class_names, count, source)
        if labels.dtype.kind != "U":
            keys = tuple(str(index) for index in range(count))
    positions = {key: index for index, key in enumerate(keys)}
    for name, example in zip(names, first, strict=True):
        if name not in positions:
            remedy = did_you_mean(name, keys, f"allowed are {shown(keys)}")
            raise UserError(f"{source}: labels[{example}] is {shown(name)}; {remedy}")
    encoded = np.array([positions[name] for name in names], np.int32)
    return encoded[inverse], classes


def _valid_lengths(
    values: ArrayLike | None, examples: int, time: int, source: str
) -> np.ndarray | None:
    if values is None:
        return None
    lengths = _vector("lengths", values, "iu", examples, source)
    outside = np.flatnonzero((lengths < 1) | (lengths > time))
    if len(outside):
        raise UserError(
            f"{source}: lengths[{outside[0]}] is {lengths[outside[0]]}; allowed are 1 "
            f"to {time}, the time steps of inputs"
        )
    return None if np.all(lengths == time) else lengths.astype(np.int32)


def _valid_splits(
    values: ArrayLike | None, examples: int, labelled: bool, source: str
) -> np.ndarray | None:
    if values is None:
        return None
    splits = _vector("split", values, "U", examples, source)
    invalid = np.flatnonzero(~np.isin(splits, SPLITS))
    if len(invalid):
        name = str(splits[invalid[0]])
        remedy = did_you_mean(name, SPLITS, f"allowed are {', '.join(SPLITS)}")
        raise UserError(f"{source}: split[{invalid[0]}] is {shown(name)}; {remedy}")
    if labelled and "train" not in splits:
        raise UserError(f"{source}: split has no 'train'; mark the training sequences")
    return splits


def _valid_names(
    name: str, values: ArrayLike | None, count: int, source: str
) -> tuple[str, ...]:
    if values is None:
        return tuple(str(index) for index in range(count))
    names = tuple(_vector(name, values, "U", count, source).tolist())
    if len(set(names)) < count:
        raise UserError(f"{source}: {name}: {shown(names)} are not unique")
    return names
