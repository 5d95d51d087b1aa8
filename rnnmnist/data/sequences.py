"""Data sets from files of users: splits, statistics and checks of the values."""

import dataclasses
import functools
import hashlib
import json
from pathlib import Path
from typing import NamedTuple

import numpy as np

from rnnmnist.config.schema import DataConfig
from rnnmnist.config.tasks import SplitSizes, Task
from rnnmnist.data import files
from rnnmnist.data.examples import SPLITS, Dataset, Examples, Normalization, padding
from rnnmnist.data.files import Sequences
from rnnmnist.errors import UserError

VALIDATION_EVERY = 10  # of the training sequences of a class, where no split is given
LARGEST = float(np.finfo(np.float32).max)
CHUNK_BYTES = 1 << 24  # of the values that are checked at a time


class File(NamedTuple):
    """The sequences of a file, and the indices of those in each split."""

    path: Path
    sequences: Sequences
    labels: np.ndarray  # int32 [examples]
    splits: dict[str, np.ndarray]  # int64

    @property
    def task(self) -> Task:
        """The task, without what only the values tell."""
        _, steps, features = self.sequences.inputs.shape
        return Task(
            name=self.path.stem.removesuffix("_TRAIN").removesuffix("_TEST"),
            steps=steps,
            features=features,
            classes=self.sequences.classes,
            examples=SplitSizes(**{k: len(part) for k, part in self.splits.items()}),
            feature_names=self.sequences.feature_names,
        )


def read_task(config: DataConfig) -> Task:
    """Returns the task of the sequences in `data.path`.

    Raises:
        UserError: if the path is missing or the file cannot be used.
    """
    return _open(config).task


def load(config: DataConfig, trained: Task | None = None) -> Dataset:
    """Loads the sequences in `data.path`, and checks all values.

    Args:
        config: the data set, and how it is normalized.
        trained: the task of a trained network, whose normalization and order of classes
            are used; None computes them.

    Raises:
        UserError: if the file cannot be used, a value is missing or infinite, or the
            sequences have other features or classes than the network's.
    """
    file = _open(config)
    task = _scan(file, config)
    labels, lengths = file.labels, file.sequences.lengths
    if trained is not None:
        labels = _labels_of(file, trained)
        task = dataclasses.replace(
            task, classes=trained.classes, mean=trained.mean, std=trained.std
        )
    normalization = Normalization.create(task, config.missing)
    splits = {
        name: Examples(
            file.sequences.inputs,
            labels[indices],
            None if lengths is None else lengths[indices],
            indices,
            normalization,
        )
        for name, indices in file.splits.items()
    }
    return Dataset(task, splits)


def _open(config: DataConfig) -> File:
    if config.path is None:
        raise UserError(
            "data.path: name your sequences with --config.data.path=PATH, a .npz, .ts "
            "or .csv file or a folder of .npy files"
        )
    path = Path(config.path)
    modified = path.stat().st_mtime_ns if path.exists() else 0
    return _read(path, modified)


@functools.lru_cache(maxsize=1)  # a command needs the task first, then the arrays
def _read(path: Path, modified: int) -> File:
    sequences = files.read(path)
    labels = sequences.labels
    if labels is None:
        raise UserError(f"{path}: the sequences have no labels")
    return File(path, sequences, labels, _split(path, labels, sequences.splits))


def _split(
    path: Path, labels: np.ndarray, given: np.ndarray | None
) -> dict[str, np.ndarray]:
    """Returns the indices of each split's sequences.

    Without a validation part, every tenth training sequence of each class is validation
    (the last one of a smaller class), in the order of the file.
    """
    if given is None:
        given = np.full(len(labels), "train")
    splits = {name: np.flatnonzero(given == name) for name in SPLITS}
    if not len(splits["validation"]):
        held_out = []
        for label in np.unique(labels):
            own = splits["train"][labels[splits["train"]] == label]
            if len(own) > 1:
                first = min(VALIDATION_EVERY, len(own)) - 1
                held_out.append(own[first::VALIDATION_EVERY])
        if not held_out:
            raise UserError(
                f"{path}: no class has two training sequences, of which one could be "
                "used for validation"
            )
        splits["validation"] = np.sort(np.concatenate(held_out))
        splits["train"] = np.setdiff1d(splits["train"], splits["validation"])
    return splits


