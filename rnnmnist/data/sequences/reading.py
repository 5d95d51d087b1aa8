"""Reads a user's sequences, and makes a data set of them."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.lib.npyio import NpzFile
from numpy.typing import ArrayLike

from rnnmnist.config.functions import Function, label
from rnnmnist.config.schema import Config, DataConfig
from rnnmnist.config.settings import expand
from rnnmnist.config.tasks import Task
from rnnmnist.data.examples import (
    Dataset,
    Examples,
    Normalization,
    select_columns,
)
from rnnmnist.data.sequences.checking import (
    Sequences,
    are_names,
    check_arrays,
    refuse_absent_features,
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
    warn_of_data,
)

SEQUENCE_FORMATS = (
    "a .npz, .ts, .csv, .csv.gz or .parquet file, or a folder of .npy files"
)
ARRAYS = ("inputs", "labels", "lengths", "split", "groups", "feature_names", "ids")
SAVE_AGAIN = "save it again, with strings converted by .astype(str)"  # not as objects
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
    """Reads the arrays of a folder as read-only memory maps."""
    found = {}
    for file in path.glob("*.npy"):
        with prefix_errors(file.stem, SAVE_AGAIN):
            found[file.stem] = np.load(file, mmap_mode="r", allow_pickle=False)
    return _load_arrays(found)


def _load_arrays(found: Mapping[str, ArrayLike]) -> dict[str, Any]:
    """Checks the names of arrays, of which an archive loads each when it is read."""
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
    wanted: Sequence[str] = (),
    *,
    pair: bool = True,
) -> Sequences:
    """Reads a file or a folder of sequences in any format.

    `roles` are those of `DataConfig`, for a table. The sequences have the `wanted`
    features, or all if there are none. With `pair`, each of NAME_TRAIN.ts and
    NAME_TEST.ts stands for both files.
    """
    path.stat()  # raises if it does not exist
    suffix = "folder" if path.is_dir() else path.suffix.lower()
    with prefix_errors(path, READABLE):
        match suffix:
            case "folder":
                arrays = read_folder(path)
            case ".npz":
                # Of a file that is no archive, `np.load` would suggest to unpickle it.
                with (
                    path.open("rb") as stream,
                    NpzFile(stream, allow_pickle=False) as file,
                ):
                    arrays = _load_arrays(file)
            case ".ts":
                arrays = read_ts(path, pair=pair)
            case ".csv" | ".gz":
                arrays = read_csv(path, roles, wanted)
            case ".parquet":
                arrays = read_parquet(path, roles, wanted)
            case _:
                raise UserError(f"has an unknown format; name {SEQUENCE_FORMATS}")
        return select_features(check_arrays(**arrays), wanted)


def read_function(function: Function, wanted: Sequence[str] = ()) -> Sequences:
    """Reads the sequences that a function of the user returns.

    It returns a dictionary of the arrays that a folder has, by their names. Arrays that
    are memory maps stay maps.
    """
    with function.errors():
        found = dict(function())
    with prefix_errors(f"data.path: {label(function)}"):
        arrays = _load_arrays(found)
        return select_features(check_arrays(**arrays), wanted)


def read_memory(
    inputs: ArrayLike,
    roles: Mapping[str, str] = {},
    wanted: Sequence[str] = (),
    **arrays: Any,
) -> Sequences:
    """Checks arrays, or a table with the Arrow stream, as `read` checks a file."""
    if hasattr(inputs, "__arrow_c_stream__"):
        for name, values in arrays.items():
            if values is not None:
                raise UserError(
                    f"{name}: must be a column of the table; remove {name}, or pass a "
                    "table with one row for each sequence as .to_numpy()"
                )
        with prefix_errors("inputs", ONE_TYPE):
            arrays = read_stream(inputs, roles, wanted)
    else:
        arrays["inputs"] = inputs
    sequences = check_arrays(**arrays)
    with prefix_errors("inputs"):
        return select_features(sequences, wanted)


@errors_as_failures()
def read_sequences(
    source: str | Path | ArrayLike,
    columns: str | Mapping[str, str] | None = None,
) -> tuple[
    list[np.ndarray], np.ndarray | None, np.ndarray | None, tuple[str, ...] | None
]:
    """Reads labelled or unlabelled sequences for the tools of scikit-learn.

    >>> import pandas, rnnmnist
    >>> table = {"sequence": ["a", "a", "b"], "time": [0, 1, 0], "voltage": [0.1, 2, 3]}
    >>> X, y, groups, ids = rnnmnist.read_sequences(pandas.DataFrame(table))
    >>> [x.shape for x in X], y, ids
    ([(2, 1), (1, 1)], None, ('a', 'b'))

    Args:
        source: a path in one of the formats of `data.path`, or a table in memory, as
            `rnnmnist.fit` takes it. Splits are not used.
        columns: the setting `data.columns`, for a table with other names, or a mapping
            such as `{"sequence": "recording", "label": "activity"}`.

    Returns:
        X, a list of real arrays [time, features]; y, strings [n], the classes; groups,
        integers or strings [n]; and ids, strings. Each is None if the source has none.

    Raises:
        UserError: if the source is invalid, or a file cannot be read.
    """
    roles = Config().replace({"data.columns": columns}).data.roles
    if isinstance(source, str | Path):
        sequences = read(expand(str(source)), roles)
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
    """Checks the values of labelled sequences, and divides them into splits.

    They are for training, or have the normalization and classes of a trained task,
    which can be of images. The sequences of that training have the splits that they had
    there. `Task.time_steps` follows from the training and validation splits alone.
    Another split is longer if it has longer sequences.
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
        sequences = _adapt(sequences, trained)
        sha256 = read_values(sequences, Normalization.create(trained, data.missing))
        splits = sequences.split_as_given("test")
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
    if task.image_shape is None:  # else these are images of a trained task
        normalization = Normalization.create(task, data.missing)
    examples = {}
    for split, indices in splits.items():
        lengths = sequences.lengths[indices]
        time_steps = lengths.max(initial=task.time_steps)
        of_all_splits = Examples(
            sequences.inputs[:, :time_steps],
            sequences.lengths if (lengths < time_steps).any() else None,
            normalization=normalization,
            ids=sequences.ids,
            columns=sequences.columns,
            labels=np.asarray(sequences.labels),
            groups=sequences.groups,
            digests=digests,
        )
        examples[split] = of_all_splits.select(indices)
    return Dataset(task, examples)


