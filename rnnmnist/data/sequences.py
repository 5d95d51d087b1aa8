"""Data sets from files of users: splits, statistics and checks of the values."""

import dataclasses
import functools
import glob
import hashlib
import json
from pathlib import Path
from typing import NamedTuple

import numpy as np

from rnnmnist.config.schema import DataConfig
from rnnmnist.config.tasks import SplitSizes, Task
from rnnmnist.data import files
from rnnmnist.data.examples import (
    SPLITS,
    Dataset,
    Examples,
    Normalization,
    find_invalid,
    padding,
)
from rnnmnist.data.files import Sequences
from rnnmnist.errors import UserError, shown

VALIDATION_EVERY = 10  # of the training sequences of a class, where no split is given
CHUNK_BYTES = 1 << 24  # of the values that are checked at a time


@dataclasses.dataclass(frozen=True, eq=False)
class LabelledSequences:
    """Sequences with labels, divided into splits, before their values are read."""

    path: Path
    sequences: Sequences
    labels: np.ndarray  # int32 [examples]

    @classmethod
    def create(cls, path: Path, sequences: Sequences) -> "LabelledSequences":
        """Takes sequences of a file, or those that will be saved in it."""
        if sequences.labels is None:
            raise UserError(f"{path}: the sequences have no labels")
        return cls(path, sequences, sequences.labels)

    @functools.cached_property
    def splits(self) -> dict[str, np.ndarray]:
        """The indices of each split's sequences, for training.

        Without a validation split, every tenth training sequence of each class is
        validation (the last one of a smaller class), in the order of the file.
        """
        splits = self.given_splits("train")
        if len(splits["validation"]):
            return splits
        train = splits["train"]
        held_out = []
        for label in np.unique(self.labels):
            own = train[self.labels[train] == label]
            if len(own) > 1:
                first = min(VALIDATION_EVERY, len(own)) - 1
                held_out.append(own[first::VALIDATION_EVERY])
        if not held_out:
            raise UserError(
                f"{self.path}: needs a class with at least two training sequences, one "
                "of them for validation; add sequences or mark the validation split"
            )
        validation = np.sort(np.concatenate(held_out))
        train = np.setdiff1d(train, validation)
        return splits | {"train": train, "validation": validation}

    def given_splits(self, default: str) -> dict[str, np.ndarray]:
        """Returns the splits of the file; without any, all sequences are in one."""
        given = self.sequences.splits
        if given is None:
            given = np.full(len(self.labels), default)
        return {name: np.flatnonzero(given == name) for name in SPLITS}

    def task(self, splits: dict[str, np.ndarray]) -> Task:
        """Returns the task, without what depends on the values."""
        _, time_steps, features = self.sequences.inputs.shape
        return Task(
            name=self.path.stem.removesuffix("_TRAIN").removesuffix("_TEST"),
            time_steps=time_steps,
            features=features,
            classes=self.sequences.classes,
            examples=SplitSizes(**{k: len(indices) for k, indices in splits.items()}),
            feature_names=self.sequences.feature_names,
        )


def read_task(config: DataConfig) -> Task:
    """Returns the task of the sequences in `data.path`."""
    file = open_file(config)
    return file.task(file.splits)


def load(config: DataConfig, trained: Task | None = None) -> Dataset:
    """Loads the sequences in `data.path`, and checks all values.

    Normalization and order of classes are those of a trained network's task; without
    one, they are computed.
    """
    return _load(open_file(config, labelled=trained is None), config, trained)


@functools.lru_cache(maxsize=2)  # a command can need the same sequences repeatedly
def _load(file: LabelledSequences, config: DataConfig, trained: Task | None) -> Dataset:
    if trained is None:
        splits = file.splits
        labels = file.labels
        classes = file.sequences.classes
        sha256, mean, std = read_statistics(file, config)
    else:
        labels = _labels_of(file, trained)
        classes = trained.classes
        sha256, _, _ = read_statistics(file, config, moments=False)
        mean, std = trained.mean, trained.std
        same = sha256 == trained.sha256
        splits = file.splits if same else file.given_splits("test")
    task = dataclasses.replace(
        file.task(splits), classes=classes, sha256=sha256, mean=mean, std=std
    )
    normalization = Normalization.create(task, config.missing)
    lengths = file.sequences.lengths
    return Dataset(
        task,
        {
            name: Examples(
                file.sequences.inputs,
                labels[indices],
                None if lengths is None else lengths[indices],
                indices,
                normalization,
            )
            for name, indices in splits.items()
        },
    )


