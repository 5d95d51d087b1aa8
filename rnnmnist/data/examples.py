"""Examples as arrays on the host, and how a network reads them."""

import dataclasses
import functools
import hashlib
import math
from typing import TYPE_CHECKING, Any, NamedTuple, Self, TypeVar

import numpy as np

from rnnmnist.config.tasks import Task

SPLITS = ("train", "validation", "test")
LARGEST = float(np.finfo(np.float32).max)
MAX_DEVIATIONS = 1e6  # limit of the distance of a value from the mean in training
NORMALIZED_BYTES = 1 << 22  # normalized at a time
# The fields of `Inputs` that have no entry for each example.
SHARED = ("stored", "normalization", "ids", "columns")


if TYPE_CHECKING:
    import jax

Arrays = TypeVar("Arrays", np.ndarray, "jax.Array")


class View(NamedTuple):
    """What is read in a time step: a row, a column, or a pixel in some order."""

    name: str = "rows"  # rows, columns, pixels or permuted
    permutation: str = "bit_reversal"  # or random:SEED, for permuted pixels

    def __call__(self, images: Arrays) -> Arrays:
        """Converts images to sequences, float32 [n, time, features].

        They are [n, rows, columns], uint8 or, from 0 to 1, float32, of NumPy or jax.
        Sequences have the view `rows`, and stay as they are.
        """
        if images.dtype == np.uint8:
            images = images.astype(np.float32) / 255
        if self.name == "rows":
            return images
        if self.name == "columns":
            return images.mT
        # The number of images can be symbolic, as for exports.
        pixels = images.reshape(images.shape[0], -1)
        if self.name == "permuted":
            pixels = pixels[:, permutation(self.permutation, pixels.shape[1])]
        return pixels[..., None]


@functools.cache
def permutation(name: str, pixels: int) -> np.ndarray:
    """Returns the pixel, in row order, that is read at each time, int32 [pixels].

    `bit_reversal` reverses the bits of the numbers below the next power of two and
    keeps those below `pixels`, in that order. `random:SEED` ignores the run's seed.

    References:
        Gu, Goel, Ré, "Efficiently Modeling Long Sequences with Structured State
        Spaces", ICLR 2022, whose code permutes MNIST by bit reversal.
    """
    if name == "bit_reversal":
        bits = (pixels - 1).bit_length()
        order = [int(f"{i:0{bits}b}"[::-1], 2) for i in range(2**bits)]
        return np.array([index for index in order if index < pixels], np.int32)
    seed = int(name.removeprefix("random:"))
    # The stream of a Generator may change between versions of NumPy.
    return np.random.RandomState(seed).permutation(pixels).astype(np.int32)


def permutation_sha256(name: str, pixels: int) -> str:
    """Returns the SHA-256 over the indices as little-endian int32."""
    return hashlib.sha256(permutation(name, pixels).astype("<i4").tobytes()).hexdigest()


