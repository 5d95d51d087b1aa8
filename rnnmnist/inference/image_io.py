"""From an image, file or array, to grey levels: the only room that knows Pillow."""

import contextlib
import io
import struct
import sys
import warnings
import zlib
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from rnnmnist.errors import UserError

SUFFIXES = {
    ".png": "PNG",
    ".jpg": "JPEG",
    ".jpeg": "JPEG",
    ".webp": "WEBP",
    ".bmp": "BMP",
    ".gif": "GIF",
}
STANDARD_INPUT = "-"
MOST_PIXELS = 50_000_000  # of a file; 200 MB decoded
MOST_BYTES = 100_000_000  # of a file
LONGEST_SIDE = 320  # pixels of what is worked with
ROUNDING = 1e-3  # of a level
BROKEN = (
    *(OSError, SyntaxError, ValueError, EOFError, IndexError, KeyError, TypeError),
    *(OverflowError, MemoryError, struct.error, zlib.error),
)


def find(word: str) -> list[str]:
    """The image files that a word of a command line names, those of a folder by name.

    Raises:
        UserError: when a folder holds none, or cannot be read.
    """
    path = Path(word)
    try:
        if word == STANDARD_INPUT or not path.is_dir():
            return [word]
        found = [str(file) for file in path.iterdir() if _is_image(file)]
    except (OSError, ValueError) as error:
        why = getattr(error, "strerror", None) or error
        raise UserError(f"{word}: cannot be read: {why}") from error
    if not found:
        raise UserError(
            f"{word}: there is no image in this folder ({', '.join(SUFFIXES)})"
        )
    return sorted(found)


def _is_image(file: Path) -> bool:
    return file.suffix.lower() in SUFFIXES and file.is_file()


def read(name: str) -> np.ndarray:
    """Reads an image as grey levels, small enough to work with.

    Args:
        name: of a PNG, JPEG, WebP, BMP or GIF file of any size and mode, of an
            animation the first picture; `-` is standard input.

    Returns:
        float32 [height, width] from 0 to 1, no side longer than `LONGEST_SIDE`. Of a
        coloured image it is the channel that varies most, so that yellow on white is
        seen as well; and what is transparent is paper.

    Raises:
        UserError: naming the file, when there is none or it is no such image.
    """
    try:
        if name == STANDARD_INPUT:
            content = sys.stdin.buffer.read(MOST_BYTES + 1)
        else:
            path = Path(name).expanduser()
            if path.exists() and not path.is_file():
                raise UserError(f"{name}: is not a file; name an image of a digit")
            with path.open("rb") as file:
                content = file.read(MOST_BYTES + 1)
    except (OSError, RuntimeError, ValueError) as error:
        why = getattr(error, "strerror", None) or error
        raise UserError(f"{name}: cannot be read: {why}") from error
    if not content:
        raise UserError(f"{name}: is empty; name an image of a digit")
    if len(content) > MOST_BYTES:
        raise UserError(f"{name}: is larger than {MOST_BYTES:,} bytes; make it smaller")
    return decode(content, name)


def decode(content: bytes, name: str) -> np.ndarray:
    """Grey levels of an image file's content, as `read` gives them.

    Raises:
        UserError: naming the file, when it is no image, damaged or huge.
    """
    kinds = sorted(set(SUFFIXES.values()))
    try:
        with warnings.catch_warnings():
            # Pillow warns of sizes that are held below, and of odd metadata.
            warnings.simplefilter("ignore")
            with Image.open(io.BytesIO(content), formats=kinds) as image:
                width, height = image.size
                if width * height > MOST_PIXELS:
                    raise UserError(
                        f"{name}: is {width} x {height} pixels, more than "
                        f"{MOST_PIXELS:,}; make it smaller"
                    )
                image.draft("RGB", (2 * LONGEST_SIDE, 2 * LONGEST_SIDE))
                image.load()
                return _grey(_upright(image))
    except UserError:
        raise
    except Image.DecompressionBombError:
        raise UserError(
            f"{name}: is of more than {MOST_PIXELS:,} pixels; make it smaller"
        ) from None
    except UnidentifiedImageError:
        raise UserError(f"{name}: is not an image of {', '.join(kinds)}") from None
    except BROKEN as error:
        raise UserError(f"{name}: is a damaged image: {error}") from error


def of_array(image: np.ndarray) -> np.ndarray:
    """Grey levels of an array, as `read` gives them of a file.

    Args:
        image: [height, width] of uint8, uint16, bool (white is true), or floats from
            0 to 1.

    Raises:
        ValueError: naming the shape, the type or the levels, when it is another.
    """
    image = np.asarray(image)
    if image.ndim != 2 or not image.size:
        raise ValueError(
            f"an image is an array [height, width] of grey levels, not one of shape "
            f"{image.shape}; read one digit at a time, and drop its channels"
        )
    tops = {"uint8": 255, "uint16": 65_535, "bool": 1}
    top = 1 if image.dtype.kind == "f" else tops.get(image.dtype.name)
    if top is None:
        raise ValueError(
            f"an image's levels are uint8, uint16, bool, or floats from 0 to 1, not "
            f"{image.dtype}; convert them"
        )
    low, high = float(image.min()), float(image.max())
    # Resampling may leave a rounding's worth outside; no number is inside of nothing.
    if not -ROUNDING <= low <= high <= top + ROUNDING:
        raise ValueError(
            f"an image's levels are from 0 to 1 where they are floats, not from "
            f"{low:g} to {high:g}; scale them"
        )
    levels = np.clip(image.astype(np.float32) / np.float32(top), 0, 1)
    return _smaller(Image.fromarray(levels))


def _upright(image: Image.Image) -> Image.Image:
    with contextlib.suppress(*BROKEN):  # its metadata may be broken, the image not
        return ImageOps.exif_transpose(image)
    return image


def _grey(image: Image.Image) -> np.ndarray:
    channels: np.ndarray
    if image.mode == "F" or image.mode.startswith("I"):  # more than 8 bits, grey
        levels = np.asarray(image, np.float32)
        top = 65_535 if np.max(levels) > 255 else 255
        channels = _smaller(Image.fromarray(levels))[..., None] / top
    else:
        pixels = _smaller(image.convert("RGBA")) / 255
        channels, opacity = pixels[..., :3], pixels[..., 3:]
        seen = opacity[..., 0] > 0.5
        if seen.any() and not seen.all():  # the paper is what is not painted
            paper = 1.0 if channels[seen].mean() < 0.5 else 0.0
            channels = channels * opacity + paper * (1 - opacity)
    return channels[..., np.argmax(channels.std(axis=(0, 1)))]


def _smaller(image: Image.Image) -> np.ndarray:
    """No side longer than `LONGEST_SIDE`, every pixel the mean of those it covers."""
    scale = LONGEST_SIDE / max(image.size)
    if scale < 1:
        width, height = (max(1, round(side * scale)) for side in image.size)
        image = image.resize((width, height), Image.Resampling.BOX)
    return np.asarray(image, np.float32)


def resized(levels: np.ndarray, height: int, width: int) -> np.ndarray:
    """An array of levels at another size; smaller, by the mean of an area.

    Args:
        levels: float [height, width].
        height: new.
        width: new.
    """
    smaller = height < levels.shape[0] or width < levels.shape[1]
    way = Image.Resampling.BOX if smaller else Image.Resampling.BICUBIC
    image = Image.fromarray(np.asarray(levels, np.float32))
    return np.asarray(image.resize((width, height), way))
