"""Measures the predictor on varied image files and on images that are not digits.

    python tools/robustness.py measure --digits=A --garments=B --photographs=C
    python tools/robustness.py table

`measure` renders every test image of MNIST as image files in several variants
(`VARIANTS`) and classifies them with the reference model, with and without
preprocessing. It applies the out-of-distribution check to images that are not digits,
counts the MNIST images that preprocessing leaves unchanged, and writes
`docs/predict.json`. `table` renders this file into `docs/predict.md`. The folders
contain the four original files of MNIST, those of Fashion-MNIST, and photographs (by
default only the one that matplotlib ships).
"""

import argparse
import concurrent.futures
import functools
import io
import json
import multiprocessing
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageDraw, ImageFont
from scipy import ndimage

from rnnmnist.inference import image_io
from rnnmnist.inference.image_io import resize
from rnnmnist.inference.preprocessing import preprocess, stroke_width
from rnnmnist.reporting import markdown

REPOSITORY = Path(__file__).resolve().parent.parent
NUMBERS, PAGE = (REPOSITORY / "docs" / f"predict.{end}" for end in ("json", "md"))
SIDE = 280  # pixels of the digit's square
Canvas = np.ndarray  # float32 [height, width], foreground 1 and background 0
LETTERS = "ACEFHKMNPRTUVWXYaefhkmnrtuwx"  # those that resemble no digit
# Shipped with matplotlib.
FONTS = (
    *("DejaVuSans", "DejaVuSans-Bold", "DejaVuSans-Oblique", "DejaVuSans-BoldOblique"),
    *("DejaVuSansMono", "DejaVuSansMono-Bold", "DejaVuSansMono-Oblique"),
    *("DejaVuSerif", "DejaVuSerif-Bold", "DejaVuSerif-Italic"),
    *("STIXGeneral", "STIXGeneralBol", "STIXGeneralItalic", "STIXGeneralBolIta"),
    *("cmr10", "cmb10", "cmss10", "cmti10", "cmtt10"),  # Computer Modern
)
UNMODIFIED = "test digits, unmodified"


def upsample(image: np.ndarray) -> Canvas:
    """Enlarges a digit, uint8 [28, 28], to 280 x 280."""
    levels = resize(image.astype(np.float32) / 255, SIDE, SIDE)
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
    """Scales the digit by 0.5 to 2 on a canvas of twice the side."""
    side = round(SIDE * 2 ** generator.uniform(-1, 1))
    resized = np.clip(resize(canvas, side, side), 0, 1)
    return pad_randomly(resized, 2 * SIDE, generator)


def thinned(canvas: Canvas, _: np.random.Generator) -> Canvas:
    """Reduces the stroke width to about one half."""
    mask = canvas > 0.5
    margin = stroke_width(mask) / 4
    return np.clip(ndimage.distance_transform_edt(mask) - margin, 0, 1)


def thickened(canvas: Canvas, _: np.random.Generator) -> Canvas:
    """Increases the stroke width by about one half."""
    mask = canvas > 0.5
    margin = stroke_width(mask) / 4
    return np.clip(margin + 1 - ndimage.distance_transform_edt(~mask), 0, 1)


def black_on_white(canvas: Canvas, _: np.random.Generator) -> np.ndarray:
    """Converts to grey levels, uint8, with a white background."""
    return np.rint(255 * (1 - canvas)).astype(np.uint8)


def uneven_light(canvas: Canvas, generator: np.random.Generator) -> np.ndarray:
    """Converts to grey levels, uint8, whose brightness falls by half across."""
    height, width = canvas.shape
    angle = generator.uniform(0, 2 * np.pi)
    y, x = np.mgrid[-1 : 1 : height * 1j, -1 : 1 : width * 1j]
    across = (x * np.cos(angle) + y * np.sin(angle)) / np.sqrt(2)  # -1 to 1
    light = 0.9 * (0.75 + 0.25 * across)
    return np.rint(255 * light * (1 - 0.75 * canvas)).astype(np.uint8)


def noisy_jpeg(levels: np.ndarray, generator: np.random.Generator) -> bytes:
    """Encodes a JPEG of quality 30, with added noise."""
    noisy = levels + generator.normal(0, 8, levels.shape)
    image = Image.fromarray(np.clip(noisy, 0, 255).astype(np.uint8))
    file = io.BytesIO()
    image.save(file, "JPEG", quality=30)
    return file.getvalue()


def png(levels: np.ndarray, _: np.random.Generator | None = None) -> bytes:
    """Encodes a PNG."""
    file = io.BytesIO()
    Image.fromarray(levels).save(file, "PNG")
    return file.getvalue()


# The transformations of each variant, applied in order.
Transformation = Callable[[Any, np.random.Generator], Any]
VARIANTS: dict[str, tuple[Transformation, ...]] = {
    "black on white, 280 x 280": (black_on_white, png),
    "off-centre by up to a quarter": (off_centre, black_on_white, png),
    "scaled 0.5 to 2": (scaled, black_on_white, png),
    "strokes thinned": (thinned, black_on_white, png),
    "strokes thickened": (thickened, black_on_white, png),
    "a light gradient": (uneven_light, png),
    "JPEG noise": (black_on_white, noisy_jpeg),
    "scaled, gradient and JPEG noise": (scaled, uneven_light, noisy_jpeg),
}