class Normalization(NamedTuple):
    """Converts stored sequences to the inputs of a network."""

    mean: np.ndarray  # float64 [features]
    std: np.ndarray  # float64 [features]
    missing: str  # the setting `data.missing`
    is_standardized: bool = True  # False: the mean is 0 and the deviation 1

    @classmethod
    def create(cls, task: Task, missing: str) -> "Normalization":
        """Returns the normalization of a task's sequences."""
        mean = task.mean or np.zeros(task.features)
        std = task.std or np.ones(task.features)
        return cls(np.asarray(mean), np.asarray(std), missing, task.mean is not None)

    def __call__(self, values: np.ndarray, lengths: np.ndarray | None) -> np.ndarray:
        """Standardizes and fills sequences on the host, in parts of limited memory.

        Arguments and result are those of `standardize` and `fill`.
        """
        inputs: np.ndarray = np.empty(values.shape, np.float32)
        size = max(1, NORMALIZED_BYTES // (8 * math.prod(values.shape[1:])))
        for start in range(0, len(values), size):  # float64 takes 8 bytes a value
            part = slice(start, start + size)
            ends = None if lengths is None else lengths[part]
            inputs[part] = self.fill(self.standardize(values[part]), ends)
        return inputs

    def standardize(self, values: Arrays) -> Arrays:
        """Returns (values - mean) / std, float32 [n, time, features].

        The values are real. The subtraction of a large mean needs float64, which jax
        has only within `double_precision`.
        """
        with np.errstate(all="ignore"):  # padding can have any value
            deviations = values.astype(np.float64, copy=False) - self.mean[None, None]
            return (deviations / self.std[None, None]).astype(np.float32)

    def fill(self, inputs: Arrays, lengths: Arrays | None) -> Arrays:
        """Replaces missing values and padding, float32 [n, time, features].

        Missing values are NaN. They become 0 where no earlier value of their feature
        replaces them, and so does all that is stored after `lengths`, int [n].
        """
        xp = inputs.__array_namespace__()  # numpy or jax.numpy
        times = xp.arange(inputs.shape[1])[None, :, None]
        if self.missing == "forward_fill":
            last = cumulative_max(xp.where(xp.isnan(inputs), 0, times))
            inputs = xp.take_along_axis(inputs, last, axis=1)
        if self.missing != "error":
            inputs = xp.where(xp.isnan(inputs), 0, inputs)
        if lengths is not None:
            inputs = xp.where(times < lengths[:, None, None], inputs, 0)
        return inputs

    def find_invalid(self, values: np.ndarray) -> tuple[tuple[int, ...], str] | None:
        """Returns the index of the first value that a network cannot take, and why.

        Values are real [..., features].
        """
        deviations = MAX_DEVIATIONS if self.is_standardized else LARGEST
        # If a feature is a constant, its values in float32 differ by their rounding.
        reach = deviations * self.std + 1e-6 * np.abs(self.mean)
        # The mean of infinite values is NaN, which these functions leave out.
        low = np.fmax(self.mean - reach, -LARGEST)
        high = np.fmin(self.mean + reach, LARGEST)
        is_invalid = (values < low) | (values > high)
        if self.missing == "error":
            is_invalid |= np.isnan(values)
        if not is_invalid.any():
            return None
        index = tuple(np.argwhere(is_invalid)[0].tolist())
        if np.isnan(values[index]):
            return index, (
                "is missing (NaN); for training, set data.missing to forward_fill or "
                'zero (in Python, missing="forward_fill"); if this is padding, pass '
                "lengths"
            )
        feature = index[-1]
        return index, (
            f"is {values[index]:.3g}; it must be from {low[feature]:.3g} to "
            f"{high[feature]:.3g}, a float32 number at most {MAX_DEVIATIONS:,.0f} "
            "standard deviations from the training mean; correct it, or mark it as "
            "missing"
        )


@dataclasses.dataclass(frozen=True, eq=False)  # arrays have no single truth value
class Inputs:
    """Images or sequences, as they are stored."""

    stored: np.ndarray  # uint8 [all, rows, columns], or real [all, time, features]
    lengths: np.ndarray | None = None  # int32 [examples]; None: no padding
    indices: np.ndarray | None = None  # where the examples are stored; None: all
    normalization: Normalization | None = None  # None: images
    # The identifiers of all stored examples; None: they are identified by their index.
    ids: tuple[str, ...] | None = None
    columns: np.ndarray | None = None  # the stored features that are read; None: all

    def __len__(self) -> int:
        return len(self.stored if self.indices is None else self.indices)

    @property
    def are_sequences(self) -> bool:
        """Whether these are sequences [n, time, features], not images."""
        return self.normalization is not None or self.stored.dtype != np.uint8

    @property
    def time_steps(self) -> int:
        """The stored time steps of sequences."""
        return self.stored.shape[1]

    def raw(self, positions: int | slice | np.ndarray) -> np.ndarray:
        """Returns some examples as they are stored, with their padding."""
        index = positions if self.indices is None else self.indices[positions]
        return select_columns(self.stored[index], self.columns)

    def take(self, positions: slice | np.ndarray) -> np.ndarray:
        """Returns some examples: uint8 images, or normalized float32 sequences."""
        values = self.raw(positions)
        if self.normalization is None:
            return values
        lengths = None if self.lengths is None else self.lengths[positions]
        return self.normalization(values, lengths)

    def name(self, position: int) -> str:
        """Returns the identifier of one example in its data."""
        index = position if self.indices is None else int(self.indices[position])
        return str(index) if self.ids is None else self.ids[index]

    def strip_padding(self, position: int) -> np.ndarray:
        """Returns one example as it is stored, without padding."""
        end = None if self.lengths is None else self.lengths[position]
        return self.raw(position)[:end]


@dataclasses.dataclass(frozen=True, eq=False, kw_only=True)
class Examples(Inputs):
    """The examples of a split: inputs with their labels."""

    labels: np.ndarray  # int32 [examples]
    # Integers or str [examples], such as the subject of each.
    groups: np.ndarray | None = None
    # A text for each sequence [examples], the same for equal ones; None for images.
    digests: np.ndarray | None = None
    # float32 [examples], the weights of the examples in training; None: all are 1.
    weights: np.ndarray | None = None

    @property
    def num_groups(self) -> int | None:
        """The number of groups, None without groups."""
        return None if self.groups is None else len(np.unique(self.groups))

    @property
    def left_out_together(self) -> np.ndarray:
        """A value for each example; a validation leaves out equal ones together.

        They are the groups, or else the digests. Each image is left out alone.
        """
        if self.groups is not None:
            return self.groups
        return np.arange(len(self)) if self.digests is None else self.digests

    def list_digests(self) -> tuple[str, ...]:
        """Returns the digests; none for images."""
        return () if self.digests is None else tuple(self.digests.tolist())

    def sort_by_group(self) -> Self:
        """Returns the same examples in the order of their groups."""
        if self.groups is None:
            return self
        return self.select(np.argsort(self.groups, kind="stable"))

    def select(self, positions: np.ndarray) -> Self:
        """Returns the examples at some positions, int [n], or with more axes.

        The fields in `SHARED` describe all stored examples, so the result shares them.
        Every other field has one entry for each example, and is indexed.
        """
        # If these examples are a selection themselves, the loop replaces the indices.
        selected: dict[str, Any] = {"indices": positions}
        for name, value in vars(self).items():
            if value is not None and name not in SHARED:
                selected[name] = value[positions]
        return dataclasses.replace(self, **selected)


class Dataset(NamedTuple):
    """A data set: its task, and its examples by split."""

    task: Task
    splits: dict[str, Examples]


def cumulative_max(values: Arrays) -> Arrays:
    """Returns the largest value so far at each time step of [n, time, features]."""
    if isinstance(values, np.ndarray):
        return np.maximum.accumulate(values, axis=1)
    import jax  # which those who read files only need not wait for

    # `jnp.maximum.accumulate` needs a fixed number of time steps, unlike exports.
    return jax.lax.cummax(values, axis=1)


def select_columns(values: np.ndarray, columns: np.ndarray | None) -> np.ndarray:
    """Returns the columns of the last axis; None stands for all."""
    return values if columns is None else np.take(values, columns, axis=-1)


def find_padding(time_steps: int, lengths: np.ndarray) -> np.ndarray:
    """Returns which time steps are padding, bool [n, time]."""
    return np.arange(time_steps) >= lengths[:, None]
