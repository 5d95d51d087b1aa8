"""From a picture of a digit to an image as MNIST's are.

MNIST's digits are white ink on black, scaled to fit a box of 20 x 20 pixels with their
aspect kept, grey where the scaling smoothed them, and centred in 28 x 28 by their
centre of mass. A network that has seen nothing else needs the same of a photo.

References:
    LeCun, Bottou, Bengio, Haffner, "Gradient-Based Learning Applied to Document
    Recognition", Proceedings of the IEEE 86(11), 1998.
"""

import functools
from typing import NamedTuple

import numpy as np
from scipy import ndimage

from rnnmnist.inference.image_io import resized

SIDE, BOX = 28, 20  # pixels, of an image and of the box around its ink
CENTRE = 14.0  # the pixel where MNIST's centres of mass lie, to half a pixel
FINE = 8  # pixels of the drawing to one of MNIST's, while strokes are looked at
STROKES = (2.6, 3.2)  # pixels, the range that strokes are brought into
LEAST_CONTRAST = 0.1  # between ink and paper, of all of white
ROUNDS = 4  # of telling paper from ink


class Stages(NamedTuple):
    """A picture on its way, each float32 from 0 to 1 but the last."""

    grey: np.ndarray  # [height, width], as it was read
    ink: np.ndarray  # [height, width], the paper removed: 0 is paper, 1 is ink
    strokes: np.ndarray  # [fine height, fine width], the box around the ink
    image: np.ndarray  # uint8 [28, 28], as MNIST has it

    @property
    def blank(self) -> bool:
        """Whether there is no ink at all."""
        return not self.image.any()


