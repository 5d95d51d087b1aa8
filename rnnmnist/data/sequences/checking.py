"""Validates user sequences, independently of the format that they were read from."""

import dataclasses
import re
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from rnnmnist.config.tasks import MIN_VALIDATION_EXAMPLES
from rnnmnist.data.examples import SPLITS, padding_mask
from rnnmnist.errors import UserError, format_value, prefix_errors

MAX_CLASSES = 1_000
BLOCK_BYTES = 1 << 24  # size of a block of sequences to read, as float64
VALIDATION_FRACTION = 0.1  # of each class, if no validation split is given
ALLOWED_VALUES = {  # texts for messages, by the allowed codes of `dtype.kind`
    "biuf": "real numbers; encode letters or categories one-hot, with a 0/1 feature "
    "for each, or as integers for an embedding in your own network, with "
    "normalize=none; convert sparse matrices with .toarray(), object arrays or "
    "generators of sequences with list(), and LazyFrames with .collect(); read files "
    "with rnnmnist.read_sequences",
    "biuU": "integers or strings without missing values; convert them with "
    ".astype(int) or .astype(str), and bin other numbers into classes, for example "
    "with np.digitize",
    "iu": "integers; convert them with .astype(int)",
    "U": "strings; convert them with .astype(str)",
}


