"""Measures how robust predictions are to variations of image files.

    python tools/robustness.py --digits=FOLDER

Renders every fifth MNIST test image as an image file in several variants (`VARIANTS`),
and classifies the files with the reference model, with and without preprocessing. Also
counts the MNIST images that preprocessing leaves unchanged. Writes
`results/robustness.json`. FOLDER contains the four original MNIST files.
"""

import argparse
import concurrent.futures
import functools
import io
import multiprocessing
from collections.abc import Callable
from typing import Any

import numpy as np
import page_tables
from PIL import Image
from result_files import read_result, write_result
from scipy import ndimage

import rnnmnist
from rnnmnist.config.schema import Config, DataConfig
from rnnmnist.data import datasets
from rnnmnist.inference import image_io
from rnnmnist.inference.image_io import resize
from rnnmnist.inference.preprocessing import preprocess, stroke_width

SIDE = 280  # pixels, side of the square around a digit
EVERY = 5  # render every fifth image
Canvas = np.ndarray  # float32 [height, width], foreground 1 and background 0


def upsample(image: np.ndarray) -> Canvas:
    """Enlarges a digit, uint8 [28, 28], to 280 x 280."""
    levels = resize(image.astype(np.float32) / 255, SIDE)
    return np.clip(levels, 0, 1)


def pad_randomly(canvas: Canvas, side: int, generator: np.random.Generator) -> Canvas:
    """Pads to a larger square, with the digit at a random position."""
    free = side - canvas.shape[0]
    top, left = generator.integers(0, free + 1, 2)
    return np.pad(canvas, ((top, free - top), (left, free - left)))


