"""Reads a user's sequences, and makes a data set of them."""

import hashlib
import json
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from rnnmnist.config.schema import DataConfig
from rnnmnist.config.tasks import SplitSizes, Task
from rnnmnist.data.examples import (
    Dataset,
    Examples,
    Normalization,
    find_invalid,
    padding,
)
from rnnmnist.data.sequences.tables import read_csv, read_parquet
from rnnmnist.data.sequences.ts import read_ts
from rnnmnist.data.sequences.validation import (
    Sequences,
    check_memory,
    damage_refused,
    validate,
)
from rnnmnist.errors import UserError, did_you_mean, shown

NAMES = ("inputs", "labels", "lengths", "split", "feature_names")
OTHER_SIZE = "its header claims another size"


def read_npz(path: Path) -> dict[str, Any]:
    """Reads the arrays of a .npz file."""
    arrays = {}
    with zipfile.ZipFile(path) as archive:
        members = archive.infolist()
        _check_names([m.filename.removesuffix(".npy") for m in members], path)
        size = sum(member.file_size for member in members)
        folder = "save them as a folder of .npy files, which is read as a memory map"
        check_memory(size, f"{path}: the arrays", folder)
        for member in members:
            name = member.filename.removesuffix(".npy")
            with damage_refused(f"{path}: {name}"), archive.open(member) as file:
                arrays[name] = np.lib.format.read_array(file, allow_pickle=False)
                if file.read(1):  # at the end, zipfile compares the checksum
                    raise ValueError(OTHER_SIZE)
    return arrays


def read_folder(path: Path) -> dict[str, Any]:
    """Reads the arrays of a folder as read-only memory maps."""
    files = [file for file in sorted(path.glob("*.npy")) if file.is_file()]
    _check_names([file.stem for file in files], path)
    arrays: dict[str, Any] = {}
    for file in files:
        with damage_refused(str(file)):
            array: Any = np.load(file, mmap_mode="r", allow_pickle=False)
            if array.offset + array.nbytes != file.stat().st_size:
                raise ValueError(OTHER_SIZE)
            arrays[file.stem] = array
    return arrays


def _check_names(names: list[str], path: Path) -> None:
    for name in names:
        if name not in NAMES:
            remedy = did_you_mean(name, NAMES, f"allowed are {', '.join(NAMES)}")
            raise UserError(f"{path}: contains the array {shown(name)}; {remedy}")
        if names.count(name) > 1:
            raise UserError(f"{path}: contains {name} twice; save the arrays again")
    if "inputs" not in names:
        raise UserError(f"{path}: contains no inputs; name the sequences 'inputs'")


FORMATS = "a .npz, .ts, .csv or .parquet file, or a folder of .npy files"
CHUNK_BYTES = 1 << 24  # of the values that are checked at a time

READERS: dict[str, Callable[[Path], dict[str, Any]]] = {
    ".npz": read_npz,
    ".ts": read_ts,
    ".csv": read_csv,
    ".parquet": read_parquet,
}


def read(path: Path, *, training: bool = True, pair: bool = True) -> Sequences:
    """Reads a file or a folder of sequences in any format.

    Args:
        path: the file or folder.
        training: whether labels of at least two classes are required, and training
            sequences if there are splits. Labels are returned in any case.
        pair: whether either file of a pair NAME_TRAIN.ts and NAME_TEST.ts names both.
    """
    reader = READERS.get(path.suffix.lower()) if path.is_file() else None
    if path.is_dir():
        reader = read_folder
    if reader is None:
        fault = "is in no known format" if path.exists() else "does not exist"
        siblings = path.parent.iterdir() if path.parent.is_dir() else ()
        names = [file.name for file in siblings if file.suffix.lower() in READERS]
        remedy = did_you_mean(path.name, names, f"name {FORMATS}")
        raise UserError(f"{path}: {fault}; {remedy}")
    with damage_refused(str(path)):
        arrays = read_ts(path, pair=pair) if reader is read_ts else reader(path)
    return validate(str(path), training=training, **arrays)


def load(config: DataConfig, trained: Task | None = None) -> Dataset:
    """Loads the sequences in `data.path`, and checks all values.

    With the task of a trained network, its normalization and order of classes are used.
    """
    if config.path is None:
        raise UserError(
            f"data.path: name your sequences with data.path=PATH, {FORMATS}"
        )
    path = Path(config.path)
    name = path.stem.removesuffix("_TRAIN").removesuffix("_TEST")
    return to_dataset(name, read(path, training=trained is None), config, trained)


def to_dataset(
    name: str, sequences: Sequences, config: DataConfig, trained: Task | None = None
) -> Dataset:
    """Checks the values of labelled sequences, and divides them into splits."""
    if sequences.labels is None:
        raise UserError(f"{sequences.source}: the sequences have no labels")
    classes = sequences.classes
    labels = sequences.labels
    if trained is None:
        splits = sequences.training_splits
        sha256, mean, std = read_statistics(sequences, config)
    else:
        classes = trained.classes
        labels = _labels_of(sequences, trained)
        sha256, _, _ = read_statistics(sequences, config, moments=False)
        mean = trained.mean
        std = trained.std
        same = sha256 == trained.sha256
        splits = sequences.training_splits if same else sequences.given_splits("test")
    _, time_steps, features = sequences.inputs.shape
    sizes = {split: len(indices) for split, indices in splits.items()}
    task = Task(
        name=name,
        time_steps=time_steps,
        features=features,
        classes=classes,
        examples=SplitSizes(**sizes),
        feature_names=sequences.feature_names,
        sha256=sha256,
        mean=mean,
        std=std,
    )
    normalization = Normalization.create(task, config.missing)
    lengths = sequences.lengths
    return Dataset(
        task,
        {
            split: Examples(
                sequences.inputs,
                None if lengths is None else lengths[indices],
                indices,
                normalization,
                labels=labels[indices],
            )
            for split, indices in splits.items()
        },
    )


