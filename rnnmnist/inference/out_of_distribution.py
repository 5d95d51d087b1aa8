"""Out-of-distribution check: whether an image resembles the digit predicted for it.

A classifier assigns one of its classes to every image, often with high confidence. The
check therefore also compares the blurred image with real digits: it measures the
distance to a PCA subspace of the predicted class. The threshold is a quantile of the
distances of held-out digits.

The subspaces are independent of the network. `tools/make_out_of_distribution.py` fits
them to the 5,000 embedded images. They are quantized to bytes so that the drawing page
can carry them and apply the same check.
"""

import functools
from pathlib import Path
from typing import NamedTuple

import numpy as np
from scipy import ndimage

PATH = Path(__file__).parent / "out_of_distribution.npz"
BLUR = 1.0  # pixels, standard deviation; makes distances tolerate small shifts
MIN_PROBABILITY = 0.9  # of a prediction that is accepted as a digit


class OutOfDistributionCheck(NamedTuple):
    """A PCA subspace for each class, and the largest accepted distance to it."""

    means: np.ndarray  # uint8 [classes, pixels]
    components: np.ndarray  # int8 [classes, dimensions, pixels]
    scales: np.ndarray  # float32 [classes, dimensions]; normalize the components
    max_distance: float

    def distances(self, images: np.ndarray, classes: np.ndarray) -> np.ndarray:
        """Returns the distances of images from their classes' subspaces, float32 [n].

        A distance is the Euclidean norm of the residual of the blurred image, whose
        levels are from 0 to 1.

        Args:
            images: uint8 [n, 28, 28], preprocessed as MNIST's are.
            classes: int [n], the predicted classes.
        """
        pixels = blur(images)
        squares = np.zeros(len(images), np.float32)
        for label in np.unique(classes):
            selected = classes == label
            centred = pixels[selected] - self.means[label].astype(np.float32) / 255
            components = self.components[label].astype(np.float32)
            projections = centred @ components.T * self.scales[label]
            squares[selected] = (centred**2).sum(-1) - (projections**2).sum(-1)
        return np.sqrt(np.maximum(squares, 0))

    def is_digit(self, images: np.ndarray, probabilities: np.ndarray) -> np.ndarray:
        """Returns whether images resemble the digits predicted for them, bool [n].

        Args:
            images: uint8 [n, 28, 28], preprocessed as MNIST's are.
            probabilities: float [n, classes], after the last row.
        """
        near = self.distances(images, probabilities.argmax(-1)) <= self.max_distance
        confident = probabilities.max(-1) >= MIN_PROBABILITY
        return images.any((1, 2)) & confident & near


@functools.cache
def load() -> OutOfDistributionCheck:
    """Loads the check that is shipped with the package."""
    with np.load(PATH, allow_pickle=False) as file:
        means, components, scales, max_distance = (
            file[name] for name in OutOfDistributionCheck._fields
        )
    return OutOfDistributionCheck(means, components, scales, float(max_distance))


def blur(images: np.ndarray) -> np.ndarray:
    """Blurs images, uint8 [n, rows, columns]; returns float32 [n, pixels] up to 1."""
    levels = images.astype(np.float32) / 255
    return ndimage.gaussian_filter(levels, (0, BLUR, BLUR)).reshape(len(images), -1)