def off_centre(canvas: Canvas, generator: np.random.Generator) -> Canvas:
    """Shifts the digit by up to a quarter of its square in each direction."""
    return pad_randomly(canvas, SIDE + SIDE // 2, generator)


def scaled(canvas: Canvas, generator: np.random.Generator) -> Canvas:
    """Scales the digit by a factor from 0.5 to 2, on a canvas with twice the side."""
    side = round(SIDE * 2 ** generator.uniform(-1, 1))
    resized = np.clip(resize(canvas, side), 0, 1)
    return pad_randomly(resized, 2 * SIDE, generator)


def thinned(canvas: Canvas, _: np.random.Generator) -> Canvas:
    """Halves the stroke width, approximately."""
    mask = canvas > 0.5
    margin = stroke_width(mask) / 4
    return np.clip(ndimage.distance_transform_edt(mask) - margin, 0, 1)


def black_on_white(canvas: Canvas, _: np.random.Generator) -> np.ndarray:
    """Converts to grey levels, uint8, with a white background."""
    return np.rint(255 * (1 - canvas)).astype(np.uint8)


def across(canvas: Canvas, angle: float) -> np.ndarray:
    """Returns the coordinate along a direction: -1 to 1 between opposite corners."""
    height, width = canvas.shape
    y, x = np.mgrid[-1 : 1 : height * 1j, -1 : 1 : width * 1j]
    return (x * np.cos(angle) + y * np.sin(angle)) / np.sqrt(2)


def uneven_light(canvas: Canvas, generator: np.random.Generator) -> np.ndarray:
    """Converts to grey levels, uint8, with a light gradient from 1/2 to 1."""
    light = 0.75 + 0.25 * across(canvas, generator.uniform(0, 2 * np.pi))
    return lit(canvas, light)


def shadow_edge(canvas: Canvas, generator: np.random.Generator) -> np.ndarray:
    """Converts to grey levels, uint8, with part of the canvas in shadow."""
    position = across(canvas, generator.uniform(0, 2 * np.pi))
    position -= generator.uniform(-0.35, 0.35)
    shade, width = generator.uniform(0.45, 0.75), generator.uniform(0.007, 0.1)
    return lit(canvas, shade + (1 - shade) / (1 + np.exp(-position / width)))


def lit(canvas: Canvas, light: np.ndarray) -> np.ndarray:
    """Converts to grey levels, uint8, with strokes that absorb 3/4 of the light."""
    return np.rint(255 * 0.9 * light * (1 - 0.75 * canvas)).astype(np.uint8)


def noisy(levels: np.ndarray, generator: np.random.Generator) -> np.ndarray:
    """Adds sensor noise with a standard deviation of 8 grey levels."""
    noise = generator.normal(0, 8, levels.shape)
    return np.clip(levels + noise, 0, 255).astype(np.uint8)


def encode(levels: np.ndarray, kind: str, **options: Any) -> bytes:
    """Encodes grey levels in a file format of Pillow."""
    file = io.BytesIO()
    Image.fromarray(levels).save(file, kind, **options)
    return file.getvalue()


def png(levels: np.ndarray, _: np.random.Generator) -> bytes:
    """Encodes grey levels as PNG."""
    return encode(levels, "PNG")


def jpeg(levels: np.ndarray, _: np.random.Generator) -> bytes:
    """Encodes grey levels as JPEG of low quality."""
    return encode(levels, "JPEG", quality=30)


# The transformations of each variant, in order of application.
Transformation = Callable[[Any, np.random.Generator], Any]
VARIANTS: dict[str, tuple[Transformation, ...]] = {
    "shift by up to a quarter of the width": (off_centre, black_on_white, png),
    "scale from 0.5 to 2": (scaled, black_on_white, png),
    "uneven lighting": (uneven_light, png),
    "scale, shadow edge and JPEG noise": (scaled, shadow_edge, noisy, jpeg),
    "thinner strokes": (thinned, black_on_white, png),
}


def render_variant(image: np.ndarray, variant: str, seed: int) -> bytes:
    """Renders a test image as an image file of a variant."""
    generator = np.random.default_rng(seed)
    rendered: Any = upsample(image)
    for transformation in VARIANTS[variant]:
        rendered = transformation(rendered, generator)
    return rendered


def preprocess_variant(
    image: np.ndarray, seed: int, variant: str
) -> tuple[np.ndarray, np.ndarray]:
    """Returns a variant preprocessed, and a baseline that is only resized and inverted.

    Both are uint8 [28, 28].
    """
    grey = image_io.decode(io.BytesIO(render_variant(image, variant, seed)), variant)
    resized = np.asarray(Image.fromarray(grey).resize((28, 28), Image.Resampling.BOX))
    baseline = np.rint(255 * (1 - resized)).astype(np.uint8)
    return preprocess(grey), baseline


def is_unchanged(image: np.ndarray) -> bool:
    """Returns True if preprocessing leaves an MNIST image unchanged."""
    return bool((preprocess(image_io.convert_array(image)) == image).all())


def measure(digits: str) -> dict[str, Any]:
    """Measures the content of `results/robustness.json`."""
    data = DataConfig(name="mnist", manual_dir=digits)
    splits = datasets.load(Config(data=data)).splits
    images = splits["test"].stored[::EVERY]
    labels = splits["test"].labels[::EVERY]
    all_images = np.concatenate([split.stored for split in splits.values()])
    model = rnnmnist.load()

    def count(images: np.ndarray, labels: np.ndarray) -> dict[str, int]:
        correct = model.classify(images).argmax(-1) == labels
        return {"images": len(images), "correct": int(correct.sum())}

    variants = {"none": count(images, labels)}
    spawn = multiprocessing.get_context("spawn")
    with concurrent.futures.ProcessPoolExecutor(mp_context=spawn) as pool:
        unchanged = sum(pool.map(is_unchanged, all_images, chunksize=1000))
        for name in VARIANTS:
            function = functools.partial(preprocess_variant, variant=name)
            pairs = pool.map(function, images, range(len(images)), chunksize=50)
            preprocessed, baseline = map(np.stack, zip(*pairs, strict=True))
            correct = count(baseline, labels)["correct"]
            variants[name] = count(preprocessed, labels) | {"baseline": correct}
            print(name, variants[name], flush=True)
    return {
        "unchanged": {"images": len(all_images), "unchanged": unchanged},
        "variants": variants,
    }


def tables() -> str:
    """Renders the accuracies of all variants as Markdown."""
    numbers = read_result("robustness")
    columns = {
        "correct": "accuracy",
        "baseline": "accuracy, only resized and inverted",
    }
    lines = []
    for name, counts in numbers["variants"].items():
        percents = [
            f"{100 * counts[key] / counts['images']:.2f} %" if key in counts else ""
            for key in columns
        ]
        lines.append([name, *percents])
    unchanged = numbers["unchanged"]
    return (
        f"{page_tables.table(('change', *columns.values()), lines)}\n"
        "Original MNIST images that are unchanged by preprocessing: "
        f"{unchanged['unchanged']:,} of {unchanged['images']:,}.\n"
    )


def main() -> None:
    """Parses the command line, and measures."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--digits", required=True, metavar="FOLDER")
    numbers = measure(parser.parse_args().digits)
    command = "python tools/robustness.py --digits=FOLDER"
    write_result("robustness", command, numbers)


if __name__ == "__main__":
    main()
