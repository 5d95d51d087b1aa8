"""Converts digit images to MNIST's format, which networks trained on MNIST expect.

MNIST digits are light on a black background and antialiased. They are scaled to fit in
a box of 20 x 20 pixels, with their aspect ratio preserved, and placed in an image of
28 x 28 pixels, whose centre is the centre of mass of the digit.

References:
    LeCun, Bottou, Bengio, Haffner, "Gradient-Based Learning Applied to Document
    Recognition", Proceedings of the IEEE 86(11), 1998.
"""

import numpy as np
from scipy import ndimage

from rnnmnist.inference.image_io import resize

IMAGE_SIDE = 28  # pixels
BOX_SIDE = 20  # pixels; the longer side of a digit's bounding box
# Pixels; the centre of mass of an MNIST digit is within half a pixel of this position.
CENTRE = 14.0
OVERSAMPLING = 8  # resolution for stroke normalization, relative to MNIST
STROKE_WIDTH_RANGE = (2.6, 3.2)  # pixels
MIN_CONTRAST = 0.14  # between foreground and background, relative to white
MIN_FOREGROUND = 0.25  # pixels with lower foreground values are not digit pixels
MIN_BACKGROUND = 0.3  # lowest background brightness, relative to the brightest pixel
CLOSING_WINDOW = 0.36  # relative to the longer side of the image


def preprocess(image: np.ndarray) -> np.ndarray:
    """Converts an image of one digit to MNIST's format.

    An image that already has this format is returned unchanged.

    Args:
        image: greyscale [height, width] with values from 0 to 1, either dark on light
            or light on dark.

    Returns:
        Uint8 [28, 28], all 0 if no digit is found.
    """
    image = np.asarray(image, np.float32)
    if _is_preprocessed(image):
        return np.rint(255 * image).astype(np.uint8)
    foreground = extract_foreground(image)
    if not foreground.any():
        return np.zeros((IMAGE_SIDE, IMAGE_SIDE), np.uint8)
    return centre(normalize_strokes(_crop(foreground, MIN_FOREGROUND)))


def _is_preprocessed(image: np.ndarray) -> bool:
    """Returns True if the image already has MNIST's format."""
    if image.shape != (IMAGE_SIDE, IMAGE_SIDE) or image.max() < 0.5:
        return False
    cropped = _crop(image, 0)
    offset = np.abs(np.array(ndimage.center_of_mass(image)) - CENTRE).max()
    return max(cropped.shape) <= BOX_SIDE and bool(offset <= 1)


def _crop(pixels: np.ndarray, threshold: float) -> np.ndarray:
    """Crops an image to the bounding box of all pixels above a threshold."""
    (bounding_box,) = ndimage.find_objects((pixels > threshold).astype(int))
    cropped: np.ndarray = pixels[bounding_box]
    return cropped


