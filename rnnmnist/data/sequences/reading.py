"""Reads user sequences and turns them into a data set."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.lib.npyio import NpzFile
from numpy.typing import ArrayLike

from rnnmnist.config.functions import Function, short_name
from rnnmnist.config.schema import Config, DataConfig
from rnnmnist.config.settings import expand_path
from rnnmnist.config.tasks import Task
from rnnmnist.data.examples import (
    Dataset,
    Examples,
    Normalization,
    select_columns,
)
from rnnmnist.data.sequences.checking import (
    Sequences,
    are_named,
    check_arrays,
    require_features,
)
from rnnmnist.data.sequences.moments import Moments
from rnnmnist.data.sequences.tables import read_csv, read_parquet, read_stream
from rnnmnist.data.sequences.ts import read_ts
from rnnmnist.errors import (
    UserError,
    errors_as_failures,
    format_value,
    prefix_errors,
    suggest_name,
    warn_about_data,
)

SEQUENCE_FORMATS = (
    "a .npz, .ts, .csv, .csv.gz or .parquet file, or a folder of .npy files"
)
ARRAYS = ("inputs", "labels", "lengths", "split", "groups", "feature_names", "ids")
SAVE_AGAIN = (
    "save it again, with strings converted by .astype(str)"  # object arrays are pickled
)
READABLE = (
    "save it again; a .csv file needs UTF-8, the same number of cells in each row, all "
    "quotes closed, quotes around text that contains a comma, and, only if it is "
    "compressed, the name .csv.gz"
)
ONE_TYPE = (
    "pass a table whose columns have distinct names and one type each; with "
    ".astype(str), the error names the row"
)


def read_folder(path: Path) -> dict[str, Any]:
    """Opens the arrays of a folder as read-only memory maps."""
    found = {}
    for file in path.glob("*.npy"):
        with prefix_errors(file.stem, SAVE_AGAIN):
            found[file.stem] = np.load(file, mmap_mode="r", allow_pickle=False)
    return _load_arrays(found)


def _load_arrays(found: Mapping[str, ArrayLike]) -> dict[str, Any]:
    """Validates the names of arrays, then loads them; archives load on access."""
    for name in found:
        if name not in ARRAYS:
            remedy = suggest_name(name, ARRAYS, f"the arrays are {', '.join(ARRAYS)}")
            raise UserError(f"contains an unknown array {format_value(name)}; {remedy}")
    if "inputs" not in found:
        raise UserError(
            "contains no array 'inputs'; save the sequences under this name, or name a "
            "single file, a table with a column for the sequence"
        )
    arrays = {}
    for name in found:
        with prefix_errors(name, SAVE_AGAIN):
            arrays[name] = found[name]
    return arrays


def read(
    path: Path,
    roles: Mapping[str, str] = {},
    selected: Sequence[str] = (),
    *,
    pair: bool = True,
) -> Sequences:
    """Reads sequences from a file or folder in any supported format.

    Args:
        path: the file or folder.
        roles: the roles of a table's columns, as in `DataConfig`.
        selected: the names of the features to read, in order; empty: all.
        pair: whether to read both files if `path` is NAME_TRAIN.ts or NAME_TEST.ts.
    """
    path.stat()  # raises an error if the path does not exist
    suffix = "folder" if path.is_dir() else path.suffix.lower()
    with prefix_errors(path, READABLE):
        match suffix:
            case "folder":
                arrays = read_folder(path)
            case ".npz":
                # If the file is not an archive, `np.load` would suggest unpickling it.
                with (
                    path.open("rb") as stream,
                    NpzFile(stream, allow_pickle=False) as file,
                ):
                    arrays = _load_arrays(file)
            case ".ts":
                arrays = read_ts(path, pair=pair)
            case ".csv" | ".gz":
                arrays = read_csv(path, roles, selected)
            case ".parquet":
                arrays = read_parquet(path, roles, selected)
            case _:
                raise UserError(f"has an unknown format; name {SEQUENCE_FORMATS}")
        return select_features(check_arrays(**arrays), selected)


def read_function(function: Function, selected: Sequence[str] = ()) -> Sequences:
    """Reads sequences from a user-defined function.

    The function returns a dictionary with the same arrays as a folder. Memory maps are
    not copied.
    """
    with function.wrap_errors():
        found = dict(function())
    with prefix_errors(f"data.path: {short_name(function)}"):
        arrays = _load_arrays(found)
        return select_features(check_arrays(**arrays), selected)


def read_memory(
    inputs: ArrayLike,
    roles: Mapping[str, str] = {},
    selected: Sequence[str] = (),
    **arrays: Any,
) -> Sequences:
    """Reads sequences from arrays, or from a table that exports an Arrow stream."""
    if hasattr(inputs, "__arrow_c_stream__"):
        for name, values in arrays.items():
            if values is not None:
                raise UserError(
                    f"{name}: must be a column of the table; remove {name}, or pass a "
                    "table with one row for each sequence as .to_numpy()"
                )
        with prefix_errors("inputs", ONE_TYPE):
            arrays = read_stream(inputs, roles, selected)
    else:
        arrays["inputs"] = inputs
    sequences = check_arrays(**arrays)
    with prefix_errors("inputs"):
        return select_features(sequences, selected)


@errors_as_failures()
def read_sequences(
    source: str | Path | ArrayLike,
    columns: str | Mapping[str, str] | None = None,
) -> tuple[
    list[np.ndarray], np.ndarray | None, np.ndarray | None, tuple[str, ...] | None
]:
    """Reads labelled or unlabelled sequences for use with scikit-learn.

    >>> import pandas, rnnmnist
    >>> table = {"sequence": ["a", "a", "b"], "time": [0, 1, 0], "voltage": [0.1, 2, 3]}
    >>> X, y, groups, ids = rnnmnist.read_sequences(pandas.DataFrame(table))
    >>> [x.shape for x in X], y, ids
    ([(2, 1), (1, 1)], None, ('a', 'b'))

    Args:
        source: the path of a file or folder in a format of `data.path`, or a table that
            `rnnmnist.fit` accepts. Splits are ignored.
        columns: the setting `data.columns`, if the columns of a table have other names,
            or a mapping such as `{"sequence": "recording", "label": "activity"}`.

    Returns:
        X, a list of real arrays [time, features]; y, the class names, str [n]; groups,
        int or str [n]; and ids, strings. All except X are None if the source has none.

    Raises:
        UserError: if the source is invalid or cannot be read.
    """
    roles = Config().replace({"data.columns": columns}).data.roles
    if isinstance(source, str | Path):
        sequences = read(expand_path(str(source)), roles)
    else:
        sequences = read_memory(source, roles)
    _check_roles(sequences, roles)
    padded = zip(sequences.inputs, sequences.lengths, strict=True)
    inputs = [values[:length] for values, length in padded]
    y = sequences.to_arrays().get("labels")
    return inputs, y, sequences.groups, sequences.ids


def to_dataset(
    name: str, sequences: Sequences, config: Config, trained: Task | None = None
) -> Dataset:
    """Validates the values of labelled sequences, and divides them into splits.

    Args:
        name: the name of the data set.
        sequences: labelled sequences.
        config: the configuration of the run.
        trained: None for training. Otherwise, the task of a trained network, which may
            be an image task; the sequences get its normalization and classes. If they
            are the training data of that task, they also get its splits.

    Returns:
        A data set. `Task.time_steps` is the maximum length in the training and
        validation splits. Other splits can be longer.
    """
    data = config.data
    if sequences.labels is None:
        raise UserError(
            "labels: are missing; add an array 'labels', @classLabel with labels, or a "
            "column 'label' (or name another with data.columns=label=NAME); in Python, "
            "pass labels"
        )
    if trained is None:
        _check_roles(sequences, data.roles)
        splits = sequences.training_splits(data.validation, config.seed)
        task = _prepare_training(sequences, splits, data)
    else:
        sequences = _map_labels(sequences, trained)
        sha256 = check_and_hash_values(
            sequences, Normalization.create(trained, data.missing)
        )
        splits = sequences.given_splits("test")
        if sha256 == trained.sha256:
            splits = sequences.training_splits(data.validation, config.seed)
        task = replace(trained, sha256=sha256)
    digests = hash_sequences(sequences)
    if trained is None:
        _warn_of_splits(sequences, splits, digests)
    validation_groups: tuple[str, ...] = ()
    if sequences.groups is not None:
        held_out = np.unique(sequences.groups[splits["validation"]])
        validation_groups = tuple(map(str, held_out))
    task = replace(
        task,
        name=name.removesuffix("_TRAIN").removesuffix("_TEST"),
        examples={split: len(indices) for split, indices in splits.items()},
        feature_names=sequences.feature_names,
        validation_groups=validation_groups,
    )
    normalization = None
    if task.image_shape is None:  # otherwise, the trained task has images
        normalization = Normalization.create(task, data.missing)
    examples = {}
    for split, indices in splits.items():
        lengths = sequences.lengths[indices]
        time_steps = lengths.max(initial=task.time_steps)
        all_examples = Examples(
            sequences.inputs[:, :time_steps],
            sequences.lengths if (lengths < time_steps).any() else None,
            normalization=normalization,
            ids=sequences.ids,
            columns=sequences.columns,
            labels=np.asarray(sequences.labels),
            groups=sequences.groups,
            digests=digests,
        )
        examples[split] = all_examples.select(indices)
    return Dataset(task, examples)


def _prepare_training(
    sequences: Sequences, splits: Mapping[str, np.ndarray], config: DataConfig
) -> Task:
    """Creates the task of training sequences, with normalization and SHA-256.

    Invalid values raise a `UserError`, and suspicious values cause a warning.
    """
    fitted = np.concatenate([splits["train"], splits["validation"]])
    task = Task(
        "",
        int(sequences.lengths[fitted].max()),
        len(sequences.feature_names),
        sequences.classes,
        {},
    )
    moments = Moments(sequences, splits["train"])
    if config.normalize != "none":
        mean, std, delta_std = moments.normalization
        task = replace(task, mean=mean, std=std, delta_std=delta_std)
    sha256 = check_and_hash_values(
        sequences, Normalization.create(task, config.missing)
    )
    _warn_of_values(sequences, moments)
    return replace(task, sha256=sha256)


def _map_labels(sequences: Sequences, trained: Task) -> Sequences:
    """Replaces the labels with indices into the classes of a trained task."""
    unknown = set(sequences.classes) - set(trained.classes)
    if unknown:
        raise UserError(
            f"the network was not trained on class {min(unknown)}; its classes are "
            f"{', '.join(trained.classes)}"
        )
    order = [trained.classes.index(name) for name in sequences.classes]
    labels = np.array(order, np.int32)[sequences.labels]
    return replace(sequences, labels=labels, classes=trained.classes)


def hash_sequences(sequences: Sequences) -> np.ndarray:
    """Hashes the values of each sequence; returns str [examples].

    Equal values have equal hashes, regardless of their type.
    """
    digests = []
    for values, length in zip(sequences.inputs, sequences.lengths, strict=True):
        read = select_columns(values[:length], sequences.columns)
        # Adding 0 turns negative zeros into positive ones.
        content = (read.astype(np.float64) + 0.0).tobytes()
        digests.append(hashlib.blake2b(content, digest_size=8).hexdigest())
    return np.array(digests)


def _warn_of_splits(
    sequences: Sequences, splits: Mapping[str, np.ndarray], digests: np.ndarray
) -> None:
    classes, labels = np.array(sequences.classes), np.asarray(sequences.labels)
    for name in ("train", "validation"):
        present = labels[splits[name]]
        absent = np.delete(classes, present)
        if len(present) and len(absent):
            warn_about_data(
                f"the {name} split has no sequences of these classes: "
                f"{', '.join(absent)[:200]}"
            )
    shared = {"are equal to sequences": digests}
    if sequences.groups is not None:
        shared["belong to groups"] = sequences.groups
    for relation, values in shared.items():
        seen = values[splits["train"]]
        for name in ("validation", "test"):
            own = values[splits[name]]
            number = int(np.isin(own, seen).sum())
            if number:
                warn_about_data(
                    f"{number:,} of {len(own):,} {name} sequences {relation} of "
                    "another split, so the accuracy may not hold for new ones; keep "
                    "equal sequences, and each group, in one split"
                )
            seen = np.concatenate([seen, own])


# Warns about clocks, counters, constants, and features without training values.
def _warn_of_values(sequences: Sequences, moments: Moments) -> None:
    names = np.array(sequences.feature_names)
    is_linear = moments.has_constant_delta
    if is_linear.any() and not is_linear.all():
        warn_about_data(
            "features that change by the same amount at every time step, or never, "
            "like a clock, a counter or the number of a subject: "
            f"{', '.join(names[is_linear])[:200]}; exclude them with data.features, or "
            "give the subject's column the role groups"
        )
    if moments.is_constant.all():
        warn_about_data(
            "every feature is constant over all training sequences, up to rounding, so "
            "no network can tell them apart; scale up tiny values"
        )
    is_empty = moments.count[0] == 0
    if is_empty.any():
        warn_about_data(
            "features without a value in training: "
            f"{', '.join(names[is_empty])[:200]}; exclude them with data.features"
        )


def _check_roles(sequences: Sequences, roles: Mapping[str, str]) -> None:
    for name, role in roles.items():
        array = {"label": "labels"}.get(role, role)
        if getattr(sequences, array, ()) is None:
            raise UserError(
                f"data.columns: {role}={name} names no column; remove or correct it"
            )


def check_and_hash_values(sequences: Sequences, normalization: Normalization) -> str:
    """Validates and hashes all values, in blocks to limit memory.

    Returns:
        The SHA-256 over the values, labels, lengths, splits, groups and classes.
    """
    lengths = sequences.lengths
    arrays = (sequences.labels, lengths, sequences.split, sequences.groups)
    header = [None if array is None else array.tolist() for array in arrays]
    digest = hashlib.sha256(json.dumps([header, sequences.classes]).encode())
    # This type keeps the precision of the file.
    dtype = np.result_type(sequences.inputs.dtype, np.float32)
    for block, is_read, values in sequences.read_blocks(np.arange(len(lengths))):
        rows = values.astype(dtype)
        invalid = normalization.find_invalid(rows)
        if invalid is not None:
            (row, feature), reason = invalid
            position, time = np.argwhere(is_read)[row]
            index = block[position]
            ids = sequences.ids
            name = index if ids is None else format_value(ids[index])
            raise UserError(
                f"the value of sequence {name} at time step {time}, feature "
                f"{sequences.feature_names[feature]}, {reason}"
            )
        digest.update(rows)
    return digest.hexdigest()


def select_features(sequences: Sequences, selected: Sequence[str]) -> Sequences:
    """Selects features, in the given order; if `selected` is empty, keeps all.

    Named features are selected by name, and the rest are dropped. Unnamed features are
    identified by position, so their number must match.
    """
    names = sequences.feature_names
    if not selected or tuple(selected) == names:
        return sequences
    is_named = are_named(names) and are_named(selected)
    if is_named or sorted(selected) == sorted(names):
        require_features(names, selected)
        # Columns are selected when values are read, so that memory maps are not copied.
        columns = np.array([names.index(name) for name in selected])
        return replace(sequences, columns=columns, feature_names=tuple(selected))
    if len(names) != len(selected):
        raise UserError(
            f"must have the features {format_value(selected)} ({len(selected)}), which "
            "data.features or the network requires, not "
            f"{format_value(names)} ({len(names)}); pass these, with feature_names; in "
            "Python, pass inputs[None] for a single sequence"
        )
    return replace(sequences, feature_names=tuple(selected))
