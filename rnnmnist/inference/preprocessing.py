"""Preprocesses an image of a digit as MNIST's images were.

MNIST's digits are light on a black background, scaled to fit a box of 20 x 20 pixels
with their aspect ratio kept, antialiased, and centred in 28 x 28 pixels by their centre
of mass. A network that was trained on them needs other images in the same form.

References:
    LeCun, Bottou, Bengio, Haffner, "Gradient-Based Learning Applied to Document
    Recognition", Proceedings of the IEEE 86(11), 1998.
"""

import numpy as np
from scipy import ndimage

from rnnmnist.inference.image_io import resize

SIDE = 28  # pixels, of an image
BOX = 20  # pixels, of the box around its digit
CENTRE = 14.0  # pixel coordinate of MNIST's centres of mass, to half a pixel
OVERSAMPLING = 8  # pixels to one of MNIST's, to normalize stroke widths
STROKE_WIDTHS = (2.6, 3.2)  # pixels, the target range
MIN_CONTRAST = 0.14  # between foreground and background, relative to white
MIN_FOREGROUND = 0.25  # level from which a pixel counts as part of the digit
DARKEST = 0.3  # lowest level of the background, relative to the highest of the image
CLOSING = 0.36  # size of the window of the closing, relative to the longer side


def preprocess(grey: np.ndarray) -> np.ndarray:
    """Preprocesses an image of one digit; one that has MNIST's form is unchanged.

    Grey levels [height, width] are from 0 to 1, dark on light or light on dark. Returns
    uint8 [28, 28], as MNIST's images are, which is 0 without any foreground.
    """
    grey = np.asarray(grey, np.float32)
    if _is_preprocessed(grey):
        return np.rint(255 * grey).astype(np.uint8)
    box = _crop(extract_foreground(grey), MIN_FOREGROUND)
    if box is None:
        return np.zeros((SIDE, SIDE), np.uint8)
    return centre(normalize_strokes(box))


def _is_preprocessed(grey: np.ndarray) -> bool:
    """Whether an image has the size, background, box and centre of MNIST's."""
    if grey.shape != (SIDE, SIDE) or grey.max() < 0.5:
        return False
    box = _crop(grey, 0)
    offset = np.abs(np.array(ndimage.center_of_mass(grey)) - CENTRE).max()
    return box is not None and max(box.shape) <= BOX and bool(offset <= 1)


def _crop(levels: np.ndarray, threshold: float) -> np.ndarray | None:
    """Crops to the bounding box of the levels above a threshold; None without any."""
    boxes = ndimage.find_objects((levels > threshold).astype(int))
    return levels[boxes[0]] if boxes else None


def extract_foreground(grey: np.ndarray) -> np.ndarray:
    """Separates the digit from a background of any brightness under uneven light.

    The background is the closing of the image: strokes are narrower than its window,
    and the edge of a shadow is not. The digit is what is darker; light digits on dark
    are inverted first. The result is 0 for the background and 1 for the digit, and all
    0 if the contrast is below `MIN_CONTRAST` or close to the noise.
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
    margin = max(1, round(CLOSING * max(grey.shape)) // 2)
    # The padding continues a gradient of the light, which a closing would flatten.
    padded = np.pad(grey, margin, "reflect", reflect_type="odd")
    padded = np.minimum(padded, grey.max())  # a reflected stroke would be lighter
    window = 2 * margin + 1
    background = ndimage.grey_closing(padded, (window, window))
    background = background[margin:-margin, margin:-margin]
    background = np.maximum(background, max(MIN_CONTRAST, DARKEST * grey.max()))
    contrast = background - grey
    if not inverted:  # dark ink absorbs a fraction of the light
        contrast = contrast / background
    # Strokes can cover most of an image, so the noise is that of the background only.
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
    """Blurs an image the more, the noisier it is, as with a dithered palette.

    The blur has a lower limit in pixels, because dots do not shrink with an image.
    """
    side = max(grey.shape)
    local = ndimage.uniform_filter(grey, max(1, side // 20), mode="nearest")
    noise = 1.4826 * float(np.median(np.abs(grey - local)))
    sigma = noise**0.5 * max(side / 32, 3)
    return ndimage.gaussian_filter(grey, sigma, mode="nearest")


def _digit_mask(foreground: np.ndarray) -> np.ndarray:
    """Removes specks, and components at the border if another one is large enough."""
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
    """Thickens thin strokes and thins thick ones into the range `STROKE_WIDTHS`.

    Takes the cropped foreground; returns `OVERSAMPLING` pixels to one of MNIST's.
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
        # Parts that are thinner than the rest are thinned less.
        radii = ndimage.maximum_filter(distances, round(OVERSAMPLING * width))
        narrowest = OVERSAMPLING * STROKE_WIDTHS[0] / 2
        distances -= np.clip(radii - narrowest, 0, change)
    return np.clip(distances, 0, 1).astype(np.float32)


def stroke_width(mask: np.ndarray) -> float:
    """Returns the mean stroke width of a mask, in pixels.

    Across a stroke of width w, the mean distance to its edge is w / 4.
    """
    distances = ndimage.distance_transform_edt(mask)[mask] - 0.5
    return 4 * float(distances.mean())


def centre(strokes: np.ndarray) -> np.ndarray:
    """Scales strokes into the box, centred by mass; returns uint8 [28, 28]."""
    image = np.zeros((SIDE, SIDE), np.float32)
    box = _crop(strokes, MIN_FOREGROUND)
    if box is not None:
        box = np.clip(resize(box, BOX), 0, 1)
        height, width = box.shape
        offset = np.rint(CENTRE - np.array(ndimage.center_of_mass(box))).astype(int)
        top, left = np.clip(offset, 0, [SIDE - height, SIDE - width])
        image[top : top + height, left : left + width] = box
    return np.rint(255 * image).astype(np.uint8)