def extract_foreground(image: np.ndarray) -> np.ndarray:
    """Separates a digit from its background, even under uneven lighting.

    A light digit on a dark background is inverted first. The background is then
    estimated by a morphological closing. Its window is wider than the strokes of the
    digit, but narrower than the edge of a shadow. Pixels darker than the background
    belong to the digit.

    Returns:
        [height, width], from 0 for the background to 1 for the digit. All 0 if the
        contrast is less than `MIN_CONTRAST` or close to the noise level.
    """
    image = _smooth(image)
    # The largest deviations from the local mean are strokes. If they are positive, the
    # digit is lighter than the background.
    window = max(3, round(0.6 * min(image.shape)))
    local_mean = ndimage.uniform_filter(image, window, mode="nearest")
    is_light_digit = ((image - local_mean) ** 3).sum() > 0
    if is_light_digit:
        image = 1 - image
    margin = max(1, round(CLOSING_WINDOW * max(image.shape)) // 2)
    # The padding extrapolates brightness gradients, which a closing would flatten. Odd
    # reflection turns dark strokes into values above the maximum, which are clipped.
    padded = np.pad(image, margin, "reflect", reflect_type="odd")
    padded = np.minimum(padded, image.max())
    window = 2 * margin + 1
    background = ndimage.grey_closing(padded, (window, window))
    background = background[margin:-margin, margin:-margin]
    background = np.maximum(background, max(MIN_CONTRAST, MIN_BACKGROUND * image.max()))
    contrast = background - image
    if not is_light_digit:  # dark ink absorbs a fraction of the light
        contrast = contrast / background
    # Strokes can cover most of an image, so estimate the noise from the background.
    is_background = contrast <= max(contrast.max() / 4, contrast.min())
    offset = np.median(contrast[is_background])
    deviations = np.abs(contrast[is_background] - offset)
    noise = 1.4826 * float(np.median(deviations))
    contrast = contrast - offset
    strokes = contrast[contrast > max(MIN_CONTRAST / 2, 4 * noise)]
    stroke_contrast = float(np.percentile(strokes, 90)) if len(strokes) else 0.0
    if stroke_contrast < max(MIN_CONTRAST, 8 * noise):
        return np.zeros_like(image)
    low = max(0.1 * stroke_contrast, 3 * noise)
    high = 0.85 * stroke_contrast
    foreground = np.clip((contrast - low) / (high - low), 0, 1)
    return foreground * _digit_mask(foreground)


def _smooth(image: np.ndarray) -> np.ndarray:
    """Blurs an image in proportion to the square root of its noise level.

    For example, this removes the dots of a dithered image. The blur radius is
    proportional to the longer side of the image. If the longer side is below 96
    pixels, the radius is constant, because dots are not smaller in smaller images.
    """
    side = max(image.shape)
    local_mean = ndimage.uniform_filter(image, max(1, side // 20), mode="nearest")
    noise = 1.4826 * float(np.median(np.abs(image - local_mean)))
    sigma = noise**0.5 * max(side / 32, 3)
    return ndimage.gaussian_filter(image, sigma, mode="nearest")


def _digit_mask(foreground: np.ndarray) -> np.ndarray:
    """Returns a mask of the connected components that belong to the digit.

    Specks do not belong to the digit. Nor do components that touch the border, if
    another component is large enough to be the digit.
    """
    components, count = ndimage.label(foreground > MIN_FOREGROUND, np.ones((3, 3)))
    if count < 2:
        return np.ones_like(foreground, bool)
    labels = np.arange(1, count + 1)
    mass = ndimage.sum_labels(foreground, components, labels)
    borders = [components[0], components[-1], components[:, 0], components[:, -1]]
    touches_border = np.isin(labels, np.concatenate(borders))
    if mass[~touches_border].max(initial=0) > 0.1 * mass.max():
        mass = np.where(touches_border, 0, mass)
    mask = np.concatenate([[False], mass > 0.04 * mass.max()])[components]
    return ndimage.binary_dilation(mask, iterations=2)


def normalize_strokes(cropped: np.ndarray) -> np.ndarray:
    """Thickens or thins strokes so that their width is in `STROKE_WIDTH_RANGE`.

    Args:
        cropped: the cropped foreground, [height, width].

    Returns:
        The strokes at a resolution that is `OVERSAMPLING` times that of MNIST.
    """
    strokes = np.clip(resize(cropped, BOX_SIDE * OVERSAMPLING), 0, 1)
    strokes = np.pad(strokes, 2 * OVERSAMPLING)
    mask = strokes > 0.5
    if not mask.any():
        return strokes
    width = stroke_width(mask) / OVERSAMPLING
    target_width = float(np.clip(width, *STROKE_WIDTH_RANGE))
    if target_width == width:
        return strokes
    change = OVERSAMPLING * abs(target_width - width) / 2  # on each side
    if target_width > width:
        distances = change + 1 - ndimage.distance_transform_edt(~mask)
    else:
        distances = ndimage.distance_transform_edt(mask)
        # Thin the narrow parts of the strokes less.
        radii = ndimage.maximum_filter(distances, round(OVERSAMPLING * width))
        min_radius = OVERSAMPLING * STROKE_WIDTH_RANGE[0] / 2
        distances -= np.clip(radii - min_radius, 0, change)
    return np.clip(distances, 0, 1).astype(np.float32)


def stroke_width(mask: np.ndarray) -> float:
    """Estimates the mean stroke width in a mask, in pixels.

    In a stroke of width w, the mean distance to the nearest edge is w / 4.
    """
    distances = ndimage.distance_transform_edt(mask)[mask] - 0.5
    return 4 * float(distances.mean())


def centre(strokes: np.ndarray) -> np.ndarray:
    """Scales strokes to MNIST's size, and places them in an image, uint8 [28, 28].

    The centre of mass of the strokes is at the centre of the image.
    """
    digit = np.clip(resize(_crop(strokes, MIN_FOREGROUND), BOX_SIDE), 0, 1)
    height, width = digit.shape
    offset = np.rint(CENTRE - np.array(ndimage.center_of_mass(digit))).astype(int)
    top, left = np.clip(offset, 0, [IMAGE_SIDE - height, IMAGE_SIDE - width])
    image = np.zeros((IMAGE_SIDE, IMAGE_SIDE), np.float32)
    image[top : top + height, left : left + width] = digit
    return np.rint(255 * image).astype(np.uint8)
