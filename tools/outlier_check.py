"""Trains the out-of-distribution check, and measures what it rejects.

    python tools/outlier_check.py train --data=FOLDER
    python tools/outlier_check.py measure --data=FOLDER --photographs=PHOTOGRAPHS

`train` fits a small LSTM to the training images of MNIST, plain and distorted, and to
the images of `tools/outliers.py`, and writes
rnnmnist/inference/out_of_distribution.npz. `measure` applies it to test sets that it
was not fitted to, and writes results/out_of_distribution.json. FOLDER contains `mnist/`
and `fashion_mnist/`, each with the four original files; PHOTOGRAPHS contains
photographs.
"""

import argparse
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

import numpy as np
import outliers
import page_tables
import robustness
from make_mnist5k import write
from PIL import Image
from scipy import ndimage

from rnnmnist import Predictor, fit
from rnnmnist.config.schema import DataConfig
from rnnmnist.data.datasets import load
from rnnmnist.data.examples import Examples
from rnnmnist.inference import image_io, out_of_distribution
from rnnmnist.inference.out_of_distribution import OutOfDistributionCheck
from rnnmnist.inference.preprocessing import centre
from rnnmnist.models.lstm import FusedParams
from rnnmnist.runtime.machine import describe_processor, installed_versions
from rnnmnist.runtime.mesh import split_ensemble

REPOSITORY = Path(__file__).resolve().parent.parent
NUMBERS = REPOSITORY / "results/out_of_distribution.json"
WORKDIR = REPOSITORY / "checkpoints/results/out_of_distribution"
REJECTED = 0.01  # fraction of the validation images
DISTORTED, OUTLIERS = 20_000, 64_000  # training images
SETTINGS: dict[str, Any] = {"hidden_size": 64, "num_steps": 10_000, "batch_size": 128}
RECIPE: dict[str, Any] = {
    "learning_rate": 7e-3,
    "eval_every_steps": 5_000,
    "log_every_steps": 500,
}
LETTERS = "ACEFHKMNPRTUVWXYaefhkmnrtuwx"  # those that resemble no digit
Images = Literal["mnist", "fashion_mnist"]


def read_splits(data: Path, name: Images) -> dict[str, Examples]:
    """Reads the splits of a data set of images."""
    return load(DataConfig(name=name, manual_dir=str(data / name))).splits


def train(data: Path) -> None:
    """Trains the check and writes its weights as float16."""
    splits = read_splits(data, "mnist")
    train, validation = splits["train"], splits["validation"]
    digits = (train.stored, train.labels)
    images = np.concatenate(
        [
            train.stored,
            np.stack(list(map(distort, train.stored[:DISTORTED], range(DISTORTED)))),
            outliers.generate(OUTLIERS, digits, seed=0),
        ]
    )
    others = np.full(OUTLIERS, 10)
    labels = np.concatenate([train.labels, train.labels[:DISTORTED], others])
    fit(images / np.float32(255), labels, workdir=WORKDIR, **SETTINGS, **RECIPE)
    arrays = FusedParams(*(array.astype(np.float16) for array in weights()))
    rounded = FusedParams(*(array.astype(np.float32) for array in arrays))
    scores = OutOfDistributionCheck(rounded, np.inf).scores(validation.stored)
    limit = np.quantile(scores, 1 - REJECTED).astype(np.float32)
    write(out_of_distribution.PATH, arrays._asdict() | {"max_score": np.asarray(limit)})
    print(f"{out_of_distribution.PATH}: max_score {limit:.3f}")


def distort(image: np.ndarray, seed: int) -> np.ndarray:
    """Rotates a digit by up to 20 degrees, and thins or thickens every other one."""
    generator = np.random.default_rng(seed)
    angle = generator.uniform(-20, 20)
    rotated = ndimage.rotate(image / 255, angle, reshape=False, order=1)
    canvas = robustness.upsample(np.rint(255 * rotated).astype(np.uint8))
    change = (robustness.thinned, robustness.thickened, None, None)[seed % 4]
    return centre(canvas if change is None else change(canvas, generator))


