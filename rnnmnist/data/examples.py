"""Examples as NumPy arrays on the host, and their conversion to network inputs."""

import dataclasses
import functools
import hashlib
from typing import TYPE_CHECKING, Any, NamedTuple, Self, TypeVar

import numpy as np

from rnnmnist.config.tasks import Task

SPLITS = ("train", "validation", "test")
# Fields of `Inputs` that all examples share; other fields have one entry per example.
SHARED_FIELDS = ("stored", "normalization", "ids")


if TYPE_CHECKING:
    import jax

Arrays = TypeVar("Arrays", np.ndarray, "jax.Array")


class View(NamedTuple):
    """How a network reads an image: by rows, by columns, or pixel by pixel."""

    name: str = "rows"  # rows, columns, pixels or permuted
    permutation: str = "bit_reversal"  # or random:SEED; only for the view `permuted`

    def __call__(self, images: Arrays) -> Arrays:
        """Converts images to sequences.

        Args:
            images: [n, rows, columns], uint8, or float32 from 0 to 1.

        Returns:
            Float32 [n, time, features].
        """
        if images.dtype == np.uint8:
            images = images.astype(np.float32) / 255
        if self.name == "rows":
            return images
        if self.name == "columns":
            return images.mT
        # In exports, the number of images is symbolic.
        pixels = images.reshape(images.shape[0], -1)
        if self.name == "permuted":
            pixels = pixels[:, permutation(self.permutation, pixels.shape[1])]
        return pixels[..., None]


@functools.cache
def permutation(name: str, num_pixels: int) -> np.ndarray:
    """Returns the row-major index of the pixel to read at each time step.

    `bit_reversal` reverses the bits of all integers below the next power of two, and
    drops results that are not below `num_pixels`. `random:SEED` is independent of the
    run's seed.

    Returns:
        Int32 [num_pixels].

    References:
        Gu, Goel, Ré, "Efficiently Modeling Long Sequences with Structured State
        Spaces", ICLR 2022. Their code permutes MNIST by bit reversal.
    """
    if name == "bit_reversal":
        bits = (num_pixels - 1).bit_length()
        order = [int(f"{i:0{bits}b}"[::-1], 2) for i in range(2**bits)]
        return np.array([index for index in order if index < num_pixels], np.int32)
    seed = int(name.removeprefix("random:"))
    # RandomState is frozen; Generator streams may change between NumPy versions.
    return np.random.RandomState(seed).permutation(num_pixels).astype(np.int32)


def permutation_sha256(name: str, num_pixels: int) -> str:
    """Hashes a permutation with SHA-256, as little-endian int32."""
    return hashlib.sha256(
        permutation(name, num_pixels).astype("<i4").tobytes()
    ).hexdigest()


class Normalization(NamedTuple):
    """Standardizes sequences and fills their missing values."""

    mean: np.ndarray  # float64 [features]
    std: np.ndarray  # float64 [features]
    missing: str  # the setting `data.missing`
    max_deviation: float = 1e6  # of valid values from `mean`, in units of `std`

    @classmethod
    def create(cls, task: Task, missing: str) -> "Normalization":
        """Creates the normalization for the sequences of a task."""
        if task.mean is None:
            zeros, ones = np.zeros(task.features), np.ones(task.features)
            return cls(zeros, ones, missing, float(np.finfo(np.float32).max))
        return cls(np.asarray(task.mean), np.asarray(task.std), missing)

    def __call__(self, values: np.ndarray, lengths: np.ndarray | None) -> np.ndarray:
        """Standardizes and fills sequences on the host.

        Args:
            values: numeric [n, time, features].
            lengths: int [n], numbers of time steps, excluding padding; None if no
                sequence is padded.

        Returns:
            Float32 [n, time, features].
        """
        return self.fill(self.standardize(values), lengths)

    def standardize(self, values: Arrays) -> Arrays:
        """Returns (values - mean) / std as float32 [n, time, features].

        Values are first converted to float64, because subtracting a large mean in
        float32 loses precision. JAX supports float64 only within `double_precision`.
        """
        with np.errstate(all="ignore"):  # padding may contain any value
            deviations = values.astype(np.float64, copy=False) - self.mean[None, None]
            return (deviations / self.std[None, None]).astype(np.float32)

    def fill(self, inputs: Arrays, lengths: Arrays | None) -> Arrays:
        """Replaces missing values (NaN) and padding.

        If `missing` is `forward_fill`, a missing value is replaced with the last
        observed value of its feature. Remaining missing values become 0, unless
        `missing` is `error`. Padding always becomes 0.

        Args:
            inputs: float32 [n, time, features].
            lengths: int [n], numbers of time steps, excluding padding; None if no
                sequence is padded.
        """
        xp = inputs.__array_namespace__()  # numpy or jax.numpy
        times = xp.arange(inputs.shape[1])[None, :, None]
        if self.missing == "forward_fill":
            last_observed = cumulative_max(xp.where(xp.isnan(inputs), 0, times))
            inputs = xp.take_along_axis(inputs, last_observed, axis=1)
        if self.missing != "error":
            inputs = xp.where(xp.isnan(inputs), 0, inputs)
        if lengths is not None:
            inputs = xp.where(times < lengths[:, None, None], inputs, 0)
        return inputs

    def find_invalid(self, values: np.ndarray) -> tuple[tuple[int, ...], str] | None:
        """Returns the index of the first invalid value and the reason, or None.

        Args:
            values: numeric [..., features].
        """
        deviations = np.abs(self.standardize(values)).reshape(values.shape)
        # If a training value is infinite, the deviations of all values are NaN.
        with np.errstate(over="ignore"):
            is_infinite = np.isinf(values.astype(np.float32))
        is_invalid = (deviations > self.max_deviation) | is_infinite
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
        return index, (
            f"is {values[index]:.3g}; it must be a float32 number, at most "
            f"{self.max_deviation:.3g} standard deviations from the training mean; fix "
            "it, or mark it as missing"
        )