def prepare(grey: np.ndarray) -> Stages:
    """Prepares a picture of one digit as MNIST's were.

    An image that already is as MNIST's are goes through unchanged.

    Args:
        grey: float [height, width] from 0 to 1, dark on light or light on dark.
    """
    grey = np.asarray(grey, np.float32)
    if _is_prepared(grey):
        return Stages(grey, grey, grey, np.rint(255 * grey).astype(np.uint8))
    ink = find_ink(grey)
    rows, columns = (np.flatnonzero(ink.max(axis) > 0.25) for axis in (1, 0))
    if not len(rows):
        nothing = np.zeros((BOX, BOX), np.float32)
        return Stages(grey, ink, nothing, np.zeros((SIDE, SIDE), np.uint8))
    box = ink[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
    strokes = even_strokes(box)
    return Stages(grey, ink, strokes, centred(strokes))


def _is_prepared(grey: np.ndarray) -> bool:
    """Whether an image is one of MNIST's, as far as one can see."""
    if grey.shape != (SIDE, SIDE):
        return False
    frame = np.ones_like(grey, bool)
    frame[2:-2, 2:-2] = False
    if grey[frame].mean() > 0.05 or grey.max() < 0.5:
        return False
    rows, columns = (np.flatnonzero(grey.max(axis) > 0) for axis in (1, 0))
    high, wide = np.ptp(rows) + 1, np.ptp(columns) + 1
    middle = np.array(ndimage.center_of_mass(grey))
    return bool(max(high, wide) <= BOX and np.abs(middle - CENTRE).max() <= 1)


def find_ink(grey: np.ndarray) -> np.ndarray:
    """Tells ink from paper, whatever their colours and however the light falls.

    The paper is a quadratic surface through all pixels that do not stand out of it, at
    first through the border's. Ink is what differs from it on one side, the one where
    there is more. Dark ink takes a share of the light that falls on it, so it is
    measured in shares of the paper's level.

    Args:
        grey: float32 [height, width].

    Returns:
        float32 [height, width]: 0 is paper, 1 is ink; all 0 if there is none.
    """
    paper, noise = find_paper(grey)
    light, dark = np.maximum(grey - paper, 0), np.maximum(paper - grey, 0)
    stroke = light
    if (dark**2).sum() > (light**2).sum():
        level = max(float(np.median(paper)), 0.1)
        stroke, noise = dark / np.maximum(paper, 0.1), noise / level
    strong = stroke[stroke > max(LEAST_CONTRAST / 2, 4 * noise)]
    top = float(np.percentile(strong, 90)) if len(strong) else 0.0
    if top < max(LEAST_CONTRAST, 6 * noise):
        return np.zeros_like(grey)
    low, high = max(0.1 * top, 3 * noise), 0.85 * top
    ink = np.clip((stroke - low) / (high - low), 0, 1)
    return ink * _digit(ink)


def find_paper(grey: np.ndarray) -> tuple[np.ndarray, float]:
    """The paper's own level at each pixel, float32 [height, width], and its noise."""
    stride = max(1, max(grey.shape) // 100)  # of what the surface is fitted to
    some = grey[::stride, ::stride]
    surface = _quadratic(*grey.shape)
    terms = surface[::stride, ::stride]
    edge = max(1, round(0.04 * min(some.shape)))
    paper = np.ones_like(some, bool)
    paper[edge:-edge, edge:-edge] = False
    difference, noise = some - np.median(some[paper]), 0.0
    for _ in range(ROUNDS):
        spread = np.median(np.abs(difference[paper]))
        paper = paper & (np.abs(difference) <= max(0.02, 4 * spread))
        inside = terms[paper]
        weights = np.linalg.pinv(inside.T @ inside) @ (inside.T @ some[paper])
        difference = some - terms @ weights
        noise = 1.4826 * float(np.median(np.abs(difference[paper])))
        paper = np.abs(difference) <= max(0.03, 4 * noise)
    return (surface @ weights).astype(np.float32), noise


@functools.lru_cache(maxsize=8)
def _quadratic(height: int, width: int) -> np.ndarray:
    """The terms of a quadratic surface, float64 [height, width, 6]."""
    y, x = np.meshgrid(
        np.linspace(-1, 1, height), np.linspace(-1, 1, width), indexing="ij"
    )
    return np.stack([np.ones_like(x), x, y, x * x, x * y, y * y], -1)


def _digit(ink: np.ndarray) -> np.ndarray:
    """Where the digit is: without specks, and what comes in from the border."""
    parts, count = ndimage.label(ink > 0.25, np.ones((3, 3)))
    if count < 2:
        return np.ones_like(ink)
    mass = ndimage.sum_labels(ink, parts, np.arange(1, count + 1))
    border = np.concatenate([parts[0], parts[-1], parts[:, 0], parts[:, -1]])
    at_border = np.isin(np.arange(1, count + 1), border)
    inside = mass[~at_border]
    if len(inside) and inside.max() > 0.1 * mass.max():
        mass = np.where(at_border, 0, mass)
    keep = np.concatenate([[False], mass > 0.04 * mass.max()])[parts]
    return ndimage.binary_dilation(keep, iterations=2).astype(np.float32)


def even_strokes(box: np.ndarray) -> np.ndarray:
    """Thickens hairlines and thins what was painted with a brush.

    Args:
        box: ink, float [height, width], that touches all four sides.

    Returns:
        Ink at `FINE` pixels to one of MNIST's, with strokes in the range of `STROKES`.
    """
    high, wide = box.shape
    scale = BOX * FINE / max(high, wide)
    fine = np.clip(
        resized(box, max(1, round(high * scale)), max(1, round(wide * scale))), 0, 1
    )
    fine = np.pad(fine, 2 * FINE)
    solid = fine > 0.5
    if not solid.any():
        return fine
    width = stroke_width(solid) / FINE
    wanted = float(np.clip(width, *STROKES))
    if wanted == width:
        return fine
    by = FINE * (wanted - width) / 2  # on each side
    if by > 0:
        outside = ndimage.distance_transform_edt(~solid)
        return np.clip(by + 1 - outside, 0, 1).astype(np.float32)
    inside = ndimage.distance_transform_edt(solid)
    return np.clip(inside + by, 0, 1).astype(np.float32)


def stroke_width(solid: np.ndarray) -> float:
    """How wide strokes are, in pixels, in the mean.

    Across a stroke of width w, the distance to its edge is w/4 in the mean.

    Args:
        solid: where ink is, bool [height, width].
    """
    distances = ndimage.distance_transform_edt(solid)[solid] - 0.5
    return 4 * float(distances.mean())


def centred(strokes: np.ndarray) -> np.ndarray:
    """Scales ink into the box and centres it by its mass.

    Args:
        strokes: ink, float [height, width] from 0 to 1.

    Returns:
        uint8 [28, 28].
    """
    rows, columns = (np.flatnonzero(strokes.max(axis) > 0.25) for axis in (1, 0))
    image = np.zeros((SIDE, SIDE), np.float32)
    if not len(rows):
        return image.astype(np.uint8)
    box = strokes[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
    scale = BOX / max(box.shape)
    high, wide = (max(1, round(side * scale)) for side in box.shape)
    small = np.clip(resized(box, high, wide), 0, 1)
    middle = np.array(ndimage.center_of_mass(small))
    top, left = np.clip(
        np.rint(CENTRE - middle).astype(int), 0, [SIDE - high, SIDE - wide]
    )
    image[top : top + high, left : left + wide] = small
    return np.rint(255 * image).astype(np.uint8)
