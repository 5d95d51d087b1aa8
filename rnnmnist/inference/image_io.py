"""Reads images as greyscale arrays. This is the only module that imports Pillow."""

import contextlib
import warnings
from typing import BinaryIO

import numpy as np
from PIL import Image, ImageOps  # noqa: TID251

from rnnmnist.data.sequences.checking import reject_masked
from rnnmnist.errors import UserError, prefix_errors

IMAGE_FORMATS = ("BMP", "GIF", "JPEG", "PNG", "WEBP")
FORMAT_HINT = (
    f"use one of the formats {', '.join(IMAGE_FORMATS)}; to classify sequences, pass "
    "the workdir of a run that was trained on sequences"
)
MAX_SIDE = 224  # pixels; larger images are downsampled


def decode(file: BinaryIO, name: str) -> np.ndarray:
    """Decodes an image file of any size and mode into a greyscale array.

    - If the image is animated, the first frame is used.
    - If the image is in colour, the channel with the largest standard deviation is
      used, so that yellow on white stays visible.
    - Transparent pixels become background.

    Returns:
        Float32 [height, width] with values from 0 to 1. Larger images are downsampled,
        so that neither side is longer than `MAX_SIDE`.
    """
    with (
        # Pillow raises many exception types for damaged files.
        prefix_errors(name, FORMAT_HINT),
        warnings.catch_warnings(action="ignore"),  # Pillow warns about damaged metadata
        Image.open(file, formats=IMAGE_FORMATS) as image,
    ):
        with contextlib.suppress(Exception):  # metadata can be damaged
            ImageOps.exif_transpose(image, in_place=True)
        return _to_greyscale(image)


def convert_array(image: np.ndarray) -> np.ndarray:
    """Converts an array to the format of `decode`.

    The array is uint8 [height, width], or [height, width, channels] with RGB or RGBA.
    """
    reject_masked("image", image)
    if image.dtype != np.uint8:
        raise UserError(
            f"image: must be uint8, not {image.dtype}; multiply floats from 0 to 1 by "
            "255, and convert them"
        )
    with prefix_errors("image", "pass an array of shape [height, width]"):
        return _to_greyscale(Image.fromarray(image))


def _to_greyscale(image: Image.Image) -> np.ndarray:
    if image.mode.startswith("I"):  # 16-bit greyscale
        image = Image.fromarray((np.asarray(image) // 256).astype(np.uint8))
    side = min(MAX_SIDE, max(image.size))
    pixels = resize(np.asarray(image.convert("RGBA")), side) / 255
    colours, opacity = pixels[..., :3], pixels[..., 3:]
    # The background becomes white if opaque pixels are mostly dark, otherwise black.
    background = (opacity * (colours - 0.5)).sum() < 0
    channels = colours * opacity + background * (1 - opacity)
    return channels[..., np.argmax(channels.std(axis=(0, 1)))]


def resize(pixels: np.ndarray, longer_side: int) -> np.ndarray:
    """Resizes an image so that its longer side has `longer_side` pixels.

    Downsampling uses a box filter, and upsampling uses a bicubic filter.
    """
    image = Image.fromarray(pixels)
    scale = longer_side / max(image.size)
    width, height = (max(1, round(side * scale)) for side in image.size)
    method = Image.Resampling.BOX if scale < 1 else Image.Resampling.BICUBIC
    return np.asarray(image.resize((width, height), method), np.float32)
