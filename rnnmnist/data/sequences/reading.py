"""Reads user sequences and converts them to a data set."""

import hashlib
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.lib.npyio import NpzFile
from numpy.typing import ArrayLike

from rnnmnist.config.functions import Function, short_name
from rnnmnist.config.schema import Config
from rnnmnist.config.settings import expand_path
from rnnmnist.config.tasks import Task
from rnnmnist.data.examples import Dataset, Examples, Normalization
from rnnmnist.data.sequences.checking import (
    Sequences,
    check_arrays,
    has_custom_names,
    require_features,
)
from rnnmnist.data.sequences.moments import compute_moments
from rnnmnist.data.sequences.tables import read_csv, read_parquet, read_stream
from rnnmnist.data.sequences.ts import read_ts
from rnnmnist.errors import (
    UserError,
    convert_errors,
    format_value,
    prefix_errors,
    warn_about_data,
)

SEQUENCE_FORMATS = (
    "a .npz, .ts, .csv, .csv.gz or .parquet file, or a folder of .npy files"
)
ARRAYS = ("inputs", "labels", "lengths", "split", "groups", "feature_names", "ids")
ARRAY_HINT = (
    "save it again, with strings converted by .astype(str)"  # object arrays are pickled
)
FILE_HINT = (
    "save it again; a .csv file must be in UTF-8, separate cells with commas, have the "
    "same number of cells in each row, close all quotes, and quote text that contains "
    "a comma; only a compressed file can have the suffix .csv.gz"
)
TABLE_HINT = (
    "pass a table whose columns have distinct names and a single type each; to find "
    "the row with the error, convert the table with .astype(str)"
)


def _load_arrays(
    names: Iterable[str], load: Callable[[str], ArrayLike]
) -> dict[str, Any]:
    """Validates array names, then loads the arrays."""
    arrays: dict[str, Any] = dict.fromkeys(names)
    for name in arrays:
        if name not in ARRAYS:
            raise UserError(
                f"contains an unknown array {format_value(name)}; the arrays are "
                f"{', '.join(ARRAYS)}"
            )
    if "inputs" not in arrays:
        raise UserError(
            "contains no array 'inputs'; save the sequences under this name, or pass "
            "the path of a single table, with a sequence column"
        )
    for name in arrays:
        with prefix_errors(name, ARRAY_HINT):
            arrays[name] = load(name)
    return arrays


def read(
    path: Path,
    roles: Mapping[str, str] = {},
    features: Sequence[str] = (),
    *,
    both_splits: bool = True,
) -> Sequences:
    """Reads sequences from a file or folder in any supported format.

    Args:
        path: the file or folder.
        roles: maps column names of a table to roles, as in `DataConfig`.
        features: the names of the features to read, in order; empty: all.
        both_splits: whether to read both NAME_TRAIN.ts and NAME_TEST.ts if `path` is
            one of them.
    """
    path.stat()  # raises an error if the path does not exist
    suffix = "folder" if path.is_dir() else path.suffix.lower()
    with prefix_errors(path, FILE_HINT):
        match suffix:
            case "folder":
                files = {file.stem: file for file in path.glob("*.npy")}
                arrays = _load_arrays(
                    files,
                    lambda name: np.load(files[name], mmap_mode="r"),  # not copied
                )
            case ".npz":
                # If the file is not an archive, `np.load` would suggest unpickling it.
                with (
                    path.open("rb") as stream,
                    NpzFile(stream, allow_pickle=False) as file,
                ):
                    arrays = _load_arrays(file, file.__getitem__)
            case ".ts":
                arrays = read_ts(path, both_splits=both_splits)
            case ".csv" | ".gz":
                arrays = read_csv(path, roles, features)
            case ".parquet":
                arrays = read_parquet(path, roles, features)
            case _:
                raise UserError(f"has an unknown format; pass {SEQUENCE_FORMATS}")
        return select_features(check_arrays(**arrays), features)


def read_function(function: Function, features: Sequence[str] = ()) -> Sequences:
    """Reads sequences from a custom function.

    The function must return a dictionary with the same arrays as a folder. Memory maps
    are not copied.
    """
    with function.wrap_errors():
        source = dict(function())
    with prefix_errors(f"data.path: {short_name(function)}"):
        arrays = _load_arrays(source, source.__getitem__)
        return select_features(check_arrays(**arrays), features)


