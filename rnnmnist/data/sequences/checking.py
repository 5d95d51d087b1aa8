"""The sequences of a user, checked once, whichever format they come from."""

import dataclasses
import re
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from rnnmnist.config.tasks import MIN_VALIDATION_EXAMPLES
from rnnmnist.data.examples import SPLITS, find_padding, select_columns
from rnnmnist.errors import UserError, format_value, prefix_errors, suggest_name

MAX_CLASSES = 1_000
PART_BYTES = 1 << 24  # of values that are read at a time, as float64
HELD_OUT = 0.1  # of the training sequences of a class, where no split is given
KINDS = {  # what the kinds of NumPy's types allow
    "biuf": "real numbers; encode letters or categories one-hot, with a 0/1 feature "
    "for each, or as integers for an embedding in your own network, with "
    "normalize=none; convert sparse matrices with .toarray(), an array of sequences or "
    "a generator with list(), and a LazyFrame with .collect(); read files with "
    "rnnmnist.read_sequences",
    "biuU": "integers or strings without missing values; convert them with "
    ".astype(int) or .astype(str), and divide other numbers into classes, as with "
    "np.digitize",
    "iu": "integers; convert them with .astype(int)",
    "U": "strings; convert them with .astype(str)",
}


@dataclasses.dataclass(frozen=True, eq=False)  # arrays have no single truth value
class Sequences:
    """Sequences that are valid, except for the values of `inputs`."""

    inputs: np.ndarray  # real [examples, time, stored features], perhaps a memory map
    labels: np.ndarray | None  # int32 [examples]
    classes: tuple[str, ...]  # in the order of the labels; empty without labels
    lengths: np.ndarray  # int32 [examples], time steps before the padding
    split: np.ndarray | None  # str [examples], each one of `SPLITS`
    groups: np.ndarray | None  # integers or str [examples], such as subjects
    feature_names: tuple[str, ...]  # by default "0", "1" and so on
    ids: tuple[str, ...] | None  # the file's names of the sequences
    columns: np.ndarray | None = None  # the stored features that are read; None: all

    def to_arrays(self) -> dict[str, Any]:
        """Returns the arrays that `check_arrays` takes, without those that are None."""
        inputs = select_columns(self.inputs, self.columns)
        arrays = vars(self) | {"inputs": inputs, "columns": None, "classes": None}
        if self.labels is not None:
            arrays["labels"] = np.array(self.classes)[self.labels]
        return {name: array for name, array in arrays.items() if array is not None}

    def read_parts(
        self, indices: np.ndarray
    ) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
        """Reads some sequences, int [n], in parts of limited memory.

        Yields the indices of a part, int [m]; the time steps that are not padding, bool
        [m, time]; and their values, real [time steps, features].
        """
        longest = self.lengths[indices].max(initial=1)
        size = max(1, PART_BYTES // (8 * longest * len(self.feature_names)))
        for start in range(0, len(indices), size):
            part = indices[start : start + size]
            is_value = ~find_padding(longest, self.lengths[part])
            rows = self.inputs[part, :longest][is_value]
            yield part, is_value, select_columns(rows, self.columns)

    def split_as_given(self, default: str) -> dict[str, np.ndarray]:
        """Returns the indices of each split; without any, all are of one."""
        given = np.full(len(self.inputs), default) if self.split is None else self.split
        return {name: np.flatnonzero(given == name) for name in SPLITS}

    def are_two_valued(self) -> bool:
        """Returns True if no feature has more than two values in training.

        Missing values (NaN) do not count.
        """
        training = self.split_as_given("train")["train"]
        low, high = np.inf, -np.inf
        for _, _, rows in self.read_parts(training):
            low = np.fmin(low, np.fmin.reduce(rows))
            high = np.fmax(high, np.fmax.reduce(rows))
        for _, _, rows in self.read_parts(training):
            is_extreme = (rows == low) | (rows == high)
            if not (is_extreme | np.isnan(rows)).all():
                return False
        return True

    def count_training(self) -> int:
        """Returns how many sequences are for training, before some are held out."""
        return len(self.split_as_given("train")["train"])

    def training_splits(self, hold_out: bool, seed: int) -> dict[str, np.ndarray]:
        """Returns the indices of each split of labelled sequences, for training.

        Without a validation split, and with `hold_out`, a tenth of the training
        sequences of each class, at least one, is drawn for validation. With groups,
        whole groups are drawn. Every class keeps training sequences. Beside a test
        split, fewer than `MIN_VALIDATION_EXAMPLES` drawn sequences stay in training.
        """
        splits = self.split_as_given("train")
        train = splits["train"]
        labels = np.asarray(self.labels)[train]
        trained = np.unique(labels)
        if not 2 <= len(trained) <= MAX_CLASSES:
            raise UserError(
                f"split: the training split must have 2 to {MAX_CLASSES:,} classes, "
                f"not {len(trained)} of {format_value(self.classes)}; mark sequences "
                "of more classes with train, or divide numbers into classes, as with "
                "np.digitize"
            )
        if len(splits["validation"]) or not hold_out:
            return splits
        # The stream of a Generator may change between versions of NumPy.
        random = np.random.RandomState(seed)
        if self.groups is not None:
            is_held_out = _draw_groups(labels, self.groups[train], random)
        else:
            is_held_out = np.zeros(len(train), bool)
            for label in trained:
                own = random.permutation(np.flatnonzero(labels == label))
                count = max(1, int(HELD_OUT * len(own))) if len(own) > 1 else 0
                is_held_out[own[:count]] = True
        if len(splits["test"]) and is_held_out.sum() < MIN_VALIDATION_EXAMPLES:
            return splits
        if not is_held_out.any():
            raise UserError(
                f"split: none of the {len(train)} training sequences can be held out "
                "for validation, or a class would have none in training; add a second "
                "sequence, or group, of each class, or set data.validation=false"
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
    """Checks arrays of sequences, with the shapes of `Sequences`.

    Inputs can also be [examples, time] of one feature, or without lengths a list of
    arrays of different lengths, which are padded. Labels are integers, booleans or
    strings. The classes are the labels that occur: integers, and strings that all are
    integers, sorted by value; others alphabetically. `ids` are strings.
    """
    if lengths is None and isinstance(inputs, list | tuple):
        inputs, lengths = _pad_list(inputs)
    values = valid_array("inputs", inputs, "biuf")
    if values.ndim not in (2, 3) or not values.size:
        raise UserError(
            "inputs: must have the shape [examples, time, features] or [examples, "
            f"time] without empty axes, not {values.shape}"
        )
    if values.ndim == 2:
        values = values[..., None]
    count, time_steps, features = values.shape
    ends = _valid_lengths(lengths, count, time_steps)
    if feature_names is None:
        feature_names = list(map(str, range(features)))
    names = tuple(valid_array("feature_names", feature_names, "U", features).tolist())
    indices, classes = None, tuple[str, ...]()
    if labels is not None:
        indices, classes = _encode(valid_array("labels", labels, "biuU", count))
    if len(set(names)) < len(names):
        raise UserError(f"feature_names: must be distinct, not {format_value(names)}")
    for name in (*classes, *names):
        if not name.strip() or not name.isprintable():
            raise UserError(
                "the name of a class or feature must be printable text, not "
                f"{format_value(name)}; rename it"
            )
    if ids is not None:
        ids = tuple(map(str, valid_array("ids", ids, "biuU", count)))
    return Sequences(
        inputs=values[:, : ends.max()],  # the rest is padding
        labels=indices,
        classes=classes,
        lengths=ends,
        split=None if split is None else _valid_split(split, count),
        groups=None if groups is None else valid_array("groups", groups, "biuU", count),
        feature_names=names,
        ids=ids,
    )


def _draw_groups(
    labels: np.ndarray, groups: np.ndarray, random: np.random.RandomState
) -> np.ndarray:
    """Draws whole groups for validation, and returns their sequences, bool [n].

    In random order, a group is held out if this brings the held-out share of each class
    nearer to `HELD_OUT`, on average. Then a class without held-out sequences gets the
    group that keeps the shares nearest to it. Every class keeps a group in training.
    """
    names, group_codes = np.unique(groups, return_inverse=True)
    classes, class_codes = np.unique(labels, return_inverse=True)
    counts = np.zeros((len(names), len(classes)), int)
    np.add.at(counts, (group_codes, class_codes), 1)
    total = counts.sum(axis=0)

    def distance(numbers: np.ndarray) -> float:
        """Returns how far the held-out shares of the classes are from `HELD_OUT`."""
        if (numbers == total).any():  # a class would have none in training
            return np.inf
        return float(np.abs(numbers / total - HELD_OUT).sum())

    held_out: list[int] = []
    numbers = np.zeros_like(total)  # the held-out sequences of each class
    order = random.permutation(len(names)).tolist()
    for group in order:
        if distance(numbers + counts[group]) < distance(numbers):
            held_out.append(group)
            numbers += counts[group]
    for label in range(len(classes)):
        if numbers[label] == 0:
            own = [group for group in order if counts[group, label]]
            distances = [distance(numbers + counts[group]) for group in own]
            nearest = own[np.argmin(distances)]
            if min(distances) < np.inf:
                held_out.append(nearest)
                numbers += counts[nearest]
    return np.isin(group_codes, held_out)


def _pad_list(sequences: Sequence[Any]) -> tuple[np.ndarray, np.ndarray]:
    arrays = [valid_array("inputs", sequence, "biuf") for sequence in sequences]
    if not arrays or any(array.ndim == 0 for array in arrays):
        raise UserError(
            "inputs: must be a list of sequences, [time, features] or [time], not "
            f"{'numbers' if arrays else 'an empty list'}; pass [inputs] for a single "
            "sequence"
        )
    with prefix_errors(
        "inputs", "pass arrays [time, features] with the same number of features"
    ):
        lengths = np.array(list(map(len, arrays)))
        return pad(np.concatenate(arrays), lengths), lengths


def are_names(features: Sequence[str]) -> bool:
    """Whether features have names, not the numbers that stand for absent names."""
    return list(features) != [str(index) for index in range(len(features))]


def refuse_absent_features(names: Sequence[str], wanted: Sequence[str]) -> None:
    """Refuses wanted features that are not among the names."""
    absent = [name for name in wanted if name not in names]
    if absent:
        others = [name for name in names if name not in wanted]
        listed = f"the named features are {format_value(names)}"
        remedy = suggest_name(absent[0], others, listed)
        raise UserError(
            f"has no feature {format_value(absent[0])}, which data.features or the "
            f"network requires; {remedy}"
        )


def _valid_split(values: ArrayLike, count: int) -> np.ndarray:
    split = valid_array("split", values, "U", count)
    for name in np.setdiff1d(split, SPLITS).tolist():
        raise UserError(
            f"split: must contain {', '.join(SPLITS)} only, not {format_value(name)}"
        )
    return split


def _valid_lengths(given: ArrayLike | None, count: int, time_steps: int) -> np.ndarray:
    """Returns lengths, int32 [count]; if none are given, all time steps are read."""
    if given is None:
        return np.full(count, time_steps, np.int32)
    lengths = valid_array("lengths", given, "iu", count)
    if lengths.min() < 1 or lengths.max() > time_steps:
        raise UserError(
            f"lengths: must be from 1 to {time_steps}, the time steps of inputs, not "
            f"from {lengths.min()} to {lengths.max()}"
        )
    return lengths.astype(np.int32)


def refuse_masked(name: str, values: Any) -> None:
    """Refuses masked arrays, whose masks NumPy and scikit-learn drop silently."""
    parts = values if isinstance(values, list | tuple) else [values]
    if any(map(np.ma.is_masked, parts)):
        raise UserError(
            f"{name}: contains masked values; fill them (in inputs, with NaN)"
        )


def valid_array(
    name: str, values: ArrayLike, kinds: str, size: int | None = None
) -> np.ndarray:
    """Returns an array of some of NumPy's kinds, and with `size` of that shape."""
    refuse_masked(name, values)
    with prefix_errors(name, "pass one array"):  # not lists of unequal lengths
        array = np.asarray(values)  # a view, if it is a memory map
        if array.dtype == object and all(isinstance(item, str) for item in array.flat):
            array = array.astype(str)  # pandas stores texts as objects
    if array.dtype.kind not in kinds:
        found = array.dtype if array.ndim else type(values).__name__
        raise UserError(
            f"{name}: has the type {format_value(str(found))}; expected {KINDS[kinds]}"
        )
    if size is not None and array.shape != (size,):
        raise UserError(
            f"{name}: must have the shape {(size,)}, to match inputs, not {array.shape}"
        )
    return array


def _encode(labels: np.ndarray) -> tuple[np.ndarray, tuple[str, ...]]:
    texts = labels.astype(str)
    names = np.unique(texts).tolist()
    are_integers = all(re.fullmatch(r"-?[0-9]{1,20}", name) for name in names)
    classes = sorted(names, key=int if are_integers else str)
    positions = {name: index for index, name in enumerate(classes)}
    indices = [positions[text] for text in texts.tolist()]
    return np.array(indices, np.int32), tuple(classes)


def pad(values: np.ndarray, lengths: np.ndarray) -> np.ndarray:
    """Pads sequences, one after the other in [sum of lengths, ...], with zeros."""
    time_steps = lengths.max(initial=0)
    inputs = np.zeros((len(lengths), time_steps, *values.shape[1:]), values.dtype)
    inputs[np.arange(time_steps) < lengths[:, None]] = values
    return inputs
