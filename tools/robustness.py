"""Measures how a user's own pictures are read, and what is taken for a digit.

    python tools/robustness.py measure --digits=A --garments=B --photographs=C
    python tools/robustness.py table

`measure` draws every test image of MNIST as people's files are (`VARIANTS`), reads each
with the reference model, with and without its preparation, shows the network what is
no digit, counts which of MNIST's images the preparation leaves as they are, and writes
`docs/predict.json`; `table` renders it into `docs/predict.md`. The folders hold the
four original files of MNIST, those of Fashion-MNIST, and photographs of any kind;
without the last, there is only the one that matplotlib brings.
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
from rnnmnist.inference.image_io import resized
from rnnmnist.inference.preprocessing import prepare, stroke_width

REPOSITORY = Path(__file__).resolve().parent.parent
NUMBERS, PAGE = (REPOSITORY / "docs" / f"predict.{end}" for end in ("json", "md"))
BEGIN, END = "<!-- rates -->\n", "<!-- /rates -->"
SIDE = 280  # pixels of a digit's square; the pages around it are larger
Page = np.ndarray  # float32 [height, width], ink 1 and paper 0
LETTERS = "ACEFHKMNPRTUVWXYaefhkmnrtuwx"  # shaped like no digit
# Of those that matplotlib brings.
FONTS = (
    *("DejaVuSans", "DejaVuSans-Bold", "DejaVuSans-Oblique", "DejaVuSans-BoldOblique"),
    *("DejaVuSansMono", "DejaVuSansMono-Bold", "DejaVuSansMono-Oblique"),
    *("DejaVuSerif", "DejaVuSerif-Bold", "DejaVuSerif-Italic"),
    *("STIXGeneral", "STIXGeneralBol", "STIXGeneralItalic", "STIXGeneralBolIta"),
    *("cmr10", "cmb10", "cmss10", "cmti10", "cmtt10"),  # Computer Modern
)


def drawn(image: np.ndarray) -> Page:
    """A digit at 280 x 280, smooth."""
    levels = resized(image.astype(np.float32) / 255, SIDE, SIDE)
    return np.clip(levels, 0, 1)


def placed(page: Page, side: int, generator: np.random.Generator) -> Page:
    """The digit's square anywhere on a page."""
    free = side - page.shape[0]
    top, left = generator.integers(0, free + 1, 2)
    around = ((top, free - top), (left, free - left))
    return np.pad(page, around)