def read_memory(
    inputs: ArrayLike,
    roles: Mapping[str, str] = {},
    features: Sequence[str] = (),
    **arrays: Any,
) -> Sequences:
    """Reads sequences from arrays, or from a table that exports an Arrow stream."""
    if hasattr(inputs, "__arrow_c_stream__"):
        for name, values in arrays.items():
            if values is not None:
                raise UserError(
                    f"{name}: must be a column of the table, not an argument; if each "
                    "row is a whole sequence, pass the table as .to_numpy()"
                )
        with prefix_errors("inputs", TABLE_HINT):
            arrays = read_stream(inputs, roles, features)
    else:
        arrays["inputs"] = inputs
    sequences = check_arrays(**arrays)
    with prefix_errors("inputs"):
        return select_features(sequences, features)


@convert_errors()
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
        source: the path of a file or folder in a format that `data.path` accepts, or a
            table that `rnnmnist.fit` accepts. Splits are ignored.
        columns: column names of a table, as in the setting `data.columns`, or as a
            mapping such as `{"sequence": "recording", "label": "activity"}`.

    Returns:
        X, a list of numeric arrays [time, features]; y, the class names, str [n];
        groups, int or str [n]; and ids, strings. y, groups and ids are None if the
        source does not contain them.

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
    name: str, sequences: Sequences, config: Config, trained_task: Task | None = None
) -> Dataset:
    """Validates the values of labelled sequences, and creates their splits.

    Args:
        name: the name of the data set.
        sequences: labelled sequences.
        config: the configuration of the run.
        trained_task: the task (of images or sequences) of a trained network to
            evaluate; None for training. The sequences use the normalization and classes
            of this task. If they are its training data, they also use its splits.

    Returns:
        A data set. `Task.time_steps` is the maximum length in the training and
        validation splits. Other splits can be longer.
    """
    data = config.data
    if sequences.labels is None:
        raise UserError(
            "labels: are missing; add an array 'labels', labels with a @classLabel "
            "line, or a column 'label' (for another column, set "
            "data.columns=label=NAME); in Python, pass labels"
        )
    if trained_task is None:
        _check_roles(sequences, data.roles)
        splits = sequences.training_splits(data.validation, config.seed)
        indices = np.concatenate([splits["train"], splits["validation"]])
        time_steps = int(sequences.lengths[indices].max())
        features = len(sequences.feature_names)
        task = Task(name, time_steps, features, sequences.classes, {})
        if data.normalize != "none":
            moments = compute_moments(sequences, splits["train"])
            mean, std, delta_std = (tuple(array.tolist()) for array in moments)
            task = replace(task, mean=mean, std=std, delta_std=delta_std)
    else:
        sequences = _map_labels(sequences, trained_task)
        splits = sequences.split_indices("test")
        task = trained_task
    normalization = Normalization.create(task, data.missing)
    sha256, digests = check_and_hash_values(sequences, normalization)
    if trained_task is None:
        _warn_of_splits(sequences, splits, digests)
    elif sha256 == trained_task.sha256:  # the network was trained on these data
        splits = sequences.training_splits(data.validation, config.seed)
    task = replace(
        task,
        name=name.removesuffix("_TRAIN").removesuffix("_TEST"),
        examples={split: len(indices) for split, indices in splits.items()},
        feature_names=sequences.feature_names,
        sha256=sha256,
    )
    is_image_task = task.image_shape is not None
    examples = {}
    for split, indices in splits.items():
        lengths = sequences.lengths[indices]
        time_steps = lengths.max(initial=task.time_steps)
        all_examples = Examples(
            sequences.inputs[:, :time_steps],
            sequences.lengths if (lengths < time_steps).any() else None,
            normalization=None if is_image_task else normalization,
            ids=sequences.ids,
            labels=np.asarray(sequences.labels),
            groups=sequences.groups,
            digests=digests,
        )
        examples[split] = all_examples.select(indices)
    return Dataset(task, examples)


