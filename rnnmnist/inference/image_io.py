"""Reads images as grey levels. The only module that imports Pillow."""

import contextlib
import warnings
from typing import BinaryIO

import numpy as np
from PIL import Image, ImageOps  # noqa: TID251

from rnnmnist.config.settings import expand
from rnnmnist.data.sequences.checking import refuse_masked
from rnnmnist.errors import UserError, prefix_errors

IMAGE_FORMATS = ("BMP", "GIF", "JPEG", "PNG", "WEBP")
READABLE = (
    f"use one of the formats {', '.join(IMAGE_FORMATS)}; for sequences, name the "
    "workdir of a run on sequences"
)
MAX_SIDE = 224  # pixels; larger images are downsampled


def read(name: str) -> np.ndarray:
    """Reads an image file as grey levels, float32 [height, width] from 0 to 1.

    The file can have any size and mode; of an animation, it is the first frame. No side
    of the result is longer than `MAX_SIDE`. For a colour image, it is the channel with
    the largest standard deviation, so that yellow on white is visible. Transparent
    pixels become background.
    """
    with expand(name).open("rb") as file:
        return decode(file, name)


def decode(file: BinaryIO, name: str) -> np.ndarray:
    """Decodes an image file to grey levels, as `read` does."""
    with (
        prefix_errors(name, READABLE),  # Pillow raises many types for a damaged file
        warnings.catch_warnings(action="ignore"),  # of damaged metadata
        # A small file can have more pixels than the memory holds.
        warnings.catch_warnings(
            action="error", category=Image.DecompressionBombWarning
        ),
        Image.open(file, formats=IMAGE_FORMATS) as image,
    ):
        image.draft("RGB", (2 * MAX_SIDE, 2 * MAX_SIDE))
        with contextlib.suppress(Exception):  # damaged metadata are ignored
            ImageOps.exif_transpose(image, in_place=True)
        return _to_grey(image)


def convert_array(image: np.ndarray) -> np.ndarray:
    """Converts an array [height, width] to grey levels, as `read` returns them."""
    refuse_masked("image", image)
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
    if not 0 <= low <= high <= 1:  # NaN is refused, too
        raise UserError(
            f"image: floats must be from 0 to 1, not from {low:g} to {high:g}; scale "
            "them"
        )
    return _downsample(levels)


def _to_grey(image: Image.Image) -> np.ndarray:
    if image.mode.startswith("I"):  # grey of 16 bits
        return _downsample(np.asarray(image, np.float32) / 65_535)
    pixels = _downsample(np.asarray(image.convert("RGBA"))) / 255
    colours, opacity = pixels[..., :3], pixels[..., 3:]
    # The background is white if what is opaque is dark, else black.
    background = (opacity * (colours - 0.5)).sum() < 0
    channels = colours * opacity + background * (1 - opacity)
    return channels[..., np.argmax(channels.std(axis=(0, 1)))]


def _downsample(pixels: np.ndarray) -> np.ndarray:
    return resize(pixels, min(MAX_SIDE, max(pixels.shape[:2])))


def resize(pixels: np.ndarray, longest: int) -> np.ndarray:
    """Scales an image so that its longest side has the given length, in pixels.

    The filter is a box if the image becomes smaller, otherwise bicubic.
    """
    image = Image.fromarray(pixels)
    scale = longest / max(image.size)
    width, height = (max(1, round(side * scale)) for side in image.size)
    method = Image.Resampling.BOX if scale < 1 else Image.Resampling.BICUBIC
    return np.asarray(image.resize((width, height), method), np.float32)