def read_statistics(
    sequences: Sequences, config: DataConfig, *, moments: bool = True
) -> tuple[str, tuple[float, ...] | None, tuple[float, ...] | None]:
    """Reads and checks all values of labelled sequences.

    Returns:
        The SHA-256 of the sequences with their labels, lengths and splits; mean and
        standard deviation of each feature over the training sequences, None without
        `moments` or with `data.normalize=none`.
    """
    lengths = sequences.lengths
    examples, time_steps, features = sequences.inputs.shape
    # The type of the file, so that no digit is lost; not a column-major order.
    dtype = np.result_type(sequences.inputs.dtype, np.float32).newbyteorder("<")
    header = [sequences.inputs.shape, sequences.classes]
    digest = hashlib.sha256(json.dumps(header).encode())
    labels = np.asarray(sequences.labels)
    for indices in (labels, *sequences.given_splits("train").values()):
        digest.update(indices.astype("<i8").tobytes())
    if lengths is not None:
        digest.update(lengths.astype("<i8").tobytes())
    is_training = np.zeros(examples, bool)
    moments &= config.normalize != "none"
    if moments:
        is_training[sequences.training_splits["train"]] = True
    total = Moments.zeros(features)
    size = max(1, CHUNK_BYTES // (time_steps * features * 8))
    for start in range(0, examples, size):
        part = slice(start, start + size)
        chunk = sequences.inputs[part].astype(dtype, order="C")
        padded = slice(0) if lengths is None else padding(time_steps, lengths[part])
        chunk[padded] = 0
        digest.update(chunk.data)
        _check_values(sequences, chunk, start, config.missing)
        chunk[padded] = np.nan  # `Moments` leaves NaN out
        total = total.add(chunk[is_training[part]].reshape(-1, features))
    if not moments:
        return digest.hexdigest(), None, None
    mean = tuple(total.mean.tolist())
    return digest.hexdigest(), mean, tuple(total.std.tolist())


class Moments(NamedTuple):
    """The number, mean and sum of squared deviations of values, by feature."""

    number: np.ndarray  # float64 [features]
    mean: np.ndarray  # float64 [features]
    squares: np.ndarray  # float64 [features]

    @classmethod
    def zeros(cls, features: int) -> "Moments":
        """Returns the moments of no values."""
        return cls(*np.zeros((3, features)))

    def add(self, values: np.ndarray) -> "Moments":
        """Adds values, real [n, features]; NaN are left out.

        References:
            Chan, Golub, LeVeque, "Algorithms for Computing the Sample Variance", The
            American Statistician 37(3), 1983.
        """
        missing = np.isnan(values)
        number = len(values) - missing.sum(axis=0)
        if missing.any():
            values = np.where(missing, 0, values)
        mean = values.sum(axis=0, dtype=np.float64) / np.maximum(number, 1)
        deviations = values - mean
        deviations[missing] = 0
        total = self.number + number
        delta = mean - self.mean
        weight = number / np.maximum(total, 1)
        squares = self.squares + np.einsum("nf,nf->f", deviations, deviations)
        squares = squares + np.square(delta) * self.number * weight
        return Moments(total, self.mean + delta * weight, squares)

    @property
    def std(self) -> np.ndarray:
        """The standard deviation; 1 for a constant feature."""
        std = np.sqrt(self.squares / np.maximum(self.number, 1))
        # Rounding alone gives a constant a small one.
        return np.where(std > 1e-6 * np.abs(self.mean), std, 1.0)


def _check_values(
    sequences: Sequences, values: np.ndarray, start: int, missing: str
) -> None:
    found = find_invalid(values, missing)
    if found is None:
        return
    (index, time, feature), reason = found
    index += start
    name = index if sequences.ids is None else shown(sequences.ids[index])
    raise UserError(
        f"{sequences.source}: the value of sequence {name} at time step {time}, "
        f"feature {sequences.feature_names[feature]}, {reason}"
    )


def _labels_of(sequences: Sequences, trained: Task) -> np.ndarray:
    """Returns the labels as indices of the classes that a network was trained on."""
    check_features(sequences, trained)
    if unknown := set(sequences.classes) - set(trained.classes):
        raise UserError(
            f"{sequences.source}: the network was not trained on class {min(unknown)}; "
            f"its classes are {', '.join(trained.classes)}"
        )
    order = [trained.classes.index(name) for name in sequences.classes]
    return np.array(order, np.int32)[sequences.labels]


def check_features(sequences: Sequences, trained: Task) -> None:
    """Checks that sequences have the features on which a network was trained."""
    names = sequences.feature_names
    if len(names) != trained.features:
        raise UserError(
            f"{sequences.source}: has {len(names)} features, and the network "
            f"{trained.features}"
        )
    default = tuple(map(str, range(len(names))))
    if default not in (names, trained.feature_names) and names != trained.feature_names:
        raise UserError(
            f"{sequences.source}: has the features {', '.join(names)}, and the network "
            f"was trained on {', '.join(trained.feature_names)}; use the same order"
        )
