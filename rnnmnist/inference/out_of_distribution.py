"""Whether an image looks like the digit that it was taken for.

A network that knows ten digits answers with one of them whatever it is shown. It may
be unsure, and it is often sure; so the image is compared with real digits, too: those
of a class lie near a flat of few dimensions, and what is no such digit lies far from
it. How far is too far is what few of the digits that were held out are.

The flats come with the package: `tools/make_likeness.py` makes them from the 5,000
images that it ships, which are enough for this, whatever the network. They are kept in
bytes, small enough for the page in a browser, which so decides as this room does.
"""

import functools
from pathlib import Path
from typing import NamedTuple

import numpy as np
from scipy import ndimage

PATH = Path(__file__).parent / "out_of_distribution.npz"
BLUR = 1.0  # pixels, so that a stroke beside another is near it
SURE = 0.9  # the least probability of an answer


class Likeness(NamedTuple):
    """A flat for each digit, and how far from it a digit may lie."""

    means: np.ndarray  # uint8 [classes, pixels], the flats' points as images
    axes: np.ndarray  # int8 [classes, dimensions, pixels], their directions
    scales: np.ndarray  # float32 [classes, dimensions], which make those of length 1
    farthest: float

    def distances(self, images: np.ndarray, digits: np.ndarray) -> np.ndarray:
        """How far images are from the flats of digits, float32 [n].

        The root of summed squares, of levels from 0 to 1, over all blurred pixels.

        Args:
            images: uint8 [n, 28, 28], prepared as MNIST's are.
            digits: int [n], what each was taken for.
        """
        pixels = blurred(images)
        squares = np.zeros(len(images), np.float32)
        for digit in np.unique(digits):
            own = digits == digit
            apart = pixels[own] - self.means[digit].astype(np.float32) / 255
            along = apart @ self.axes[digit].astype(np.float32).T * self.scales[digit]
            squares[own] = (apart**2).sum(-1) - (along**2).sum(-1)
        return np.sqrt(np.maximum(squares, 0))

    def look_like(self, images: np.ndarray, beliefs: np.ndarray) -> np.ndarray:
        """Whether images look like digits at all, those that are believed in.

        Args:
            images: uint8 [n, 28, 28], prepared as MNIST's are.
            beliefs: probabilities after the last row, float [n, classes].

        Returns:
            bool [n].
        """
        near = self.distances(images, beliefs.argmax(-1)) <= self.farthest
        return images.any((1, 2)) & (beliefs.max(-1) >= SURE) & near


@functools.cache
def of_digits() -> Likeness:
    """What digits look like."""
    with np.load(PATH, allow_pickle=False) as file:
        kept = {name: file[name] for name in Likeness._fields}
    return Likeness(**kept | {"farthest": float(kept["farthest"])})


def blurred(images: np.ndarray) -> np.ndarray:
    """Levels from 0 to 1 of uint8 [n, rows, columns], float32 [n, pixels]."""
    levels = images.astype(np.float32) / 255
    soft = ndimage.gaussian_filter(levels, (0, BLUR, BLUR))
    return soft.reshape(len(images), -1)
