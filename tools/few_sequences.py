"""Compares random filters with networks trained by gradients on few sequences.

    python tools/few_sequences.py --data=FOLDER --wheel=FOLDER

The first FOLDER contains `mnist/` and `fashion_mnist/`, each with the original files,
whose training images are sequences of 28 rows. Into the second one, the wheels of
seglearn and sktime were extracted. They contain recordings of a watch on the wrist,
which are cut into windows of 100 time steps, and PLAID, recordings of electric
appliances.

Each recipe is trained on some sequences, drawn at random, and classifies others: 8,000
other training images, or the fold that the draws leave out. There are five folds, of
whole subjects for the watch, and stratified for PLAID. Test images are not read.
results/few_sequences.json receives the correct predictions, the mean cross-entropy and
the mean confidence; what it contains is not measured again.
"""

import argparse
import datetime
import functools
import json
import statistics
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import page_tables
from folds import Folds

import rnnmnist
from rnnmnist.config.schema import Config, DataConfig
from rnnmnist.data import datasets
from rnnmnist.data.sequences.reading import read
from rnnmnist.evaluation.probabilities import choose_multiplier, log_softmax
from rnnmnist.runtime import machine

FILE = Path(__file__).resolve().parent.parent / "results" / "few_sequences.json"
HELD_OUT = 8_000  # images
WINDOW = 100  # time steps of the watch's recordings
FOLDS = 5
ALL = 10**6  # more sequences than there are
RECIPES: dict[str, dict[str, Any]] = {
    "filters": {"cell": "filters"},
    "trained": {"cell": "lru", "label_smoothing": 0.0},
    "trained, label smoothing": {"cell": "lru", "label_smoothing": 0.1},
}
# The numbers of training sequences of each set, and its title.
SIZES = {
    "mnist": (300, 500, 1_000, 2_000, 3_000, 5_000),
    "fashion_mnist": (300, 500, 1_000, 2_000, 3_000, 5_000),
    "watch": (100, 300, 1_000, ALL),
    "PLAID": (300, ALL),
}
TITLES = {
    "mnist": "rows of MNIST",
    "fashion_mnist": "rows of Fashion-MNIST",
    "watch": "watch, by subject",
    "PLAID": "PLAID",
}

COLUMNS = ("sequences", "for training")
# The sizes in the tables.
SHOWN = (300, 1_000, 2_000, 5_000, ALL)


class Sequences(NamedTuple):
    """Sequences of a set, and what is left out of the training."""

    inputs: np.ndarray  # [n, time, features]
    labels: np.ndarray  # from 0, int [n]
    lengths: np.ndarray | None  # int [n]
    groups: np.ndarray | None  # the subjects, [n]


@functools.cache
def load_images(folder: Path, name: Literal["mnist", "fashion_mnist"]) -> Sequences:
    """Reads the training images of a set."""
    data = DataConfig(name=name, manual_dir=str(folder / name))
    splits = datasets.load(Config(data=data)).splits
    parts = [splits["validation"], splits["train"]]
    images = np.concatenate([part.take(slice(None)) for part in parts])
    labels = np.concatenate([part.labels for part in parts])
    return Sequences(images.astype(np.float32), labels, None, None)


@functools.cache
def load_watch(folder: Path) -> Sequences:
    """Cuts the recordings into windows that do not overlap."""
    file = folder / "seglearn" / "data" / "watch_dataset.npy"
    data = np.load(file, allow_pickle=True).item()  # lists of arrays
    windows, labels, subjects = [], [], []
    for recording, label, subject in zip(
        data["X"], data["y"], data["subject"], strict=True
    ):
        count = len(recording) // WINDOW
        windows.append(recording[: count * WINDOW].reshape(count, WINDOW, -1))
        labels += [label] * count
        subjects += [subject] * count
    inputs = np.concatenate(windows).astype(np.float32)
    return Sequences(inputs, np.array(labels), None, np.array(subjects))


@functools.cache
def load_plaid(folder: Path) -> Sequences:
    """Reads both files of PLAID as one set."""
    path = folder / "sktime" / "datasets" / "data" / "PLAID" / "PLAID_TRAIN.ts"
    found = read(path)
    return Sequences(found.inputs, np.asarray(found.labels), found.lengths, None)


def divide(name: str, data: Sequences, draw: int) -> tuple[np.ndarray, np.ndarray]:
    """Returns the indices of training sequences, shuffled, and of the held-out ones."""
    # Other draws than those of `crossover.py`, whose networks classify test images.
    order = np.random.default_rng(100 + draw).permutation(len(data.labels))
    if name.endswith("mnist"):
        return order[:-HELD_OUT], order[-HELD_OUT:]
    if data.groups is None:
        folds = Folds(Path(), FOLDS, seed=0).divide(data.labels)
    else:
        _, codes = np.unique(data.groups, return_inverse=True)
        folds = codes % FOLDS
    return order[folds[order] != draw], order[folds[order] == draw]


