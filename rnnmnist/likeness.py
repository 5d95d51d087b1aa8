"""Whether an image looks like the digit that it was taken for.

A network that knows ten digits answers with one of them whatever it is shown. It may
be unsure, and it is often sure; so the image is compared with real digits, too: those
of a class lie near a flat of few dimensions, and what is no such digit lies far from
it. How far is too far is what few of the digits that were held out are.

The 5,000 images that the package ships are enough for this, whatever the network.
"""

import functools
from typing import NamedTuple

import numpy as np
from scipy import ndimage

from rnnmnist.datasets import embedded

CLASSES = 10
DIMENSIONS = 24  # of a class's flat
BLUR = 1.0  # pixels, so that a stroke beside another is near it
REFUSED = 0.01  # of the digits that were held out
SURE = 0.9  # the least probability of an answer


class Likeness(NamedTuple):
    """A flat for each digit, and how far from it a digit may lie."""

    means: np.ndarray  # float32 [classes, pixels]
    axes: np.ndarray  # float32 [classes, dimensions, pixels], orthonormal
    farthest: float

    def distances(self, images: np.ndarray, digits: np.ndarray) -> np.ndarray:
        """How far images are from the flats of digits, float32 [n].

        The root of summed squares, of levels from 0 to 1, over all blurred pixels.

        Args:
            images: uint8 [n, 28, 28], prepared as MNIST's are.
            digits: int [n], what each was taken for.
        """
        apart = _blurred(images) - self.means[digits]
        inside = np.einsum("np,ndp->nd", apart, self.axes[digits])
        squares = (apart**2).sum(-1) - (inside**2).sum(-1)
        return np.sqrt(np.maximum(squares, 0))

    def looks_like(self, image: np.ndarray, belief: np.ndarray) -> bool:
        """Whether an image looks like a digit at all, the one that is believed in.

        Args:
            image: uint8 [28, 28], prepared as MNIST's are.
            belief: the network's probabilities after the last row, float [classes].
        """
        digits = np.array([int(np.argmax(belief))])
        distance = self.distances(image[None], digits)
        return bool(
            image.any() and belief.max() >= SURE and distance[0] <= self.farthest
        )


@functools.cache
def of_digits() -> Likeness:
    """What digits look like, from the embedded images' training and validation."""
    splits = embedded.splits()
    images, labels = splits["train"]
    pixels = _blurred(images)
    means, axes = [], []
    for digit in range(CLASSES):
        own = pixels[labels == digit]
        mean = own.mean(0)
        _, _, rows = np.linalg.svd(own - mean, full_matrices=False)
        means.append(mean)
        axes.append(rows[:DIMENSIONS])
    likeness = Likeness(np.stack(means), np.stack(axes), np.inf)
    distances = likeness.distances(*splits["validation"])
    return likeness._replace(farthest=float(np.quantile(distances, 1 - REFUSED)))


def _blurred(images: np.ndarray) -> np.ndarray:
    """Float32 [n, pixels] of uint8 [n, rows, columns]."""
    levels = images.astype(np.float32) / 255
    blurred = ndimage.gaussian_filter(levels, (0, BLUR, BLUR))
    return blurred.reshape(len(images), -1)
