"""Measures how robust predictions are to variations of image files.

    python tools/robustness.py --digits=FOLDER

Renders every fifth MNIST test image as an image file in several variants (`VARIANTS`),
and classifies the files with the reference model, with and without preprocessing. Also
classifies printed digits, and counts the MNIST images that preprocessing leaves
unchanged. Writes `results/robustness.json`. FOLDER contains the four original MNIST
files.
"""

import argparse
import concurrent.futures
import functools
import io
import json
import multiprocessing
from collections.abc import Callable
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import page_tables
from PIL import Image, ImageDraw, ImageFont
from scipy import ndimage

from rnnmnist.inference import image_io
from rnnmnist.inference.image_io import resize
from rnnmnist.inference.preprocessing import preprocess, stroke_width

NUMBERS = Path(__file__).resolve().parent.parent / "results/robustness.json"
SIDE = 280  # pixels, side of the square around a digit
EVERY = 5  # render every fifth image of the split
Canvas = np.ndarray  # float32 [height, width], foreground 1 and background 0
FONTS = (
    "DejaVuSans",
    "DejaVuSans-Bold",
    "DejaVuSans-Oblique",
    "DejaVuSans-BoldOblique",
    "DejaVuSansMono",
    "DejaVuSansMono-Bold",
    "DejaVuSansMono-Oblique",
    "DejaVuSerif",
    "DejaVuSerif-Bold",
    "DejaVuSerif-Italic",
    "STIXGeneral",
    "STIXGeneralBol",
    "STIXGeneralItalic",
    "STIXGeneralBolIta",
    "cmr10",
    "cmb10",
    "cmss10",
    "cmti10",
    "cmtt10",  # Computer Modern
)


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


def cropped(canvas: Canvas, generator: np.random.Generator) -> Canvas:
    """Crops to the digit, with random margins from 0 to 20 pixels."""
    (box,) = ndimage.find_objects((canvas > 0.1).astype(int))
    margins = generator.integers(0, 21, 4)
    return np.pad(canvas[box], (margins[:2], margins[2:]))


def on_a_strip(canvas: Canvas, generator: np.random.Generator) -> Canvas:
    """Pads to a horizontal or vertical strip that is four times as long as wide."""
    start = int(generator.integers(0, 3 * SIDE + 1))
    long = (start, 3 * SIDE - start)
    return np.pad(canvas, (long, (0, 0)) if generator.integers(2) else ((0, 0), long))


def small(canvas: Canvas, generator: np.random.Generator) -> Canvas:
    """Shrinks the canvas to a side from 56 to 112 pixels."""
    side = int(generator.integers(56, 113))
    return np.clip(resize(canvas, side), 0, 1)


def thinned(canvas: Canvas, _: np.random.Generator) -> Canvas:
    """Halves the stroke width, approximately."""
    mask = canvas > 0.5
    margin = stroke_width(mask) / 4
    return np.clip(ndimage.distance_transform_edt(mask) - margin, 0, 1)


def thickened(canvas: Canvas, _: np.random.Generator) -> Canvas:
    """Increases the stroke width by about half."""
    mask = canvas > 0.5
    margin = stroke_width(mask) / 4
    return np.clip(margin + 1 - ndimage.distance_transform_edt(~mask), 0, 1)


def rotated(canvas: Canvas, generator: np.random.Generator) -> Canvas:
    """Rotates the digit by up to 20 degrees in each direction."""
    angle = generator.uniform(-20, 20)
    return np.clip(ndimage.rotate(canvas, angle, reshape=False, order=1), 0, 1)


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


def encode(image: Image.Image, kind: str, **options: Any) -> bytes:
    """Encodes an image in a file format of Pillow."""
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def jpeg(levels: np.ndarray, _: np.random.Generator, quality: int = 30) -> bytes:
    """Encodes grey levels as JPEG."""
    return encode(Image.fromarray(levels), "JPEG", quality=quality)


def dithered_gif(levels: np.ndarray, _: np.random.Generator) -> bytes:
    """Encodes grey levels as GIF, dithered to the web palette."""
    return encode(Image.fromarray(levels).convert("RGB").convert("P"), "GIF")


def png(levels: np.ndarray, _: np.random.Generator | None = None) -> bytes:
    """Encodes grey levels as PNG."""
    return encode(Image.fromarray(levels), "PNG")