def render_variant(image: np.ndarray, variant: str, seed: int) -> bytes:
    """Renders a test image as an image file."""
    generator = np.random.default_rng(seed)
    rendered: Any = upsample(image)
    for transformation in VARIANTS[variant]:
        rendered = transformation(rendered, generator)
    return rendered


def preprocess_variant(
    image: np.ndarray, seed: int, variant: str
) -> tuple[np.ndarray, np.ndarray]:
    """Returns a variant preprocessed, and only resized and inverted, each 28 x 28."""
    grey = image_io.decode(render_variant(image, variant, seed), variant)
    baseline = np.rint(255 * (1 - resize(grey, 28, 28))).astype(np.uint8)
    return preprocess(grey).image, baseline


def blank_pages(count: int) -> list[bytes]:
    """Renders blank pages in uneven light, with noise."""
    files = []
    for seed in range(count):
        generator = np.random.default_rng(seed)
        levels = uneven_light(np.zeros((SIDE, SIDE)), generator)
        files.append(noisy_jpeg(levels, generator))
    return files


def noises(count: int) -> list[bytes]:
    """Renders uniform noise in several resolutions."""
    files = []
    for seed in range(count):
        generator = np.random.default_rng(seed)
        side = int(generator.choice([7, 14, 28, 70, 280]))
        files.append(png(generator.integers(0, 256, (side, side), np.uint8)))
    return files


def letters(count: int) -> list[bytes]:
    """Renders letters that resemble no digit in several fonts and sizes."""
    import matplotlib

    files = []
    for seed in range(count):
        generator = np.random.default_rng(seed)
        letter, name = str(generator.choice(list(LETTERS))), generator.choice(FONTS)
        file = Path(matplotlib.get_data_path()) / "fonts" / "ttf" / f"{name}.ttf"
        font = ImageFont.truetype(str(file), int(generator.integers(60, 200)))
        image = Image.new("L", (SIDE, SIDE), 255)
        ImageDraw.Draw(image).text((140, 140), letter, 0, font, anchor="mm")
        files.append(png(np.asarray(image)))
    return files


def photograph_files(folder: Path | None) -> list[Path]:
    """Lists the photographs of a folder, or the one that matplotlib ships."""
    import matplotlib

    if folder is None:
        return [Path(matplotlib.get_data_path()) / "sample_data" / "grace_hopper.jpg"]
    return [Path(name) for name in image_io.find_images(str(folder))]


def photographs(count: int, folder: Path | None = None) -> list[bytes]:
    """Crops random squares from photographs, equally many from each."""
    photos, files = [], []
    for path in photograph_files(folder):
        with Image.open(path) as image:
            image.thumbnail((1000, 1000))
            photos.append(np.asarray(image.convert("RGB")))
    for seed in range(count):
        generator, photo = np.random.default_rng(seed), photos[seed % len(photos)]
        side = int(generator.integers(60, min(photo.shape[:2])))
        top = generator.integers(0, photo.shape[0] - side + 1)
        left = generator.integers(0, photo.shape[1] - side + 1)
        files.append(png(photo[top : top + side, left : left + side]))
    return files


def garments(folder: str, count: int) -> list[bytes]:
    """Encodes test images of Fashion-MNIST."""
    from rnnmnist.config.schema import DataConfig
    from rnnmnist.data.datasets import load

    dataset = load(DataConfig(name="fashion_mnist", manual_dir=folder))
    images = dataset.splits["test"].stored[:count]
    return [png(image) for image in images]


def preprocess_file(file: bytes) -> np.ndarray:
    """Preprocesses the content of an image file to 28 x 28 pixels."""
    return preprocess(image_io.decode(file, "the image")).image


def is_unchanged(image: np.ndarray) -> bool:
    """Whether preprocessing leaves an image of MNIST unchanged."""
    return bool((preprocess(image_io.from_array(image)).image == image).all())


class Evaluator:
    """Counts the reference model's correct predictions and rejected images."""

    def __init__(self) -> None:
        from rnnmnist.inference import out_of_distribution
        from rnnmnist.inference.predictor import Predictor

        self.predictor = Predictor()
        self.check = out_of_distribution.load()

    def count_correct(self, images: np.ndarray, labels: np.ndarray) -> int:
        """Counts correct predictions for preprocessed images."""
        probabilities = self.predictor.predict_probabilities(images)[:, -1]
        return int((probabilities.argmax(-1) == labels).sum())

    def count_rejected(self, images: np.ndarray) -> dict[str, int]:
        """Counts the preprocessed images that the check rejects."""
        probabilities = self.predictor.predict_probabilities(images)[:, -1]
        is_digit = self.check.is_digit(images, probabilities)
        return {"images": len(images), "rejected": int((~is_digit).sum())}