def weights() -> FusedParams:
    """Returns the trained weights, for images from 0 to 1 that are not standardized."""
    predictor = Predictor(WORKDIR)
    (params,) = split_ensemble(predictor.params)
    fused = FusedParams.create(params)
    mean, std = np.array(predictor.task.mean), np.array(predictor.task.std)
    row = fused.row / std[:, None]
    return fused._replace(row=row, bias=fused.bias - mean @ row)


def blank_pages(count: int) -> Iterator[bytes]:
    """Renders blank pages in uneven light, with noise."""
    for generator in map(np.random.default_rng, range(count)):
        paper = np.zeros((robustness.SIDE, robustness.SIDE))
        levels = robustness.uneven_light(paper, generator)
        yield robustness.jpeg(robustness.noisy(levels, generator), generator)


def noises(count: int) -> Iterator[bytes]:
    """Renders uniform noise in several resolutions."""
    for generator in map(np.random.default_rng, range(count)):
        side = int(generator.choice([7, 14, 28, 70, 280]))
        yield robustness.png(generator.integers(0, 256, (side, side), np.uint8))


def letters(count: int) -> Iterator[bytes]:
    """Renders letters that resemble no digit in several fonts and sizes."""
    for generator in map(np.random.default_rng, range(count)):
        yield robustness.printed(str(generator.choice(list(LETTERS))), generator)


def photographs(count: int, files: list[str]) -> Iterator[bytes]:
    """Crops random squares from photographs, equally many from each."""
    photos = []
    for path in files:
        with Image.open(path) as image:
            image.thumbnail((1000, 1000))
            photos.append(np.asarray(image.convert("RGB")))
    for seed in range(count):
        generator, photo = np.random.default_rng(seed), photos[seed % len(photos)]
        side = int(generator.integers(60, min(photo.shape[:2])))
        top = generator.integers(0, photo.shape[0] - side + 1)
        left = generator.integers(0, photo.shape[1] - side + 1)
        yield robustness.png(photo[top : top + side, left : left + side])


def measure(data: Path, photos: Path) -> dict[str, Any]:
    """Applies the check to all test sets; returns the content of the file."""
    files = image_io.find_images(str(photos))
    garments = read_splits(data, "fashion_mnist")["test"].stored[:1000]
    rendered = {
        "blank pages": blank_pages(300),
        "noise": noises(1000),
        "garments": map(robustness.png, garments),
        "letters": letters(1000),
        "crops of photographs": photographs(1000, files),
    }
    sets = {"test digits": read_splits(data, "mnist")["test"].stored} | {
        name: np.stack(list(map(robustness.preprocess_file, contents)))
        for name, contents in rendered.items()
    }
    check = out_of_distribution.load_check()
    return {
        "name": "out_of_distribution",
        "command": "python tools/outlier_check.py measure --data=FOLDER "
        "--photographs=PHOTOGRAPHS",
        "hardware": describe_processor(),
        "versions": installed_versions(),
        "images": {name: len(images) for name, images in sets.items()},
        "rejected": {
            name: int((~check.is_digit(images)).sum()) for name, images in sets.items()
        },
        "letters": LETTERS,
        "photographs": [Path(file).name for file in files],
    }


def table() -> str:
    """Returns the table of the share of images that the check rejects."""
    numbers = json.loads(NUMBERS.read_text())
    lines = [
        [name, f"{count:,}", f"{100 * numbers['rejected'][name] / count:.1f} %"]
        for name, count in numbers["images"].items()
    ]
    return (
        f"{page_tables.table(('test set', 'images', 'rejected'), lines)}\n"
        f"The letters are those of `{numbers['letters']}`, at 60 to 199 pixels in the "
        f"fonts of the printed digits. The photographs are "
        f"{robustness.listed(numbers['photographs'])}.\n"
    )


def main() -> None:
    """Parses the command line and runs a subcommand."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    commands = parser.add_subparsers(dest="command", required=True)
    for name in ("train", "measure"):
        command = commands.add_parser(name)
        command.add_argument("--data", type=Path, required=True)
    command.add_argument("--photographs", type=Path, required=True)
    args = parser.parse_args()
    if args.command == "train":
        train(args.data)
    else:
        numbers = measure(args.data, args.photographs)
        NUMBERS.write_text(json.dumps(numbers, indent=1) + "\n")


if __name__ == "__main__":
    main()