def _map_labels(sequences: Sequences, trained_task: Task) -> Sequences:
    """Replaces the labels with indices into the classes of a trained task."""
    unknown_classes = set(sequences.classes) - set(trained_task.classes)
    if unknown_classes:
        raise UserError(
            f"the network was not trained on class {min(unknown_classes)}; its classes "
            f"are {', '.join(trained_task.classes)}"
        )
    order = [trained_task.classes.index(name) for name in sequences.classes]
    labels = np.array(order, np.int32)[sequences.labels]
    return replace(sequences, labels=labels, classes=trained_task.classes)


def _warn_of_splits(
    sequences: Sequences, splits: Mapping[str, np.ndarray], digests: np.ndarray
) -> None:
    train = splits["train"]
    missing_classes = np.delete(sequences.classes, np.asarray(sequences.labels)[train])
    if len(missing_classes):
        warn_about_data(
            "the training split has no sequences of these classes: "
            f"{', '.join(missing_classes)[:200]}"
        )
    keys_by_relation = {"are identical to": digests}
    if sequences.groups is not None:
        keys_by_relation["have the same groups as"] = sequences.groups
    for relation, keys in keys_by_relation.items():
        for name in ("validation", "test"):
            split_keys = keys[splits[name]]
            count = int(np.isin(split_keys, keys[train]).sum())
            if count:
                warn_about_data(
                    f"{count:,} of {len(split_keys):,} {name} sequences {relation} "
                    "training sequences, so the accuracy on new sequences may be lower "
                    "than reported; keep identical sequences, and the sequences of a "
                    "group, in one split"
                )


def _check_roles(sequences: Sequences, roles: Mapping[str, str]) -> None:
    for name, role in roles.items():
        field = {"label": "labels"}.get(role, role)
        if getattr(sequences, field, ()) is None:
            raise UserError(
                f"data.columns: contains {role}={name}, but this column is missing; "
                "correct or remove this entry"
            )


def check_and_hash_values(
    sequences: Sequences, normalization: Normalization
) -> tuple[str, np.ndarray]:
    """Validates and hashes all values.

    Returns:
        The SHA-256 over the values, labels, lengths, splits, groups and classes; and a
        hash of the values of each sequence, str [examples]. This hash does not depend
        on the dtype.
    """
    arrays = (sequences.labels, sequences.lengths, sequences.split, sequences.groups)
    header = [None if array is None else array.tolist() for array in arrays]
    sha256 = hashlib.sha256(json.dumps([header, sequences.classes]).encode())
    digests = []
    # This dtype preserves the precision of the stored values.
    dtype = np.result_type(sequences.inputs.dtype, np.float32)
    for index, length in enumerate(sequences.lengths.tolist()):
        values = np.ascontiguousarray(sequences.inputs[index, :length], dtype)
        problem = normalization.find_invalid(values)
        if problem is not None:
            (time, feature), reason = problem
            ids = sequences.ids
            name = index if ids is None else format_value(ids[index])
            raise UserError(
                f"the value of sequence {name} at time step {time}, feature "
                f"{sequences.feature_names[feature]}, {reason}"
            )
        sha256.update(values)
        # Adding 0 converts negative zeros to positive zeros.
        content = (values.astype(np.float64) + 0.0).tobytes()
        digests.append(hashlib.blake2b(content, digest_size=8).hexdigest())
    return sha256.hexdigest(), np.array(digests)


def select_features(sequences: Sequences, features: Sequence[str]) -> Sequences:
    """Returns sequences with the given features, in the given order.

    If `features` is empty, all features are kept. Features with custom names are
    selected by name. Features with default names are identified by position, so the
    number of features must match.
    """
    names = sequences.feature_names
    if not features or tuple(features) == names:
        return sequences
    is_named = has_custom_names(names) and has_custom_names(features)
    if is_named or sorted(features) == sorted(names):
        require_features(names, features)
        columns = [names.index(name) for name in features]
        inputs = np.take(sequences.inputs, columns, axis=-1)
        return replace(sequences, inputs=inputs, feature_names=tuple(features))
    if len(names) != len(features):
        raise UserError(
            f"must have the features {format_value(features)} ({len(features)}), which "
            "data.features or the network requires, not "
            f"{format_value(names)} ({len(names)}); pass the required features, and "
            "their names as feature_names; in Python, pass inputs[None] for a single "
            "sequence"
        )
    return replace(sequences, feature_names=tuple(features))
