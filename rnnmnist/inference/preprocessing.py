"""Converts an image of a digit to the format of MNIST.

MNIST's digits are light on a black background, scaled to fit a box of 20 x 20 pixels
with a preserved aspect ratio, antialiased, and centred in 28 x 28 pixels by their
centre of mass. A network trained on MNIST requires this format.

References:
    LeCun, Bottou, Bengio, Haffner, "Gradient-Based Learning Applied to Document
    Recognition", Proceedings of the IEEE 86(11), 1998.
"""

import numpy as np
from scipy import ndimage

from rnnmnist.inference.image_io import resize

SIDE = 28  # pixels, side of an image
BOX = 20  # pixels, side of the bounding box of a digit
CENTRE = 14.0  # pixels, the centre of mass in MNIST, to half a pixel
OVERSAMPLING = 8  # resolution relative to MNIST, to normalize strokes
STROKE_WIDTHS = (2.6, 3.2)  # pixels, target range
MIN_CONTRAST = 0.14  # between foreground and background, relative to white
MIN_FOREGROUND = 0.25  # lowest level of digit pixels
MIN_BACKGROUND = 0.3  # lowest background level, relative to the brightest pixel
CLOSING_WINDOW = 0.36  # relative to the longer side of the image


def preprocess(grey: np.ndarray) -> np.ndarray:
    """Converts an image of one digit to MNIST's format.

    An image that already has this format is returned unchanged.

    Args:
        grey: grey levels [height, width] from 0 to 1, dark on light or light on dark.

    Returns:
        Uint8 [28, 28], all 0 if no foreground is found.
    """
    grey = np.asarray(grey, np.float32)
    if _is_preprocessed(grey):
        return np.rint(255 * grey).astype(np.uint8)
    box = _crop(extract_foreground(grey), MIN_FOREGROUND)
    if box is None:
        return np.zeros((SIDE, SIDE), np.uint8)
    return centre(normalize_strokes(box))


def _is_preprocessed(grey: np.ndarray) -> bool:
    """Returns True if size, background, box and centre match MNIST."""
    if grey.shape != (SIDE, SIDE) or grey.max() < 0.5:
        return False
    box = _crop(grey, 0)
    offset = np.abs(np.array(ndimage.center_of_mass(grey)) - CENTRE).max()
    return box is not None and max(box.shape) <= BOX and bool(offset <= 1)


def _crop(levels: np.ndarray, threshold: float) -> np.ndarray | None:
    """Crops to the bounding box of levels above a threshold; None if there are none."""
    boxes = ndimage.find_objects((levels > threshold).astype(int))
    return levels[boxes[0]] if boxes else None