def off_centre(page: Page, generator: np.random.Generator) -> Page:
    """Up to a quarter of the digit's square away from the middle, each way."""
    return placed(page, SIDE + SIDE // 2, generator)


def scaled(page: Page, generator: np.random.Generator) -> Page:
    """Half to twice as large, on a page that fits twice."""
    side = round(SIDE * 2 ** generator.uniform(-1, 1))
    return placed(np.clip(resized(page, side, side), 0, 1), 2 * SIDE, generator)


def thinned(page: Page, generator: np.random.Generator) -> Page:
    """Strokes of about half their width."""
    del generator
    solid = page > 0.5
    by = stroke_width(solid) / 4
    return np.clip(ndimage.distance_transform_edt(solid) - by, 0, 1)


def thickened(page: Page, generator: np.random.Generator) -> Page:
    """Strokes of about one and a half times their width."""
    del generator
    solid = page > 0.5
    by = stroke_width(solid) / 4
    return np.clip(by + 1 - ndimage.distance_transform_edt(~solid), 0, 1)


def in_black_on_white(page: Page, generator: np.random.Generator) -> np.ndarray:
    """Grey levels, uint8."""
    del generator
    return np.rint(255 * (1 - page)).astype(np.uint8)


def in_uneven_light(page: Page, generator: np.random.Generator) -> np.ndarray:
    """Dark grey ink on paper whose light falls to a half across the page."""
    high, wide = page.shape
    angle = generator.uniform(0, 2 * np.pi)
    y, x = np.mgrid[-1 : 1 : high * 1j, -1 : 1 : wide * 1j]
    across = (x * np.cos(angle) + y * np.sin(angle)) / np.sqrt(2)  # -1 to 1
    light = 0.9 * (0.75 + 0.25 * across)
    return np.rint(255 * light * (1 - 0.75 * page)).astype(np.uint8)


def as_jpeg(levels: np.ndarray, generator: np.random.Generator) -> bytes:
    """A noisy JPEG of quality 30."""
    noisy = levels + generator.normal(0, 8, levels.shape)
    image = Image.fromarray(np.clip(noisy, 0, 255).astype(np.uint8))
    file = io.BytesIO()
    image.save(file, "JPEG", quality=30)
    return file.getvalue()


def as_png(levels: np.ndarray, generator: np.random.Generator) -> bytes:
    """A PNG."""
    del generator
    file = io.BytesIO()
    Image.fromarray(levels).save(file, "PNG")
    return file.getvalue()


# How each variant is drawn, lit and kept.
Change = Callable[[Any, np.random.Generator], Any]
VARIANTS: dict[str, tuple[Change, ...]] = {
    "black on white, 280 x 280": (in_black_on_white, as_png),
    "off-centre by up to a quarter": (off_centre, in_black_on_white, as_png),
    "scaled 0.5 to 2": (scaled, in_black_on_white, as_png),
    "strokes thinned": (thinned, in_black_on_white, as_png),
    "strokes thickened": (thickened, in_black_on_white, as_png),
    "a light gradient": (in_uneven_light, as_png),
    "JPEG noise": (in_black_on_white, as_jpeg),
    "scaled, gradient and JPEG noise": (scaled, in_uneven_light, as_jpeg),
}


def file_of(image: np.ndarray, variant: str, seed: int) -> bytes:
    """A test image as a file."""
    generator = np.random.default_rng(seed)
    drawing: Any = drawn(image)
    for change in VARIANTS[variant]:
        drawing = change(drawing, generator)
    return drawing


def read_both(
    image: np.ndarray, seed: int, variant: str
) -> tuple[np.ndarray, np.ndarray]:
    """A variant's 28 x 28 pixels, prepared, and only made smaller and inverted."""
    grey = image_io.decode(file_of(image, variant, seed), variant)
    plain = np.rint(255 * (1 - resized(grey, 28, 28))).astype(np.uint8)
    return prepare(grey).image, plain


def blank_pages(count: int) -> list[bytes]:
    """Paper in uneven light, with noise."""
    found = []
    for seed in range(count):
        generator = np.random.default_rng(seed)
        paper = in_uneven_light(np.zeros((SIDE, SIDE)), generator)
        found.append(as_jpeg(paper, generator))
    return found


def noises(count: int) -> list[bytes]:
    """Noise of several grains."""
    found = []
    for seed in range(count):
        generator = np.random.default_rng(seed)
        side = int(generator.choice([7, 14, 28, 70, 280]))
        levels = generator.integers(0, 256, (side, side), np.uint8)
        found.append(as_png(levels, generator))
    return found


def letters(count: int) -> list[bytes]:
    """Letters that no digit looks like, in several fonts and sizes."""
    import matplotlib

    found = []
    for seed in range(count):
        generator = np.random.default_rng(seed)
        letter, name = str(generator.choice(list(LETTERS))), generator.choice(FONTS)
        file = Path(matplotlib.get_data_path()) / "fonts" / "ttf" / f"{name}.ttf"
        font = ImageFont.truetype(str(file), int(generator.integers(60, 200)))
        page = Image.new("L", (SIDE, SIDE), 255)
        ImageDraw.Draw(page).text((140, 140), letter, 0, font, anchor="mm")
        found.append(as_png(np.asarray(page), generator))
    return found


def photograph_files(folder: Path | None) -> list[Path]:
    """A folder's photographs by name; without a folder, the one of matplotlib."""
    import matplotlib

    if folder is None:
        return [Path(matplotlib.get_data_path()) / "sample_data" / "grace_hopper.jpg"]
    return [Path(name) for name in image_io.find(str(folder))]


def photographs(count: int, folder: Path | None = None) -> list[bytes]:
    """Square pieces of photographs, as many of each."""
    photos, found = [], []
    for path in photograph_files(folder):
        with Image.open(path) as image:
            image.thumbnail((1000, 1000))
            photos.append(np.asarray(image.convert("RGB")))
    for seed in range(count):
        generator, photo = np.random.default_rng(seed), photos[seed % len(photos)]
        side = int(generator.integers(60, min(photo.shape[:2])))
        top = generator.integers(0, photo.shape[0] - side + 1)
        left = generator.integers(0, photo.shape[1] - side + 1)
        piece = photo[top : top + side, left : left + side]
        found.append(as_png(piece, generator))
    return found


def garments(folder: str, count: int) -> list[bytes]:
    """Test images of Fashion-MNIST."""
    from rnnmnist.config.schema import DataConfig
    from rnnmnist.data.datasets import load

    examples = load(DataConfig(name="fashion_mnist", manual_dir=folder))["test"]
    generator = np.random.default_rng(0)
    return [as_png(image, generator) for image in examples.images[:count]]


def no_digits(
    garments_folder: str, photographs_folder: Path | None
) -> dict[str, list[bytes]]:
    """What is no digit, as files."""
    return {
        "blank pages": blank_pages(300),
        "noise": noises(1000),
        "letters": letters(1000),
        "pieces of photographs": photographs(1000, photographs_folder),
        "garments": garments(garments_folder, 1000),
    }


def prepared(file: bytes) -> np.ndarray:
    """A file's 28 x 28 pixels, as if there were a digit in it."""
    return prepare(image_io.decode(file, "the image")).image


def is_unchanged(image: np.ndarray) -> bool:
    """Whether the preparation leaves one of MNIST's images as it is."""
    return bool((prepare(image_io.of_array(image)).image == image).all())


class Judge:
    """The reference model, and what it says."""

    def __init__(self) -> None:
        from rnnmnist.inference.out_of_distribution import of_digits
        from rnnmnist.inference.predictor import Predictor

        self.predictor, self.likeness = Predictor(), of_digits()

    def right(self, pixels: np.ndarray, labels: np.ndarray) -> int:
        """Right answers about prepared images."""
        return int(
            (
                self.predictor.predict_probabilities(pixels)[:, -1].argmax(-1) == labels
            ).sum()
        )

    def refused(self, pixels: np.ndarray) -> dict[str, int]:
        """How many prepared images it says are no digits."""
        looks = self.likeness.look_like(
            pixels, self.predictor.predict_probabilities(pixels)[:, -1]
        )
        return {"images": len(looks), "refused": int((~looks).sum())}


def measure(options: argparse.Namespace) -> dict[str, Any]:
    """What `docs/predict.json` holds."""
    from rnnmnist.config.schema import DataConfig
    from rnnmnist.data.datasets import load
    from rnnmnist.runtime.hardware import hardware

    splits = load(DataConfig(name="mnist", manual_dir=options.digits))
    images = splits["test"].images[: options.count]
    labels = splits["test"].labels[: options.count]
    every = np.concatenate([split.images for split in splits.values()])
    others = no_digits(options.garments, options.photographs)
    judge, variants = Judge(), {}
    refused = {"test digits, as they are": judge.refused(images)}
    spawning = multiprocessing.get_context("spawn")
    with concurrent.futures.ProcessPoolExecutor(options.processes, spawning) as pool:
        unchanged = sum(pool.map(is_unchanged, every, chunksize=1000))
        for name, files in others.items():
            pixels = np.stack(list(pool.map(prepared, files, chunksize=50)))
            refused[name] = judge.refused(pixels)
            print(name, refused[name], flush=True)
        for name in VARIANTS:
            read_one = functools.partial(read_both, variant=name)
            pairs = pool.map(read_one, images, range(len(images)), chunksize=50)
            pixels, plain = map(np.stack, zip(*pairs, strict=True))
            variants[name] = {
                "images": len(images),
                "prepared": judge.right(pixels, labels),
                "plain": judge.right(plain, labels),
            }
            refused[f"test digits, {name}"] = judge.refused(pixels)
            print(name, variants[name], flush=True)
    return {
        "command": "python tools/robustness.py measure --digits=FOLDER "
        "--garments=FOLDER --photographs=FOLDER",
        "hardware": hardware(),
        "unchanged": {"images": len(every), "unchanged": unchanged},
        "variants": variants,
        "refused": refused,
        "letters": LETTERS,
        "fonts": FONTS,
        "photographs": [path.name for path in photograph_files(options.photographs)],
    }


def table(document: dict[str, Any]) -> str:
    """The page's tables."""
    lines = [
        "| a test image, drawn | right, prepared | only made smaller and inverted | "
        "said not to be a digit |",
        "| --- | --- | --- | --- |",
    ]
    refused = document["refused"]
    for name, counts in document["variants"].items():
        shares = [100 * counts[key] / counts["images"] for key in ("prepared", "plain")]
        own = refused[f"test digits, {name}"]
        lines.append(
            f"| {name} | {shares[0]:.2f} % ({counts['prepared']:,}) | "
            f"{shares[1]:.2f} % ({counts['plain']:,}) | "
            f"{100 * own['refused'] / own['images']:.1f} % |"
        )
    lines += ["", "| shown | images | said not to be a digit |", "| --- | --- | --- |"]
    lines += [
        f"| {name} | {own['images']:,} | {100 * own['refused'] / own['images']:.1f} % |"
        for name, own in refused.items()
        if not name.startswith("test digits, ") or name == "test digits, as they are"
    ]
    kept = document["unchanged"]
    lines += [
        "",
        f"Of all {kept['images']:,} images of MNIST, the preparation leaves "
        f"{kept['unchanged']:,} as they are.",
        "",
        f"The letters are those of `{document['letters']}`, at 60 to 199 pixels in the "
        f"fonts {_listed(document['fonts'])}. The photographs are "
        f"{_listed(document['photographs'])}.",
    ]
    return "\n".join([*lines, ""])


def _listed(names: Sequence[str]) -> str:
    return ", ".join(f"`{name}`" for name in names)


def rendered(page: str, document: dict[str, Any]) -> str:
    """The page with its tables between its markers."""
    before, rest = page.split(BEGIN)
    return before + BEGIN + table(document) + END + rest.split(END, 1)[1]


def main() -> None:
    """Parses the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    commands = parser.add_subparsers(dest="command", required=True)
    measuring = commands.add_parser("measure")
    measuring.add_argument("--digits", required=True, metavar="FOLDER")
    measuring.add_argument("--garments", required=True, metavar="FOLDER")
    measuring.add_argument("--photographs", type=Path, metavar="FOLDER")
    measuring.add_argument("--count", type=int, default=10_000, help="test images")
    measuring.add_argument("--processes", type=int, default=2)
    commands.add_parser("table")
    options = parser.parse_args()
    if options.command == "measure":
        NUMBERS.write_text(json.dumps(measure(options), indent=1) + "\n")
        return
    PAGE.write_text(rendered(PAGE.read_text(), json.loads(NUMBERS.read_text())))


if __name__ == "__main__":
    main()