def measure(args: argparse.Namespace) -> dict[str, Any]:
    """Measures everything that `docs/predict.json` contains."""
    from rnnmnist.config.schema import DataConfig
    from rnnmnist.data.datasets import load
    from rnnmnist.runtime.hardware import describe_processor

    splits = load(DataConfig(name="mnist", manual_dir=args.digits)).splits
    images = splits["test"].stored[: args.count]
    labels = splits["test"].labels[: args.count]
    all_images = np.concatenate([split.stored for split in splits.values()])
    others = {
        "blank pages": blank_pages(300),
        "noise": noises(1000),
        "letters": letters(1000),
        "crops of photographs": photographs(1000, args.photographs),
        "garments": garments(args.garments, 1000),
    }
    evaluator, variants = Evaluator(), {}
    rejected = {UNMODIFIED: evaluator.count_rejected(images)}
    spawn = multiprocessing.get_context("spawn")
    with concurrent.futures.ProcessPoolExecutor(args.processes, spawn) as pool:
        unchanged = sum(pool.map(is_unchanged, all_images, chunksize=1000))
        for name, files in others.items():
            pixels = np.stack(list(pool.map(preprocess_file, files, chunksize=50)))
            rejected[name] = evaluator.count_rejected(pixels)
            print(name, rejected[name], flush=True)
        for name in VARIANTS:
            function = functools.partial(preprocess_variant, variant=name)
            pairs = pool.map(function, images, range(len(images)), chunksize=50)
            preprocessed, baseline = map(np.stack, zip(*pairs, strict=True))
            variants[name] = {
                "images": len(images),
                "preprocessed": evaluator.count_correct(preprocessed, labels),
                "baseline": evaluator.count_correct(baseline, labels),
            }
            rejected[f"test digits, {name}"] = evaluator.count_rejected(preprocessed)
            print(name, variants[name], flush=True)
    return {
        "command": "python tools/robustness.py measure --digits=FOLDER "
        "--garments=FOLDER --photographs=FOLDER",
        "hardware": describe_processor(),
        "unchanged": {"images": len(all_images), "unchanged": unchanged},
        "variants": variants,
        "rejected": rejected,
        "letters": LETTERS,
        "fonts": FONTS,
        "photographs": [path.name for path in photograph_files(args.photographs)],
    }


def tables(numbers: dict[str, Any]) -> str:
    """Formats the content of `docs/predict.json` as Markdown."""

    def accuracy(counts: dict[str, int], key: str) -> str:
        return f"{100 * counts[key] / counts['images']:.2f} % ({counts[key]:,})"

    rates = {
        name: f"{100 * counts['rejected'] / counts['images']:.1f} %"
        for name, counts in numbers["rejected"].items()
    }
    variants = [
        [
            name,
            accuracy(counts, "preprocessed"),
            accuracy(counts, "baseline"),
            rates.pop(f"test digits, {name}"),
        ]
        for name, counts in numbers["variants"].items()
    ]
    rest = [
        [name, f"{numbers['rejected'][name]['images']:,}", rate]
        for name, rate in rates.items()
    ]
    header = (
        "variant of the test images",
        "accuracy, preprocessed",
        "accuracy, only resized and inverted",
        "rejected",
    )
    unchanged = numbers["unchanged"]
    return (
        f"{markdown.table(header, variants)}\n"
        f"{markdown.table(('images', 'count', 'rejected'), rest)}\n"
        f"Preprocessing leaves {unchanged['unchanged']:,} of all "
        f"{unchanged['images']:,} images of MNIST unchanged.\n\n"
        f"The letters are those of `{numbers['letters']}`, at 60 to 199 pixels in the "
        f"fonts {_listed(numbers['fonts'])}. The photographs are "
        f"{_listed(numbers['photographs'])}.\n"
    )


def _listed(names: Sequence[str]) -> str:
    return ", ".join(f"`{name}`" for name in names)


def rendered(page: str, numbers: dict[str, Any]) -> str:
    """Returns the page with its tables filled in."""
    return markdown.fill(page, "rates", tables(numbers))


def main() -> None:
    """Runs the tool."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    commands = parser.add_subparsers(dest="command", required=True)
    measuring = commands.add_parser("measure")
    measuring.add_argument("--digits", required=True, metavar="FOLDER")
    measuring.add_argument("--garments", required=True, metavar="FOLDER")
    measuring.add_argument("--photographs", type=Path, metavar="FOLDER")
    measuring.add_argument("--count", type=int, default=10_000, help="test images")
    measuring.add_argument("--processes", type=int, default=2)
    commands.add_parser("table")
    args = parser.parse_args()
    if args.command == "measure":
        NUMBERS.write_text(json.dumps(measure(args), indent=1) + "\n")
    else:
        PAGE.write_text(rendered(PAGE.read_text(), json.loads(NUMBERS.read_text())))


if __name__ == "__main__":
    main()