@dataclasses.dataclass(frozen=True, eq=False)  # arrays have no single truth value
class Inputs:
    """Images or sequences in their stored form, normalized on access."""

    stored: np.ndarray  # uint8 [all, rows, columns], or numeric [all, time, features]
    lengths: np.ndarray | None = None  # int32 [examples]; None: no padding
    indices: np.ndarray | None = None  # int [examples], into `stored`; None: all
    normalization: Normalization | None = None  # None for images
    ids: tuple[str, ...] | None = None  # of all stored examples; None: their indices

    def __len__(self) -> int:
        return len(self.stored if self.indices is None else self.indices)

    @property
    def are_sequences(self) -> bool:
        """Whether the inputs are sequences [n, time, features] instead of images."""
        return self.normalization is not None or self.stored.dtype != np.uint8

    @property
    def time_steps(self) -> int:
        """The number of stored time steps of sequences, including padding."""
        return self.stored.shape[1]

    def raw(self, positions: int | slice | np.ndarray) -> np.ndarray:
        """Returns selected examples in their stored form, including padding."""
        return self.stored[
            positions if self.indices is None else self.indices[positions]
        ]

    def take(self, positions: slice | np.ndarray) -> np.ndarray:
        """Returns selected examples: uint8 images, or normalized float32 sequences."""
        values = self.raw(positions)
        if self.normalization is None:
            return values
        lengths = None if self.lengths is None else self.lengths[positions]
        return self.normalization(values, lengths)

    def name(self, position: int) -> str:
        """Returns the identifier of an example in the data set."""
        index = position if self.indices is None else int(self.indices[position])
        return str(index) if self.ids is None else self.ids[index]

    def strip_padding(self, position: int) -> np.ndarray:
        """Returns one example in its stored form, without padding."""
        length = None if self.lengths is None else self.lengths[position]
        return self.raw(position)[:length]


@dataclasses.dataclass(frozen=True, eq=False, kw_only=True)
class Examples(Inputs):
    """The examples of a split: inputs and labels."""

    labels: np.ndarray  # int32 [examples]
    groups: np.ndarray | None = None  # int or str [examples], such as subjects
    digests: np.ndarray | None = None  # str [examples], of sequences; None for images
    weights: np.ndarray | None = None  # float32 [examples], for the loss; None: all 1

    @property
    def leave_out_groups(self) -> np.ndarray:
        """Cross-validation groups [examples]; each group is left out as a whole.

        If the examples have no groups, identical sequences form a group, and each image
        forms its own group.
        """
        if self.groups is not None:
            return self.groups
        return np.arange(len(self)) if self.digests is None else self.digests

    def list_digests(self) -> tuple[str, ...]:
        """Returns the digests as a tuple; for images, it is empty."""
        return () if self.digests is None else tuple(self.digests.tolist())

    def sort_by_group(self) -> Self:
        """Returns the examples, sorted by group (stable) if they have groups."""
        if self.groups is None:
            return self
        return self.select(np.argsort(self.groups, kind="stable"))

    def select(self, positions: np.ndarray) -> Self:
        """Returns the examples at the given positions, without copying their inputs.

        Args:
            positions: int array of any shape; the labels get the same shape.
        """
        # If `self.indices` is set, the loop replaces this entry.
        fields: dict[str, Any] = {"indices": positions}
        for name, value in vars(self).items():
            if value is not None and name not in SHARED_FIELDS:
                fields[name] = value[positions]
        return dataclasses.replace(self, **fields)


class Dataset(NamedTuple):
    """A data set: its task, and the examples of each split."""

    task: Task
    splits: dict[str, Examples]


def cumulative_max(values: Arrays) -> Arrays:
    """Computes the running maximum along the time axis of [n, time, features]."""
    if isinstance(values, np.ndarray):
        return np.maximum.accumulate(values, axis=1)
    import jax  # not at the top: code that only reads files does not need JAX

    # In exports, the number of time steps is symbolic, which `jnp.maximum.accumulate`
    # does not support.
    return jax.lax.cummax(values, axis=1)


def padding_mask(time_steps: int, lengths: np.ndarray) -> np.ndarray:
    """Returns a mask of the padding, bool [n, time]."""
    return np.arange(time_steps) >= lengths[:, None]