def extract_foreground(grey: np.ndarray) -> np.ndarray:
    """Separates the digit from a background of any brightness, even in uneven light.

    A morphological closing estimates the background: strokes are narrower than its
    window, but the edge of a shadow is not. Pixels darker than the background belong to
    the digit. Light digits on a dark background are inverted first.

    Returns:
        [height, width], from 0 for the background to 1 for the digit. All 0 if the
        contrast is below `MIN_CONTRAST` or close to the noise.
    """
    if np.ptp(grey) < MIN_CONTRAST:
        return np.zeros_like(grey)
    grey = _smooth(grey)
    # Strokes deviate most from the local mean; light strokes deviate towards white.
    window = max(3, round(0.6 * min(grey.shape)))
    local = ndimage.uniform_filter(grey, window, mode="nearest")
    inverted = ((grey - local) ** 3).sum() > 0
    if inverted:
        grey = 1 - grey
    margin = max(1, round(CLOSING_WINDOW * max(grey.shape)) // 2)
    # The padding extrapolates gradients of the light, which a closing would flatten.
    padded = np.pad(grey, margin, "reflect", reflect_type="odd")
    padded = np.minimum(padded, grey.max())  # reflected strokes would be brighter
    window = 2 * margin + 1
    background = ndimage.grey_closing(padded, (window, window))
    background = background[margin:-margin, margin:-margin]
    background = np.maximum(background, max(MIN_CONTRAST, MIN_BACKGROUND * grey.max()))
    contrast = background - grey
    if not inverted:  # dark ink absorbs a fraction of the light
        contrast = contrast / background
    # Strokes can cover most of an image, so only the background determines the noise.
    is_background = contrast <= max(contrast.max() / 4, contrast.min())
    level = np.median(contrast[is_background])
    deviations = np.abs(contrast[is_background] - level)
    noise = 1.4826 * float(np.median(deviations))
    contrast = contrast - level
    strong = contrast[contrast > max(MIN_CONTRAST / 2, 4 * noise)]
    top = float(np.percentile(strong, 90)) if len(strong) else 0.0
    if top < max(MIN_CONTRAST, 8 * noise):
        return np.zeros_like(grey)
    low = max(0.1 * top, 3 * noise)
    high = 0.85 * top
    foreground = np.clip((contrast - low) / (high - low), 0, 1)
    return foreground * _digit_mask(foreground)


def _smooth(grey: np.ndarray) -> np.ndarray:
    """Blurs an image in proportion to the square root of its noise.

    This removes the dots of a dithered palette, for example. Dots do not shrink with
    the image, so below 96 pixels, the blur does not shrink either.
    """
    side = max(grey.shape)
    local = ndimage.uniform_filter(grey, max(1, side // 20), mode="nearest")
    noise = 1.4826 * float(np.median(np.abs(grey - local)))
    sigma = noise**0.5 * max(side / 32, 3)
    return ndimage.gaussian_filter(grey, sigma, mode="nearest")


def _digit_mask(foreground: np.ndarray) -> np.ndarray:
    """Returns a mask of the connected components that belong to the digit.

    Specks are removed. Components at the border are removed if another component is
    large enough to be the digit.
    """
    components, count = ndimage.label(foreground > MIN_FOREGROUND, np.ones((3, 3)))
    if count < 2:
        return np.ones_like(foreground, bool)
    labels = np.arange(1, count + 1)
    mass = ndimage.sum_labels(foreground, components, labels)
    border = [components[0], components[-1], components[:, 0], components[:, -1]]
    is_at_border = np.isin(labels, np.concatenate(border))
    if mass[~is_at_border].max(initial=0) > 0.1 * mass.max():
        mass = np.where(is_at_border, 0, mass)
    selected = np.concatenate([[False], mass > 0.04 * mass.max()])[components]
    return ndimage.binary_dilation(selected, iterations=2)


def normalize_strokes(box: np.ndarray) -> np.ndarray:
    """Thickens or thins strokes so that their width is in the range `STROKE_WIDTHS`.

    Args:
        box: the cropped foreground, [height, width].

    Returns:
        The strokes, with `OVERSAMPLING` times the resolution of MNIST.
    """
    levels = np.clip(resize(box, BOX * OVERSAMPLING), 0, 1)
    levels = np.pad(levels, 2 * OVERSAMPLING)
    mask = levels > 0.5
    if not mask.any():
        return levels
    width = stroke_width(mask) / OVERSAMPLING
    target = float(np.clip(width, *STROKE_WIDTHS))
    if target == width:
        return levels
    change = OVERSAMPLING * abs(target - width) / 2  # on each side
    if target > width:
        distances = change + 1 - ndimage.distance_transform_edt(~mask)
    else:
        distances = ndimage.distance_transform_edt(mask)
        # Narrow parts of the strokes are thinned less.
        radii = ndimage.maximum_filter(distances, round(OVERSAMPLING * width))
        narrowest = OVERSAMPLING * STROKE_WIDTHS[0] / 2
        distances -= np.clip(radii - narrowest, 0, change)
    return np.clip(distances, 0, 1).astype(np.float32)


def stroke_width(mask: np.ndarray) -> float:
    """Estimates the mean stroke width of a mask, in pixels.

    Within a stroke of width w, the mean distance to the nearest edge is w / 4.
    """
    distances = ndimage.distance_transform_edt(mask)[mask] - 0.5
    return 4 * float(distances.mean())


def centre(strokes: np.ndarray) -> np.ndarray:
    """Scales strokes to the box, and centres their mass in an image, uint8 [28, 28]."""
    image = np.zeros((SIDE, SIDE), np.float32)
    box = _crop(strokes, MIN_FOREGROUND)
    if box is not None:
        box = np.clip(resize(box, BOX), 0, 1)
        height, width = box.shape
        offset = np.rint(CENTRE - np.array(ndimage.center_of_mass(box))).astype(int)
        top, left = np.clip(offset, 0, [SIDE - height, SIDE - width])
        image[top : top + height, left : left + width] = box
    return np.rint(255 * image).astype(np.uint8)
