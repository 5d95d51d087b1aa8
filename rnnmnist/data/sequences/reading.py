"""Reads a user's sequences, and makes a data set of them."""

import hashlib
import json
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from rnnmnist.config.schema import Config, DataConfig
from rnnmnist.config.settings import expand
from rnnmnist.config.tasks import Task
from rnnmnist.data.examples import (
    Dataset,
    Examples,
    Inputs,
    Normalization,
    find_invalid,
    find_padding,
)
from rnnmnist.data.sequences.moments import Moments, find_far_values
from rnnmnist.data.sequences.tables import read_csv, read_parquet, read_stream
from rnnmnist.data.sequences.ts import read_ts
from rnnmnist.data.sequences.validation import (
    SequenceInputs,
    Sequences,
    are_names,
    check_memory,
    refuse_absent_features,
    validate,
)
from rnnmnist.errors import (
    UserError,
    failures,
    format_value,
    prefix_errors,
    suggest_name,
    warn_of_data,
)

SEQUENCE_FORMATS = "a .npz, .ts, .csv or .parquet file, or a folder of .npy files"
CHECKED_BYTES = 1 << 24  # of values at a time
ARRAYS = ("inputs", "labels", "lengths", "split", "groups", "feature_names", "ids")
OTHER_SIZE = "its header claims another size"
SAVE_AGAIN = "save it again, texts with .astype(str)"  # not as objects


def read_npz(path: Path) -> dict[str, Any]:
    """Reads the arrays of a .npz file."""
    arrays = {}
    with zipfile.ZipFile(path) as archive:
        members = archive.infolist()
        _check_names([m.filename.removesuffix(".npy") for m in members])
        check_memory(sum(member.file_size for member in members), "the arrays")
        for member in members:
            name = member.filename.removesuffix(".npy")
            with prefix_errors(name, SAVE_AGAIN), archive.open(member) as file:
                arrays[name] = np.lib.format.read_array(file, allow_pickle=False)
                if file.read(1):  # at the end, zipfile compares the checksum
                    raise ValueError(OTHER_SIZE)
    return arrays


def read_folder(path: Path) -> dict[str, Any]:
    """Reads the arrays of a folder as read-only memory maps."""
    files = [file for file in sorted(path.glob("*.npy")) if file.is_file()]
    if not (path / "inputs.npy").exists():
        _refuse_tables(path)
    _check_names([file.stem for file in files])
    arrays: dict[str, Any] = {}
    for file in files:
        with prefix_errors(file.stem, SAVE_AGAIN):
            array: Any = np.load(file, mmap_mode="r", allow_pickle=False)
            if array.offset + array.nbytes != file.stat().st_size:
                raise ValueError(OTHER_SIZE)
            arrays[file.stem] = array
    return arrays


def _refuse_tables(path: Path) -> None:
    """Refuses a folder that has a table for each recording."""
    for suffix in (".csv", ".parquet"):
        count = len(list(path.glob(f"*{suffix}")))
        if count:
            raise UserError(
                f"contains {count:,} {suffix} file{'s' if count > 1 else ''} and no "
                "inputs.npy; name a single file, with a row for each time step and a "
                "column for the recording"
            )


def _check_names(names: list[str]) -> None:
    for name in names:
        if name not in ARRAYS:
            remedy = suggest_name(name, ARRAYS, f"allowed are {', '.join(ARRAYS)}")
            raise UserError(f"contains the array {format_value(name)}; {remedy}")
        if names.count(name) > 1:
            raise UserError(f"contains {name} twice; save the arrays again")
    if "inputs" not in names:
        raise UserError(
            "contains no array 'inputs'; save the sequences so, or name a single file"
        )


def read(
    path: Path,
    roles: Mapping[str, str] = {},
    wanted: Sequence[str] = (),
    *,
    pair: bool = True,
) -> Sequences:
    """Reads a file or a folder of sequences in any format.

    `roles` are those of `DataConfig`, for a table, of which only the `wanted` features
    are read, if there are any that have names. With `pair`, each of NAME_TRAIN.ts and
    NAME_TEST.ts stands for both files.
    """
    remedy = "save it again"
    if path.suffix.lower() == ".csv":
        remedy = "save it in UTF-8, uncompressed"
    with prefix_errors(path, remedy):
        match "folder" if path.is_dir() else path.suffix.lower():
            case "folder":
                arrays = read_folder(path)
            case ".npz":
                arrays = read_npz(path)
            case ".ts":
                arrays = read_ts(path, pair=pair)
            case ".csv":
                arrays = read_csv(path, roles, wanted)
            case ".parquet":
                arrays = read_parquet(path, roles, wanted)
            case _:
                path.stat()  # raises if it does not exist
                raise UserError(f"is in no known format; name {SEQUENCE_FORMATS}")
        return validate(**arrays)