@dataclasses.dataclass(frozen=True, eq=False)  # arrays have no single truth value
class Sequences:
    """Validated sequences; `reading.check_and_hash_values` validates `inputs` later."""

    inputs: np.ndarray  # array or memory map, [examples, time, stored features]
    labels: np.ndarray | None  # int32 [examples], indices into `classes`
    classes: tuple[str, ...]  # empty if there are no labels
    lengths: np.ndarray  # int32 [examples], numbers of time steps, excluding padding
    split: np.ndarray | None  # str [examples], values from `SPLITS`
    groups: np.ndarray | None  # int or str [examples], such as subjects
    feature_names: tuple[str, ...]  # "0", "1", … by default
    ids: tuple[str, ...] | None  # identifiers of the sequences in the file

    def to_arrays(self) -> dict[str, Any]:
        """Returns keyword arguments for `check_arrays`, without None values."""
        arrays = vars(self) | {"classes": None}
        if self.labels is not None:
            arrays["labels"] = np.array(self.classes)[self.labels]
        return {name: array for name, array in arrays.items() if array is not None}

    def read_blocks(
        self, indices: np.ndarray
    ) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Reads selected sequences in blocks, to save memory.

        Args:
            indices: int [n].

        Yields:
            The lengths of the sequences in a block, int32 [m], and their values without
            padding, numeric [sum of lengths, features].
        """
        max_length = self.lengths[indices].max(initial=1)
        size = max(1, BLOCK_BYTES // (8 * max_length * len(self.feature_names)))
        for start in range(0, len(indices), size):
            block = indices[start : start + size]
            lengths = self.lengths[block]
            mask = ~padding_mask(max_length, lengths)
            yield lengths, self.inputs[block, :max_length][mask]

    def split_indices(self, default: str) -> dict[str, np.ndarray]:
        """Returns the indices of the sequences in each split.

        If the sequences have no splits, all of them are in the split `default`.
        """
        split = np.full(len(self.inputs), default) if self.split is None else self.split
        return {name: np.flatnonzero(split == name) for name in SPLITS}

    def has_binary_features(self) -> bool:
        """Returns True if every feature has at most two distinct training values.

        Missing values (NaN) are ignored.
        """
        indices = self.split_indices("train")["train"]
        values: list[set[float]] = [set() for _ in self.feature_names]
        for _, rows in self.read_blocks(indices):
            for distinct, column in zip(values, rows.T, strict=True):
                distinct.update(column[~np.isnan(column)].tolist())
                if len(distinct) > 2:
                    return False
        return True

    def count_training_sequences(self) -> int:
        """Counts the training sequences before any are held out for validation."""
        return len(self.split_indices("train")["train"])

    def training_splits(self, hold_out: bool, seed: int) -> dict[str, np.ndarray]:
        """Returns the indices of each split for training on labelled sequences.

        If `hold_out` is true and there is no validation split, a tenth of the training
        sequences of each class is drawn for validation:

        - If a class has at least two sequences, at least one is drawn, and at least one
          stays in training.
        - If the sequences have groups, whole groups are drawn, and at least one group
          of each class stays in training.
        - If there is a test split, and fewer than `MIN_VALIDATION_EXAMPLES` sequences
          would be drawn, all of them stay in training.
        """
        splits = self.split_indices("train")
        train = splits["train"]
        labels = np.asarray(self.labels)[train]
        class_indices = np.unique(labels)
        if not 2 <= len(class_indices) <= MAX_CLASSES:
            raise UserError(
                f"split: the training split must have 2 to {MAX_CLASSES:,} classes, "
                f"not {len(class_indices)} of {format_value(self.classes)}; assign "
                "sequences of more classes to train, or bin numbers into classes, for "
                "example with np.digitize"
            )
        if len(splits["validation"]) or not hold_out:
            return splits
        # RandomState is frozen; Generator streams may change between NumPy versions.
        random = np.random.RandomState(seed)
        if self.groups is not None:
            is_held_out = _draw_groups(labels, self.groups[train], random)
        else:
            is_held_out = np.zeros(len(train), bool)
            for label in class_indices:
                candidates = random.permutation(np.flatnonzero(labels == label))
                size = len(candidates)
                count = max(1, int(VALIDATION_FRACTION * size)) if size > 1 else 0
                is_held_out[candidates[:count]] = True
        if len(splits["test"]) and is_held_out.sum() < MIN_VALIDATION_EXAMPLES:
            return splits
        if not is_held_out.any():
            raise UserError(
                f"split: none of the {len(train)} training sequences can be held out "
                "for validation without removing a class from training; add a second "
                "sequence or group of each class, or set data.validation=false"
            )
        return splits | {"train": train[~is_held_out], "validation": train[is_held_out]}


def check_arrays(
    inputs: ArrayLike,
    labels: ArrayLike | None = None,
    *,
    lengths: ArrayLike | None = None,
    split: ArrayLike | None = None,
    groups: ArrayLike | None = None,
    feature_names: ArrayLike | None = None,
    ids: ArrayLike | None = None,
) -> Sequences:
    """Validates arrays of sequences; `Sequences` documents their shapes.

    If there is a single feature, inputs can also have the shape [examples, time]. If
    lengths is None, inputs can also be a list of arrays of different lengths, which are
    then padded. Labels can be integers, booleans or strings. The classes are the
    distinct labels: if all of them are integers or strings of integers, they are sorted
    by value; otherwise, they are sorted alphabetically.
    """
    if lengths is None and isinstance(inputs, list | tuple):
        inputs, lengths = _pad_list(inputs)
    values = validate_array("inputs", inputs, "biuf")
    if values.ndim not in (2, 3) or not values.size:
        raise UserError(
            "inputs: must have the shape [examples, time, features] or [examples, "
            f"time], without empty axes, not {values.shape}"
        )
    if values.ndim == 2:
        values = values[..., None]
    num_sequences, time_steps, num_features = values.shape
    lengths = _check_lengths(lengths, num_sequences, time_steps)
    if feature_names is None:
        feature_names = list(map(str, range(num_features)))
    names = tuple(
        validate_array("feature_names", feature_names, "U", num_features).tolist()
    )
    indices = None
    classes = tuple[str, ...]()
    if labels is not None:
        indices, classes = _encode(
            validate_array("labels", labels, "biuU", num_sequences)
        )
    if len(set(names)) < len(names):
        raise UserError(f"feature_names: must be distinct, not {format_value(names)}")
    for name in (*classes, *names):
        if not name.strip() or not name.isprintable():
            raise UserError(
                "names of classes and features must be printable text, not "
                f"{format_value(name)}; rename this class or feature"
            )
    if ids is not None:
        ids = tuple(map(str, validate_array("ids", ids, "biuU", num_sequences)))
    return Sequences(
        inputs=values[:, : lengths.max()],  # the rest is padding
        labels=indices,
        classes=classes,
        lengths=lengths,
        split=None if split is None else _check_split(split, num_sequences),
        groups=None
        if groups is None
        else validate_array("groups", groups, "biuU", num_sequences),
        feature_names=names,
        ids=ids,
    )


def _draw_groups(
    labels: np.ndarray, groups: np.ndarray, random: np.random.RandomState
) -> np.ndarray:
    """Draws whole groups for validation; returns a mask of the sequences, bool [n].

    Aims to hold out `VALIDATION_FRACTION` of each class. Groups are visited in random
    order, and a group is held out if this reduces the mean deviation from the target
    fraction. Then, for each class without held-out sequences, the group with the
    smallest resulting deviation is held out. At least one group of each class stays in
    training.
    """
    group_names, group_codes = np.unique(groups, return_inverse=True)
    classes, class_codes = np.unique(labels, return_inverse=True)
    group_counts = np.zeros((len(group_names), len(classes)), int)
    np.add.at(group_counts, (group_codes, class_codes), 1)
    totals = group_counts.sum(axis=0)

    def deviation(counts: np.ndarray) -> float:
        if (counts == totals).any():  # a class would have no training sequences
            return np.inf
        return float(np.abs(counts / totals - VALIDATION_FRACTION).sum())

    held_out_groups: list[int] = []
    counts = np.zeros_like(totals)  # held-out sequences per class
    order = random.permutation(len(group_names)).tolist()
    for group in order:
        if deviation(counts + group_counts[group]) < deviation(counts):
            held_out_groups.append(group)
            counts += group_counts[group]
    for label in range(len(classes)):
        if counts[label] == 0:
            candidates = [group for group in order if group_counts[group, label]]
            best = min(candidates, key=lambda g: deviation(counts + group_counts[g]))
            if deviation(counts + group_counts[best]) < np.inf:
                held_out_groups.append(best)
                counts += group_counts[best]
    return np.isin(group_codes, held_out_groups)


def _pad_list(sequences: Sequence[Any]) -> tuple[np.ndarray, np.ndarray]:
    if any(hasattr(sequence, "columns") for sequence in sequences):
        raise UserError(
            "inputs: must not be a list of tables, whose column names would be "
            "ignored; pass arrays, or a single table with a column sequence"
        )
    arrays = [validate_array("inputs", sequence, "biuf") for sequence in sequences]
    with prefix_errors(
        "inputs",
        "pass a list of arrays [time, features] with the same number of features, also "
        "for a single sequence",
    ):
        lengths = np.array(list(map(len, arrays)))
        return pad(np.concatenate(arrays), lengths), lengths


def has_custom_names(features: Sequence[str]) -> bool:
    """Returns False if the features have the default names "0", "1", …."""
    return list(features) != [str(index) for index in range(len(features))]


def require_features(names: Sequence[str], required_names: Sequence[str]) -> None:
    """Raises a `UserError` if a required feature is missing."""
    for name in required_names:
        if name not in names:
            raise UserError(
                f"has no feature {format_value(name)}, which data.features or the "
                f"network requires; the features are {format_value(names)}"
            )


def _check_split(values: ArrayLike, num_sequences: int) -> np.ndarray:
    split = validate_array("split", values, "U", num_sequences)
    for name in np.setdiff1d(split, SPLITS).tolist():
        raise UserError(
            f"split: must contain only {', '.join(SPLITS)}, not {format_value(name)}"
        )
    return split


def _check_lengths(
    values: ArrayLike | None, num_sequences: int, time_steps: int
) -> np.ndarray:
    """Validates lengths; if `values` is None, no sequence is padded."""
    if values is None:
        return np.full(num_sequences, time_steps, np.int32)
    lengths = validate_array("lengths", values, "iu", num_sequences)
    if lengths.min() < 1 or lengths.max() > time_steps:
        raise UserError(
            f"lengths: must lie between 1 and {time_steps}, the number of time steps "
            f"in inputs, but range from {lengths.min()} to {lengths.max()}"
        )
    return lengths.astype(np.int32)


def reject_masked(name: str, values: Any) -> None:
    """Raises a `UserError` for masked arrays.

    NumPy and scikit-learn would silently drop the mask.
    """
    arrays = values if isinstance(values, list | tuple) else [values]
    if any(map(np.ma.is_masked, arrays)):
        raise UserError(
            f"{name}: contains masked values; fill them (with NaN in inputs)"
        )


def validate_array(
    name: str, values: ArrayLike, kinds: str, size: int | None = None
) -> np.ndarray:
    """Converts values to an array and validates its dtype and size.

    Args:
        name: the name of the values in error messages.
        values: anything that `np.asarray` accepts.
        kinds: the allowed codes of `dtype.kind`, a key of `ALLOWED_VALUES`.
        size: the required length of a one-dimensional array. None allows any shape.
    """
    reject_masked(name, values)
    # Lists of unequal lengths cannot be converted.
    with prefix_errors(name, "pass a single array"):
        array = np.asarray(values)  # a memory map is not copied
        if array.dtype == object and all(isinstance(item, str) for item in array.flat):
            array = array.astype(str)  # pandas stores strings as objects
    if array.dtype.kind not in kinds:
        raise UserError(
            f"{name}: has the dtype {array.dtype}; expected {ALLOWED_VALUES[kinds]}"
        )
    if size is not None and array.shape != (size,):
        raise UserError(
            f"{name}: must have the shape {(size,)}, to match inputs, not {array.shape}"
        )
    return array


def _encode(labels: np.ndarray) -> tuple[np.ndarray, tuple[str, ...]]:
    strings = labels.astype(str)
    names = np.unique(strings).tolist()
    are_integers = all(re.fullmatch(r"-?[0-9]{1,20}", name) for name in names)
    classes = sorted(names, key=int if are_integers else str)
    positions = {name: index for index, name in enumerate(classes)}
    indices = [positions[string] for string in strings.tolist()]
    return np.array(indices, np.int32), tuple(classes)


def pad(values: np.ndarray, lengths: np.ndarray) -> np.ndarray:
    """Splits concatenated sequences and pads them with zeros.

    Args:
        values: the time steps of all sequences, [sum of lengths, ...].
        lengths: int [n].

    Returns:
        [n, time, ...].
    """
    time_steps = lengths.max(initial=0)
    inputs = np.zeros((len(lengths), time_steps, *values.shape[1:]), values.dtype)
    inputs[np.arange(time_steps) < lengths[:, None]] = values
    return inputs