# The transformations of each variant, in order of application.
Transformation = Callable[[Any, np.random.Generator], Any]
VARIANTS: dict[str, tuple[Transformation, ...]] = {
    "black on white, 280 x 280": (black_on_white, png),
    "off-centre by up to a quarter": (off_centre, black_on_white, png),
    "scaled 0.5 to 2": (scaled, black_on_white, png),
    "cropped, a light gradient": (cropped, uneven_light, png),
    "on a strip of 4:1": (on_a_strip, black_on_white, png),
    "strokes thinned": (thinned, black_on_white, png),
    "strokes thickened": (thickened, black_on_white, png),
    "rotated by up to 20°": (rotated, black_on_white, png),
    "a light gradient": (uneven_light, png),
    "JPEG noise": (black_on_white, noisy, jpeg),
    "scaled, gradient and JPEG noise": (scaled, uneven_light, noisy, jpeg),
    "scaled, with a shadow edge, and JPEG noise": (scaled, shadow_edge, noisy, jpeg),
    "gradient, dithered palette": (uneven_light, noisy, dithered_gif),
    "small, gradient, dithered palette": (small, uneven_light, noisy, dithered_gif),
    "gradient, JPEG of quality 20": (uneven_light, functools.partial(jpeg, quality=20)),
}


def render_variant(image: np.ndarray, variant: str, seed: int) -> bytes:
    """Renders a test image as an image file of a variant."""
    generator = np.random.default_rng(seed)
    rendered: Any = upsample(image)
    for transformation in VARIANTS[variant]:
        rendered = transformation(rendered, generator)
    return rendered


# The variants in the table, with their labels.
SHOWN = {
    "unmodified": "none",
    "off-centre by up to a quarter": "shift by up to a quarter of the width",
    "scaled 0.5 to 2": "scale from 0.5 to 2",
    "a light gradient": "uneven lighting",
    "scaled, with a shadow edge, and JPEG noise": "scale, shadow edge and JPEG noise",
    "strokes thinned": "thinner strokes",
}


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


def printed(text: str, generator: np.random.Generator) -> bytes:
    """Renders a character in a random font and size, as PNG."""
    file = f"{matplotlib.get_data_path()}/fonts/ttf/{generator.choice(FONTS)}.ttf"
    font = ImageFont.truetype(file, int(generator.integers(60, 200)))
    image = Image.new("L", (SIDE, SIDE), 255)
    ImageDraw.Draw(image).text((SIDE // 2, SIDE // 2), text, 0, font, anchor="mm")
    return png(np.asarray(image))


def preprocess_file(file: bytes) -> np.ndarray:
    """Preprocesses an image file to 28 x 28 pixels."""
    return preprocess(image_io.decode(io.BytesIO(file), "the image"))


def is_unchanged(image: np.ndarray) -> bool:
    """Returns True if preprocessing leaves an MNIST image unchanged."""
    return bool((preprocess(image_io.convert_array(image)) == image).all())


def measure(digits: str, split: str) -> dict[str, Any]:
    """Measures the content of `results/robustness.json`."""
    from rnnmnist.config.schema import Config, DataConfig
    from rnnmnist.data.datasets import load
    from rnnmnist.model import load as load_model
    from rnnmnist.runtime.machine import describe_processor, installed_versions

    data = DataConfig(name="mnist", manual_dir=digits)
    splits = load(Config(data=data)).splits
    images = splits[split].stored[::EVERY]
    labels = splits[split].labels[::EVERY]
    all_images = np.concatenate([split.stored for split in splits.values()])
    model = load_model()

    def count(images: np.ndarray, labels: np.ndarray) -> dict[str, int]:
        correct = model.classify(images).argmax(-1) == labels
        return {"images": len(images), "correct": int(correct.sum())}

    variants = {"unmodified": count(images, labels)}
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
    printed_labels = np.arange(1000) % 10
    generators = map(np.random.default_rng, range(1000))
    files = map(printed, printed_labels.astype(str), generators)
    printed_images = np.stack(list(map(preprocess_file, files)))
    variants["printed digits"] = count(printed_images, printed_labels)
    return {
        "command": "python tools/robustness.py --digits=FOLDER",
        "hardware": describe_processor(),
        "versions": installed_versions(),
        "unchanged": {"images": len(all_images), "unchanged": unchanged},
        "variants": variants,
        "fonts": FONTS,
    }


def tables() -> str:
    """Renders the variants in `SHOWN` as Markdown."""
    numbers = json.loads(NUMBERS.read_text())
    columns = {
        "correct": "accuracy",
        "baseline": "accuracy, only resized and inverted",
    }
    lines = []
    for name, label in SHOWN.items():
        counts = numbers["variants"][name]
        cells = []
        for key in columns:
            cells.append(
                f"{100 * counts[key] / counts['images']:.2f} %" if key in counts else ""
            )
        lines.append([label, *cells])
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
    parser.add_argument(
        "--split",
        choices=["validation", "test"],
        default="test",
        help="validation prints the counts and writes nothing",
    )
    args = parser.parse_args()
    numbers = json.dumps(measure(args.digits, args.split), indent=1) + "\n"
    if args.split == "test":
        NUMBERS.write_text(numbers)


if __name__ == "__main__":
    main()