def open_file(config: DataConfig, *, labelled: bool = True) -> LabelledSequences:
    """Reads the headers and labels of `data.path`; `labelled` is as in `files.read`."""
    if config.path is None:
        raise UserError(
            "data.path: name your sequences with data.path=PATH, a .npz, .ts or .csv "
            "file or a folder of .npy files"
        )
    path = Path(config.path)
    return _read(path, labelled, _state(path))


@functools.lru_cache(maxsize=2)  # a command needs the task first, then the arrays
def _read(path: Path, labelled: bool, state: object) -> LabelledSequences:
    del state  # of the files, for which the result is valid
    return LabelledSequences.create(path, files.read(path, labelled=labelled))


def _state(path: Path) -> object:
    """Returns what changes when a file of a folder or of a pair is written."""
    if path.is_dir():
        parts = [*path.iterdir()]
    else:
        name = path.stem.removesuffix("_TRAIN").removesuffix("_TEST")
        parts = [*path.parent.glob(f"{glob.escape(name)}*{glob.escape(path.suffix)}")]
    stats = [(part, part.stat()) for part in sorted(parts) if part.is_file()]
    return tuple((part, s.st_size, s.st_mtime_ns, s.st_ino) for part, s in stats)


def forget_files() -> None:
    """Closes the files that are kept for further calls."""
    _read.cache_clear()
    _load.cache_clear()


def read_statistics(
    file: LabelledSequences, config: DataConfig, *, moments: bool = True
) -> tuple[str, tuple[float, ...] | None, tuple[float, ...] | None]:
    """Reads and checks all values.

    Returns:
        The SHA-256 of the sequences with their labels, lengths and splits; mean and
        standard deviation of each feature over the training sequences, None without
        `moments` or with `data.normalize=none`.
    """
    sequences = file.sequences
    lengths = sequences.lengths
    examples, time_steps, features = sequences.inputs.shape
    # The type of the file, so that no digit is lost; not a column-major order.
    dtype = np.result_type(sequences.inputs.dtype, np.float32).newbyteorder("<")
    header = [sequences.inputs.shape, sequences.classes]
    digest = hashlib.sha256(json.dumps(header).encode())
    for indices in (file.labels, *file.given_splits("train").values()):
        digest.update(indices.astype("<i8").tobytes())
    if lengths is not None:
        digest.update(lengths.astype("<i8").tobytes())
    is_training = np.zeros(examples, bool)
    moments &= config.normalize != "none"
    if moments:
        is_training[file.splits["train"]] = True
    total = Moments.zeros(features)
    size = max(1, CHUNK_BYTES // (time_steps * features * 8))
    for start in range(0, examples, size):
        part = slice(start, start + size)
        chunk = sequences.inputs[part].astype(dtype, order="C")
        padded = slice(0) if lengths is None else padding(time_steps, lengths[part])
        chunk[padded] = 0
        digest.update(chunk.data)
        _check_values(file, chunk, start, config.missing)
        chunk[padded] = np.nan  # `Moments` leaves NaN out
        total = total.add(chunk[is_training[part]].reshape(-1, features))
    if not moments:
        return digest.hexdigest(), None, None
    return digest.hexdigest(), tuple(total.mean.tolist()), tuple(total.std.tolist())


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
    file: LabelledSequences, values: np.ndarray, start: int, missing: str
) -> None:
    found = find_invalid(values, missing)
    if found is None:
        return
    (index, time, feature), reason = found
    ids = file.sequences.ids
    name = start + index if ids is None else shown(ids[start + index])
    raise UserError(
        f"{file.path}: the value of sequence {name} at time step {time}, feature "
        f"{file.sequences.feature_names[feature]}, {reason}"
    )


def _labels_of(file: LabelledSequences, trained: Task) -> np.ndarray:
    """Returns the labels as indices of the classes that a network was trained on."""
    check_features(file.path, file.sequences, trained)
    classes = file.sequences.classes
    if unknown := set(classes) - set(trained.classes):
        raise UserError(
            f"{file.path}: the network was not trained on class {min(unknown)}; its "
            f"classes are {', '.join(trained.classes)}"
        )
    order = np.array([trained.classes.index(name) for name in classes], np.int32)
    return order[file.labels]


def check_features(path: Path, sequences: Sequences, trained: Task) -> None:
    """Checks that sequences have the features on which a network was trained."""
    names = sequences.feature_names
    if len(names) != trained.features:
        raise UserError(
            f"{path}: has {len(names)} features, and the network {trained.features}"
        )
    default = tuple(map(str, range(len(names))))
    if default not in (names, trained.feature_names) and names != trained.feature_names:
        raise UserError(
            f"{path}: has the features {', '.join(names)}, and the network was trained "
            f"on {', '.join(trained.feature_names)}; use the same order"
        )