def read_memory(
    inputs: SequenceInputs,
    roles: Mapping[str, str] = {},
    wanted: Sequence[str] = (),
    **arrays: Any,
) -> Sequences:
    """Checks arrays, as `validate` does, or a table, as `read_stream` does."""
    remedy = "pass a table with one type in a column; as .astype(str), it shows the row"
    with prefix_errors("inputs", remedy):
        # An array is classified, or has its labels beside it.
        can_be_array = "labels" not in arrays or arrays["labels"] is not None
        columns = read_stream(inputs, roles, wanted, can_be_array=can_be_array)
    if columns is None:
        return validate(inputs, **arrays)
    for name, values in arrays.items():
        if values is not None:
            raise UserError(f"{name}: a table has its own columns; leave {name} out")
    with prefix_errors("inputs"):
        return validate(**columns)


@failures()
def read_sequences(
    source: str | Path | SequenceInputs,
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
        sequences = read_memory(source, roles, labels=None)
    _check_roles(sequences, roles)
    padded = Inputs(sequences.inputs, sequences.lengths)
    inputs = [padded.strip_padding(position) for position in range(len(padded))]
    classes, labels = np.array(sequences.classes), sequences.labels
    y = None if labels is None else classes[labels]
    return inputs, y, sequences.groups, sequences.ids


def load_files(config: DataConfig, trained: Task | None = None) -> Dataset:
    """Loads the sequences in `data.path`, and checks all values."""
    path = find_path(config)
    wanted = config.feature_names if trained is None else trained.feature_names
    sequences = read(path, config.roles, wanted)
    with prefix_errors(path):
        return to_dataset(name_of(path), sequences, config, trained)


def find_path(config: DataConfig) -> Path:
    """Returns the path of a user's sequences, which must be given."""
    if config.path is None:
        raise UserError(
            f"data.path: name your sequences with data.path=PATH, {SEQUENCE_FORMATS}"
        )
    return Path(config.path)


def name_of(path: Path) -> str:
    """Returns the name of the data set in a file, without that of a split."""
    return path.stem.removesuffix("_TRAIN").removesuffix("_TEST")


def to_dataset(
    name: str, sequences: Sequences, config: DataConfig, trained: Task | None = None
) -> Dataset:
    """Checks the values of labelled sequences, and divides them into splits.

    They are for training, or have the normalization and classes of a trained task.
    """
    if trained is None:
        _check_roles(sequences, config.roles)
        if config.features is not None:
            sequences = select_features(sequences, config.feature_names)
    labels = sequences.labels
    if labels is None:
        add = (
            "add the array 'labels', @classLabel and labels, or the column 'label', "
            "which data.columns=label=NAME can name; in Python, pass labels"
        )
        remedy = suggest_name("label", sequences.feature_names, add)
        raise UserError(f"labels: are missing; {remedy}")
    if trained is None:
        task, splits = _prepare_training(name, sequences, config)
    else:
        sequences = take_features(sequences, trained)
        task, splits = _prepare_evaluation(sequences, config, trained)
        order = [trained.classes.index(name) for name in sequences.classes]
        labels = np.array(order, np.int32)[labels]
    groups = sequences.groups
    held_out = () if groups is None else np.unique(groups[splits["validation"]])
    group_numbers = None
    if groups is not None:
        _, group_numbers = np.unique(groups, return_inverse=True)
    task = replace(
        task,
        name=name,
        time_steps=sequences.inputs.shape[1],
        examples={split: len(indices) for split, indices in splits.items()},
        feature_names=sequences.feature_names,
        validation_groups=tuple(map(str, held_out)),
    )
    normalization = Normalization.create(task, config.missing)
    lengths = sequences.lengths
    examples = {
        split: Examples(
            sequences.inputs,
            None if lengths is None else lengths[indices],
            indices,
            normalization,
            sequences.ids,
            labels=labels[indices],
            groups=None if group_numbers is None else group_numbers[indices],
        )
        for split, indices in splits.items()
    }
    return Dataset(task, examples)


def _prepare_training(
    name: str, sequences: Sequences, config: DataConfig
) -> tuple[Task, dict[str, np.ndarray]]:
    """Checks the values of labelled sequences for training, and warns of odd ones.

    Returns a task with their normalization and SHA-256, and the indices of each split.
    """
    splits = sequences.training_splits(config.validation)
    moments = Moments(sequences, splits["train"])
    sha256 = hash_sequences(sequences, config.missing, moments=moments)
    _, time_steps, features = sequences.inputs.shape
    task = Task(name, time_steps, features, sequences.classes, {}, sha256=sha256)
    if config.normalize != "none":
        mean, std, changes = moments.normalization
        task = replace(task, mean=mean, std=std, difference_std=changes)
    normalization = Normalization.create(task, config.missing)
    for _ in check_parts(sequences, config.missing, normalization):
        pass  # raises now what an evaluation would raise after the training
    _warn(sequences, splits, moments)
    return task, splits


def _prepare_evaluation(
    sequences: Sequences, config: DataConfig, trained: Task
) -> tuple[Task, dict[str, np.ndarray]]:
    """Checks labelled sequences for the network that was trained on a task.

    Returns the trained task with the SHA-256 of the sequences, and the indices of each
    split. The sequences of the training have the splits that they had there.
    """
    unknown = set(sequences.classes) - set(trained.classes)
    if unknown:
        raise UserError(
            f"the network was not trained on class {min(unknown)}; its classes are "
            f"{', '.join(trained.classes)}"
        )
    normalization = Normalization.create(trained, config.missing)
    sha256 = hash_sequences(sequences, config.missing, normalization=normalization)
    if sha256 == trained.sha256:
        splits = sequences.training_splits(config.validation)
    else:
        splits = sequences.split_as_given("test")
    return replace(trained, sha256=sha256), splits


def _warn(
    sequences: Sequences, splits: Mapping[str, np.ndarray], moments: Moments
) -> None:
    """Warns of classes that are not in a split, and of features that teach nothing.

    Also of groups that are in training and in another split.
    """
    labels = np.asarray(sequences.labels)
    trained, validated = (
        set(labels[splits[name]].tolist()) for name in ("train", "validation")
    )
    unseen = [name for i, name in enumerate(sequences.classes) if i not in trained]
    if unseen:
        warn_of_data(
            "no training sequence is of these classes, which the network cannot learn: "
            f"{', '.join(unseen)[:200]}"
        )
    unvalidated = [sequences.classes[i] for i in sorted(trained - validated)]
    if unvalidated and validated:
        warn_of_data(
            "no validation sequence is of these classes, about which the validation "
            f"accuracy says nothing: {', '.join(unvalidated)[:200]}"
        )
    if sequences.groups is not None:
        groups = {
            name: set(sequences.groups[indices].tolist())
            for name, indices in splits.items()
        }
        for name in ("validation", "test"):
            shared = groups[name] & groups["train"]
            if shared:
                warn_of_data(
                    f"{len(shared)} of {len(groups[name])} groups of the {name} split "
                    "are also in training, so that its accuracy says little about new "
                    "groups; keep each group in one split"
                )
    steady = moments.is_steady & (moments.high > moments.low)
    if steady.any() and not steady.all():
        names = ", ".join(np.array(sequences.feature_names)[steady])
        warn_of_data(
            f"{names[:200]} changes by the same amount in every time step, or not at "
            "all, as a clock, a counter or the number of a subject does; leave it out, "
            "as by data.features, or name it groups"
        )
    empty = moments.high < moments.low
    if empty.any():
        names = ", ".join(np.array(sequences.feature_names)[empty])
        warn_of_data(
            f"{names[:200]} has no value in training; leave it out, as by data.features"
        )
    far = find_far_values(sequences, splits["train"], moments)
    if far:
        values = ", ".join(f"{name} ({value:.3g})" for name, value in far.items())
        warn_of_data(
            "some training values are so far away that all others of their feature are "
            "nearly equal beside them; correct them, or mark them as missing: "
            f"{values[:200]}"
        )


def _check_roles(sequences: Sequences, roles: Mapping[str, str]) -> None:
    """Checks that a table has the columns to which a setting gives roles."""
    for name, role in roles.items():
        array = {"label": "labels"}.get(role, role)
        if getattr(sequences, array, ()) is None:
            raise UserError(
                f"data.columns: {role}={name} names no column; remove it, or name one"
            )


def hash_sequences(
    sequences: Sequences,
    missing: str,
    *,
    moments: Moments | None = None,
    normalization: Normalization | None = None,
) -> str:
    """Reads and checks all values of labelled sequences, and adds them to moments.

    Returns the SHA-256 of the sequences with their labels, lengths, splits and groups.
    """
    header = [sequences.inputs.shape, sequences.classes]
    digest = hashlib.sha256(json.dumps(header).encode())
    labels = np.asarray(sequences.labels)
    for indices in (labels, *sequences.split_as_given("train").values()):
        digest.update(indices.astype("<i8").tobytes())
    if sequences.groups is not None:
        digest.update(json.dumps(sequences.groups.tolist()).encode())
    if sequences.lengths is not None:
        digest.update(sequences.lengths.astype("<i8").tobytes())
    for part, values, padded in check_parts(sequences, missing, normalization):
        digest.update(values.data)
        if moments is not None:
            values[padded] = np.nan  # which the moments leave out
            moments.add(values[moments.is_included[part]])
    return digest.hexdigest()


def check_parts(
    sequences: Sequences, missing: str, normalization: Normalization | None = None
) -> Iterator[tuple[slice, np.ndarray, slice | np.ndarray]]:
    """Yields some sequences at a time, whose values are checked.

    With a normalization, values far from those of its training are refused, too. An
    item has the indices of the sequences, a copy of their values, float [n, time,
    features], with 0 in their padding, and the index of the padding in the copy.
    """
    lengths, ids = sequences.lengths, sequences.ids
    examples, time_steps, features = sequences.inputs.shape
    # The type of the file keeps all digits. The order is that in which they are hashed.
    dtype = np.result_type(sequences.inputs.dtype, np.float32).newbyteorder("<")
    size = max(1, CHECKED_BYTES // (time_steps * features * 8))
    for start in range(0, examples, size):
        part = slice(start, start + size)
        values = sequences.inputs[part].astype(dtype, order="C")
        padded: slice | np.ndarray = slice(0)  # none of the values
        if lengths is not None:
            padded = find_padding(time_steps, lengths[part])
        values[padded] = 0
        invalid = find_invalid(values, missing)
        if invalid is None and normalization is not None:
            invalid = normalization.find_outlier(values, padded)
        if invalid is not None:
            (index, time, feature), reason = invalid
            name = start + index if ids is None else format_value(ids[start + index])
            raise UserError(
                f"the value of sequence {name} at time step {time}, feature "
                f"{sequences.feature_names[feature]}, {reason}"
            )
        yield part, values, padded


def take_features(sequences: Sequences, trained: Task) -> Sequences:
    """Returns sequences with the features on which a network was trained, in its order.

    Features with names are taken by them, and others are left out. Features without
    names, here or in training, must have the same number and order.
    """
    names, wanted = sequences.feature_names, trained.feature_names
    if are_names(names) and are_names(wanted):
        return select_features(sequences, wanted)
    if len(names) != trained.features:
        raise UserError(
            f"has {len(names)} features, {format_value(names)}, and the network was "
            f"trained on {trained.features}, {format_value(wanted)}; use these, and in "
            "Python inputs[None] for a single sequence"
        )
    return sequences


def select_features(sequences: Sequences, wanted: tuple[str, ...]) -> Sequences:
    """Returns sequences with some of their features, which have names."""
    names = sequences.feature_names
    if names == wanted:
        return sequences
    if not are_names(names):
        raise UserError(
            f"data.features: names {', '.join(wanted)}, but the features have no "
            "names; add feature_names"
        )
    refuse_absent_features(names, wanted)
    columns = [names.index(name) for name in wanted]
    return replace(
        sequences, inputs=sequences.inputs[..., columns], feature_names=wanted
    )