def _prepare_training(
    sequences: Sequences, splits: Mapping[str, np.ndarray], config: DataConfig
) -> Task:
    """Checks the values of labelled sequences for training, and warns of odd ones.

    Returns a task with their normalization and SHA-256.
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
        mean, std, changes = moments.normalization
        task = replace(task, mean=mean, std=std, delta_std=changes)
    sha256 = read_values(sequences, Normalization.create(task, config.missing))
    _warn_of_values(sequences, moments)
    return replace(task, sha256=sha256)


def _adapt(sequences: Sequences, trained: Task) -> Sequences:
    """Returns labelled sequences with the classes of a trained task."""
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
    """Returns a hash of the values of each sequence, str [examples].

    Equal values have equal hashes, whichever type they have.
    """
    digests = []
    for values, length in zip(sequences.inputs, sequences.lengths, strict=True):
        read = select_columns(values[:length], sequences.columns)
        # The sum has no negative zeros.
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
            warn_of_data(
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
                warn_of_data(
                    f"{number:,} of {len(own):,} {name} sequences {relation} of "
                    "another split, so the accuracy may not hold for new ones; keep "
                    "equal sequences, and each group, in one split"
                )
            seen = np.concatenate([seen, own])


# Warns of clocks, counters, constants, and features without a value in training.
def _warn_of_values(sequences: Sequences, moments: Moments) -> None:
    names = np.array(sequences.feature_names)
    is_steady = moments.is_steady
    if is_steady.any() and not is_steady.all():
        warn_of_data(
            "features that change by the same amount at every time step, or never, "
            "like a clock, a counter or the number of a subject: "
            f"{', '.join(names[is_steady])[:200]}; exclude them with data.features, or "
            "give the subject's column the role groups"
        )
    if moments.is_constant.all():
        warn_of_data(
            "every feature is constant over all training sequences, up to rounding, so "
            "no network can tell them apart; scale up tiny values"
        )
    is_empty = moments.number[0] == 0
    if is_empty.any():
        warn_of_data(
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


def read_values(sequences: Sequences, normalization: Normalization) -> str:
    """Reads and checks all values, a part at a time.

    Returns the SHA-256 of the sequences with their labels, lengths, splits and groups.
    """
    lengths = sequences.lengths
    arrays = (sequences.labels, lengths, sequences.split, sequences.groups)
    header = [None if array is None else array.tolist() for array in arrays]
    digest = hashlib.sha256(json.dumps([header, sequences.classes]).encode())
    # This type keeps all digits of the file.
    dtype = np.result_type(sequences.inputs.dtype, np.float32)
    for part, is_value, values in sequences.read_parts(np.arange(len(lengths))):
        rows = values.astype(dtype)
        invalid = normalization.find_invalid(rows)
        if invalid is not None:
            (row, feature), reason = invalid
            position, time = np.argwhere(is_value)[row]
            index = part[position]
            ids = sequences.ids
            name = index if ids is None else format_value(ids[index])
            raise UserError(
                f"the value of sequence {name} at time step {time}, feature "
                f"{sequences.feature_names[feature]}, {reason}"
            )
        digest.update(rows)
    return digest.hexdigest()


def select_features(sequences: Sequences, wanted: Sequence[str]) -> Sequences:
    """Returns sequences with the wanted features, if there are any, in their order.

    Features with names are taken by them, and others are left out. Features without
    names, which are numbered, must have the same number and order.
    """
    names = sequences.feature_names
    if not wanted or tuple(wanted) == names:
        return sequences
    is_named = are_names(names) and are_names(wanted)
    if is_named or sorted(wanted) == sorted(names):
        refuse_absent_features(names, wanted)
        # A memory map is not copied: the columns are selected where values are read.
        columns = np.array([names.index(name) for name in wanted])
        return replace(sequences, columns=columns, feature_names=tuple(wanted))
    if len(names) != len(wanted):
        raise UserError(
            f"must have the features {format_value(wanted)} ({len(wanted)}), which "
            "data.features or the network requires, not "
            f"{format_value(names)} ({len(names)}); pass these, with feature_names; in "
            "Python, pass inputs[None] for a single sequence"
        )
    return replace(sequences, feature_names=tuple(wanted))