def _scan(file: File, config: DataConfig) -> Task:
    """Reads all values once: checks them, and adds their SHA-256 and statistics."""
    sequences, splits = file.sequences, file.splits
    values, lengths = sequences.inputs, sequences.lengths
    examples, steps, features = values.shape
    dtype = np.result_type(values.dtype, np.float32).newbyteorder("<")
    digest = hashlib.sha256(json.dumps([values.shape, sequences.classes]).encode())
    for indices in (file.labels, *splits.values()):
        digest.update(indices.astype("<i8").tobytes())
    if lengths is not None:
        digest.update(lengths.astype("<i8").tobytes())
    is_training = np.zeros(examples, bool)
    is_training[splits["train"]] = True
    moments = Moments.zeros(features)
    size = max(1, CHUNK_BYTES // (steps * features * 8))
    for start in range(0, examples, size):
        part = slice(start, start + size)
        chunk = values[part].astype(dtype)
        if lengths is not None:
            chunk[padding(steps, lengths[part])] = 0
        digest.update(chunk.data)
        _check_values(file.path, chunk, start, sequences.feature_names, config.missing)
        if lengths is not None:
            chunk[padding(steps, lengths[part])] = np.nan  # not in the statistics
        moments = moments.add(chunk[is_training[part]].reshape(-1, features))
    task = dataclasses.replace(file.task, sha256=digest.hexdigest())
    if config.normalize == "none":
        return task
    mean, std = moments.mean.tolist(), moments.std.tolist()
    return dataclasses.replace(task, mean=tuple(mean), std=tuple(std))


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
        total, delta = self.number + number, mean - self.mean
        share = number / np.maximum(total, 1)
        squares = self.squares + np.einsum("nf,nf->f", deviations, deviations)
        squares = squares + np.square(delta) * self.number * share
        return Moments(total, self.mean + delta * share, squares)

    @property
    def std(self) -> np.ndarray:
        """The standard deviation; 1 for a constant feature."""
        std = np.sqrt(self.squares / np.maximum(self.number, 1))
        return np.where(std > 0, std, 1.0)


def _check_values(
    path: Path, values: np.ndarray, start: int, names: tuple[str, ...], missing: str
) -> None:
    if -LARGEST <= values.min() <= values.max() <= LARGEST:  # none of them is NaN
        return
    large = np.argwhere(np.abs(values) > LARGEST)
    if len(large):
        found, remedy = large[0], f"is larger than {LARGEST:.3g}; replace it"
    elif missing == "error":
        found = np.argwhere(np.isnan(values))[0]
        remedy = "is missing; set data.missing to forward_fill or zero"
    else:
        return
    sequence, step, feature = found.tolist()
    raise UserError(
        f"{path}: the value of sequence {start + sequence} at step {step}, feature "
        f"{names[feature]}, {remedy}"
    )


def _labels_of(file: File, trained: Task) -> np.ndarray:
    """Returns the labels as indices of the classes that a network was trained on."""
    task = file.task
    if task.features != trained.features:
        raise UserError(
            f"{file.path}: its sequences have {task.features} features, and those that "
            f"the network was trained on {trained.features}"
        )
    if unknown := set(task.classes) - set(trained.classes):
        raise UserError(
            f"{file.path}: the network was not trained on class {min(unknown)}; its "
            f"classes are {', '.join(trained.classes)}"
        )
    order = np.array([trained.classes.index(name) for name in task.classes], np.int32)
    return order[file.labels]
