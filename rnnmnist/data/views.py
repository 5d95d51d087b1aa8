"""Views: the order in which a sequence reads the pixels of an image."""

import functools
import hashlib
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from rnnmnist.config.schema import DataConfig
from rnnmnist.config.tasks import Task
from rnnmnist.errors import UserError

if TYPE_CHECKING:
    import jax


class View(NamedTuple):
    """What is read in a time step: a row, a column, or pixels in some order."""

    name: str  # rows, columns, pixels or permuted
    permutation: str  # of permuted pixels: bit_reversal or random:SEED
    pixels_per_step: int = 1  # of pixels and permuted pixels

    @classmethod
    def of(cls, config: DataConfig, task: Task) -> "View | None":
        """Returns the view of a run's images; None for sequences."""
        return cls.from_config(config) if task.image_shape else None

    @classmethod
    def from_config(cls, config: DataConfig) -> "View":
        """Returns the view of images that the settings describe."""
        return cls(config.view, config.permutation, config.pixels_per_step)

    def shape(self, image_shape: tuple[int, int]) -> tuple[int, int]:
        """Returns the number of time steps and of features."""
        rows, columns = image_shape
        pixels = rows * columns
        features = self.pixels_per_step
        if pixels % features:
            fits = max(n for n in range(1, features) if pixels % n == 0)
            raise UserError(
                f"data.pixels_per_step: must divide the {pixels} pixels of an image, "
                f"not {features}; use {fits}"
            )
        shapes = {"rows": (rows, columns), "columns": (columns, rows)}
        return shapes.get(self.name, (pixels // features, features))

    def __call__(self, images: "jax.Array") -> "jax.Array":
        """Converts images to sequences, float32 [n, time, features].

        They are [n, rows, columns], uint8 or, from 0 to 1, float32.
        """
        if images.dtype == np.uint8:
            images = images.astype(np.float32) / 255
        if self.name == "rows":
            return images
        if self.name == "columns":
            return images.mT
        count = images.shape[0]  # can be symbolic, as for an export
        pixels = images.reshape(count, -1)
        if self.name == "permuted":
            pixels = pixels[:, permutation(self.permutation, pixels.shape[1])]
        return pixels.reshape(count, -1, self.pixels_per_step)


@functools.cache
def permutation(name: str, pixels: int) -> np.ndarray:
    """Returns the pixel, in row order, that is read at each time, int32 [pixels].

    `bit_reversal` reverses the bits of the numbers below the next power of two and
    keeps those below `pixels`, in that order. `random:SEED` is independent of the seed
    of a run.

    References:
        Gu, Goel, Ré, "Efficiently Modeling Long Sequences with Structured State
        Spaces", ICLR 2022, whose code permutes MNIST by bit reversal.
    """
    if name == "bit_reversal":
        bits = (pixels - 1).bit_length()
        order = [int(f"{i:0{bits}b}"[::-1], 2) for i in range(2**bits)]
        return np.array([index for index in order if index < pixels], np.int32)
    seed = int(name.removeprefix("random:"))
    # Not a Generator, whose stream may change between versions of NumPy.
    return np.random.RandomState(seed).permutation(pixels).astype(np.int32)


def permutation_sha256(name: str, pixels: int) -> str:
    """Returns the SHA-256 over the indices as little-endian int32."""
    return hashlib.sha256(permutation(name, pixels).astype("<i4").tobytes()).hexdigest()