def measure(
    name: str, data: Sequences, size: int, draw: int, recipe: str
) -> dict[str, float]:
    """Trains on some sequences and classifies others; returns its figures."""
    train, test = divide(name, data, draw)
    train = train[:size]

    def take(array: np.ndarray | None, indices: np.ndarray) -> np.ndarray | None:
        return None if array is None else array[indices]

    with tempfile.TemporaryDirectory() as folder:
        rnnmnist.fit(
            data.inputs[train],
            data.labels[train],
            workdir=Path(folder) / "run",
            lengths=take(data.lengths, train),
            groups=take(data.groups, train),
            validation=False,
            placement="host",  # so that a program serves all sizes
            seed=draw,
            verbose=False,
            **RECIPES[recipe],
        )
        model = rnnmnist.load(Path(folder) / "run", "latest")
        found = model.classify(data.inputs[test], take(data.lengths, test))
    # A class that is not in the training part has no probability.
    probabilities = np.zeros((len(test), data.labels.max() + 1))
    probabilities[:, np.array(model.task.classes, int)] = found
    logits = np.log(probabilities.clip(np.finfo(np.float32).tiny))
    labels = data.labels[test]
    return {
        "train": len(train),
        "examples": len(test),
        "correct": int((probabilities.argmax(1) == labels).sum()),
        "confidence": float(probabilities.max(1).mean()),
        "loss": cross_entropy(logits, labels),
        "loss_with_multiplier": cross_entropy(multiply(logits, labels), labels),
    }


def cross_entropy(logits: np.ndarray, labels: np.ndarray) -> float:
    """Returns the mean cross-entropy of sequences."""
    return float(-log_softmax(logits)[np.arange(len(labels)), labels].mean())


def multiply(logits: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Multiplies logits by the number with the lowest cross-entropy.

    That of each half of the sequences is found on the other half.
    """
    result = np.empty_like(logits)
    is_first = np.arange(len(labels)) % 2 == 0
    for one, other in ((is_first, ~is_first), (~is_first, is_first)):
        weights = np.ones(other.sum())
        result[one] = logits[one] * choose_multiplier(
            logits[other], labels[other], weights
        )
    return result


def percents() -> Iterator[tuple[list[str], list[np.ndarray]]]:
    """Yields the set and the number of sequences, and accuracies of each recipe.

    They are those of the draws that all recipes have, in percent.
    """
    runs = json.loads(FILE.read_text())["runs"]
    for name, sizes in SIZES.items():
        for size in sizes:
            if size not in SHOWN:
                continue
            keys = [
                [key(name, size, draw, recipe) for recipe in RECIPES]
                for draw in range(FOLDS)
            ]
            draws = [
                [runs[one] for one in recipes]
                for recipes in keys
                if runs.keys() >= set(recipes)
            ]
            if not draws:
                continue
            accuracies = [
                [100 * run["correct"] / run["examples"] for run in draw]
                for draw in draws
            ]
            trained_on = statistics.mean(draw[0]["train"] for draw in draws)
            row = [TITLES[name], f"{trained_on:,.0f}"]
            yield row, list(np.transpose(accuracies))


def accuracies() -> str:
    """Returns the table of accuracies, and of their differences in the same draws.

    The trained networks are those with label smoothing.
    """
    lines = []
    for row, (filters, _, smoothed) in percents():
        cells = [f"{one.mean():.1f}" for one in (filters, smoothed)]
        lines.append([*row, *cells, format_difference(smoothed - filters)])
    header = (*COLUMNS, "filters", "trained", "trained - filters")
    return page_tables.table(header, lines)


def format_difference(differences: np.ndarray) -> str:
    """Formats the mean of differences, and its standard error if there are several."""
    count = len(differences)
    text = f"{differences.mean():+.1f}"
    if count > 1:
        text += f" ± {differences.std(ddof=1) / count**0.5:.1f}"
    return text


def key(name: str, size: int, draw: int, recipe: str) -> str:
    """Returns the key of a measurement."""
    number = "all" if size == ALL else str(size)
    return f"{name}, {number}, {draw}, {recipe}"


def main() -> None:
    """Parses the command line, trains, and writes the figures."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True, metavar="FOLDER")
    parser.add_argument("--wheel", type=Path, required=True, metavar="FOLDER")
    parser.add_argument("--sets", nargs="+", default=SIZES, choices=SIZES)
    parser.add_argument("--sizes", nargs="+", type=int, metavar="NUMBER")
    parser.add_argument("--recipes", nargs="+", default=RECIPES, choices=RECIPES)
    parser.add_argument("--draws", nargs="+", type=int, default=range(2), metavar="I")
    args = parser.parse_args()
    loaders = {
        "mnist": functools.partial(load_images, args.data, "mnist"),
        "fashion_mnist": functools.partial(load_images, args.data, "fashion_mnist"),
        "watch": functools.partial(load_watch, args.wheel),
        "PLAID": functools.partial(load_plaid, args.wheel),
    }
    runs = json.loads(FILE.read_text())["runs"] if FILE.exists() else {}
    wanted = [
        (name, size, draw, recipe)
        for name in args.sets
        for size in args.sizes or SIZES[name]
        for draw in args.draws
        for recipe in args.recipes
    ]
    for one in wanted:
        name, size, draw, recipe = one
        if key(*one) in runs:
            continue
        runs[key(*one)] = measure(name, loaders[name](), size, draw, recipe)
        print(key(*one), runs[key(*one)], flush=True)
        content = {
            "command": "python tools/few_sequences.py --data=FOLDER --wheel=FOLDER",
            "hardware": machine.describe_processor(),
            "date": datetime.date.today().isoformat(),
            "versions": machine.installed_versions(),
            "runs": runs,
        }
        FILE.write_text(json.dumps(content, indent=1) + "\n")


if __name__ == "__main__":
    main()
