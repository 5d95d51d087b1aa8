"""Examples as plain arrays on the host."""

import dataclasses
import math
from typing import NamedTuple

import numpy as np

from rnnmnist.config.tasks import Task

SPLITS = ("train", "validation", "test")
LARGEST = float(np.finfo(np.float32).max)  # of a value
CHUNK_BYTES = 1 << 22  # that are normalized at a time


class Normalization(NamedTuple):
    """Converts stored sequences to the inputs of a network."""

    mean: np.ndarray  # float64 [features]
    std: np.ndarray  # float64 [features]
    missing: str  # the setting `data.missing`

    @classmethod
    def create(cls, task: Task, missing: str) -> "Normalization":
        """Returns the normalization of a task's sequences."""
        mean = task.mean or np.zeros(task.features)
        std = task.std or np.ones(task.features)
        return cls(np.asarray(mean), np.asarray(std), missing)

    def __call__(self, values: np.ndarray, lengths: np.ndarray | None) -> np.ndarray:
        """Standardizes sequences and fills missing values and padding.

        Args:
            values: real [n, time, features], with NaN for missing values.
            lengths: int [n], the time steps before the padding; None if there is none.

        Returns:
            float32 [n, time, features]; 0 in the padding, whatever is stored there, and
            for missing values that no earlier value of their feature replaces.
        """
        inputs: np.ndarray = np.empty(values.shape, np.float32)
        size = max(1, CHUNK_BYTES // (8 * math.prod(values.shape[1:])))
        for start in range(0, len(values), size):  # the quotient is in float64
            part = slice(start, start + size)
            with np.errstate(all="ignore"):  # of padding
                inputs[part] = (values[part] - self.mean) / self.std
        if self.missing == "forward_fill":
            times = np.arange(inputs.shape[1])[:, None]
            last = np.maximum.accumulate(np.where(np.isnan(inputs), 0, times), axis=1)
            inputs = np.take_along_axis(inputs, last, axis=1)
        if self.missing != "error":
            inputs[np.isnan(inputs)] = 0
        if lengths is not None:
            inputs[padding(inputs.shape[1], lengths)] = 0
        return inputs


@dataclasses.dataclass(frozen=True, eq=False)  # arrays have no single truth value
class Inputs:
    """Images or sequences, as they are stored."""

    stored: np.ndarray  # uint8 [all, rows, columns], or real [all, time, features]
    lengths: np.ndarray | None = None  # int32 [examples]; None: no padding
    indices: np.ndarray | None = None  # of the examples in `stored`; None: all
    normalization: Normalization | None = None  # of sequences; None for images

    def __len__(self) -> int:
        return len(self.stored if self.indices is None else self.indices)

    def take(self, positions: slice | np.ndarray) -> np.ndarray:
        """Returns some examples: uint8 images, or normalized float32 sequences."""
        index = positions if self.indices is None else self.indices[positions]
        values = self.stored[index]
        if self.normalization is None:
            return values
        lengths = None if self.lengths is None else self.lengths[positions]
        return self.normalization(values, lengths)

    def one(self, position: int) -> np.ndarray:
        """Returns one example as it is stored, without padding."""
        index = position if self.indices is None else self.indices[position]
        end = None if self.lengths is None else self.lengths[position]
        return self.stored[index][:end]


@dataclasses.dataclass(frozen=True, eq=False, kw_only=True)
class Examples(Inputs):
    """The examples of a split: inputs with their labels."""

    labels: np.ndarray  # int32 [examples]


class Dataset(NamedTuple):
    """A data set: its task, and its examples by split."""

    task: Task
    splits: dict[str, Examples]


def find_invalid(
    values: np.ndarray, missing: str
) -> tuple[tuple[int, ...], str] | None:
    """Returns the index of the first value that a network cannot take, and why.

    NaN is a missing value, which depends on the setting `data.missing`.
    """
    if -LARGEST <= values.min() <= values.max() <= LARGEST:  # and none of them is NaN
        return None
    invalid = np.abs(values) > LARGEST
    reason = f"is larger than {LARGEST:.3g}"
    if not invalid.any() and missing == "error":
        invalid = np.isnan(values)
        reason = "is missing; set data.missing to forward_fill or zero for the training"
    if not invalid.any():
        return None
    return tuple(np.argwhere(invalid)[0].tolist()), reason


def padding(time_steps: int, lengths: np.ndarray) -> np.ndarray:
    """Returns which time steps are padding, bool [n, time]."""
    return np.arange(time_steps) >= lengths[:, None]
