"""Reads images as grey levels. No other module imports Pillow."""

import contextlib
import warnings
from typing import BinaryIO

import numpy as np
from PIL import Image, ImageOps  # noqa: TID251

from rnnmnist.config.settings import expand_path
from rnnmnist.data.sequences.checking import reject_masked
from rnnmnist.errors import UserError, prefix_errors

IMAGE_FORMATS = ("BMP", "GIF", "JPEG", "PNG", "WEBP")
READABLE = (
    f"use one of the formats {', '.join(IMAGE_FORMATS)}; for sequences, name the "
    "workdir of a run on sequences"
)
MAX_SIDE = 224  # pixels; larger images are downsampled


def read(name: str) -> np.ndarray:
    """Reads an image file of any size and mode as grey levels.

    - An animation is reduced to its first frame.
    - A colour image is reduced to the channel with the largest standard deviation, so
      that yellow on white stays visible.
    - Transparent pixels become background.

    Returns:
        Float32 [height, width] from 0 to 1. Neither side exceeds `MAX_SIDE`.
    """
    with expand_path(name).open("rb") as file:
        return decode(file, name)


def decode(file: BinaryIO, name: str) -> np.ndarray:
    """Decodes an open image file to grey levels, like `read`."""
    with (
        # Pillow raises many types of exceptions for damaged files.
        prefix_errors(name, READABLE),
        warnings.catch_warnings(action="ignore"),  # about damaged metadata
        # A small file can contain more pixels than fit into memory.
        warnings.catch_warnings(
            action="error", category=Image.DecompressionBombWarning
        ),
        Image.open(file, formats=IMAGE_FORMATS) as image,
    ):
        image.draft("RGB", (2 * MAX_SIDE, 2 * MAX_SIDE))
        with contextlib.suppress(Exception):  # damaged metadata is ignored
            ImageOps.exif_transpose(image, in_place=True)
        return _to_grey(image)


def convert_array(image: np.ndarray) -> np.ndarray:
    """Converts an array, uint8 or float [height, width], to the format of `read`."""
    reject_masked("image", image)
    image = np.asarray(image)
    is_grey = image.dtype == np.uint8 or image.dtype.kind == "f"
    if not is_grey or image.ndim != 2 or not image.size:
        raise UserError(
            "image: must be uint8, or floats from 0 to 1, of shape [height, width] "
            f"without channels, not {image.dtype} of shape {image.shape}"
        )
    levels = image.astype(np.float32)
    if image.dtype == np.uint8:
        levels /= 255
    low, high = levels.min(), levels.max()
    if not 0 <= low <= high <= 1:  # also rejects NaN
        raise UserError(
            f"image: floats must be from 0 to 1, not from {low:g} to {high:g}; scale "
            "them"
        )
    return _downsample(levels)


def _to_grey(image: Image.Image) -> np.ndarray:
    if image.mode.startswith("I"):  # 16-bit grey
        return _downsample(np.asarray(image, np.float32) / 65_535)
    pixels = _downsample(np.asarray(image.convert("RGBA"))) / 255
    colours, opacity = pixels[..., :3], pixels[..., 3:]
    # If the opaque pixels are dark, the background becomes white, otherwise black.
    background = (opacity * (colours - 0.5)).sum() < 0
    channels = colours * opacity + background * (1 - opacity)
    return channels[..., np.argmax(channels.std(axis=(0, 1)))]


def _downsample(pixels: np.ndarray) -> np.ndarray:
    return resize(pixels, min(MAX_SIDE, max(pixels.shape[:2])))


def resize(pixels: np.ndarray, longest: int) -> np.ndarray:
    """Scales an image so that its longest side is `longest` pixels.

    Downsampling uses a box filter, upsampling a bicubic filter.
    """
    image = Image.fromarray(pixels)
    scale = longest / max(image.size)
    width, height = (max(1, round(side * scale)) for side in image.size)
    method = Image.Resampling.BOX if scale < 1 else Image.Resampling.BICUBIC
    return np.asarray(image.resize((width, height), method), np.float32)
