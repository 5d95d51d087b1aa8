"""Compares random filters with trained networks on few sequences.

    python tools/few_sequences.py --data=FOLDER --wheel=FOLDER
    python tools/few_sequences.py --data=FOLDER --wheel=FOLDER --draws 0 1 2 \
        --sets binary_mnist binary_fashion_mnist words names \
        --recipes filters "trained, label smoothing"

The `--data` folder contains `mnist/` and `fashion_mnist/`, each with the original
files. Training images are sequences of 28 rows. The `--wheel` folder contains the
extracted wheels of seglearn, sktime, wordfreq and Faker, with these data sets:

- recordings of a smartwatch, which are cut into windows of 100 time steps;
- PLAID, recordings of electric appliances;
- frequent words of eight languages;
- last names from eight countries.

The second command uses binary features: whether a pixel is above 127, and the one-hot
letters of a word or name.

Each recipe is trained on randomly drawn sequences and classifies others: 8,000 other
training images, or a held-out fold. There are five folds, which consist of whole
subjects for the watch and are stratified for the other data sets. Test images are not
read.

Writes the correct predictions to results/few_sequences.json. Existing measurements are
not repeated.
"""

import argparse
import datetime
import functools
import gzip
import importlib
import json
import string
import sys
import tempfile
import unicodedata
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal, NamedTuple

import msgspec
import numpy as np
import page_tables
from folds import Folds

import rnnmnist
from rnnmnist.config.schema import Config, DataConfig
from rnnmnist.data import datasets
from rnnmnist.data.sequences.reading import read
from rnnmnist.runtime import machine

FILE = Path(__file__).resolve().parent.parent / "results" / "few_sequences.json"
HELD_OUT = 8_000  # images
WINDOW = 100  # time steps, for the smartwatch recordings
FOLDS = 5
ALL = 10**6  # more than any data set contains
RECIPES: dict[str, dict[str, Any]] = {
    "filters": {"cell": "filters"},
    "trained": {"cell": "lru", "label_smoothing": 0.0},
    "trained, label smoothing": {"cell": "lru", "label_smoothing": 0.1},
}
# From data sets to numbers of training sequences.
SIZES = {
    "mnist": (300, 500, 1_000, 2_000, 3_000, 5_000),
    "fashion_mnist": (300, 500, 1_000, 2_000, 3_000, 5_000),
    "watch": (100, 300, 1_000, ALL),
    "PLAID": (300, ALL),
}
# The same for data sets with binary features.
BINARY_SIZES = dict.fromkeys(
    ("binary_mnist", "binary_fashion_mnist", "words", "names"),
    (100, 200, 500, 1_000, 2_000),
)
TITLES = {
    "mnist": "rows of MNIST",
    "fashion_mnist": "rows of Fashion-MNIST",
    "watch": "watch, by subject",
    "PLAID": "PLAID",
    "binary_mnist": "binary MNIST",
    "binary_fashion_mnist": "binary Fashion-MNIST",
    "words": "words by language",
    "names": "last names by country",
}
LANGUAGES = ("cs", "de", "en", "es", "fi", "fr", "it", "nl")
COUNTRIES = ("cs_CZ", "de_DE", "en_GB", "es_ES", "fi_FI", "fr_FR", "it_IT", "sv_SE")
MAX_WORDS = 2_000  # per class

# The tables show only these recipes and sizes.
COMPARED = ("filters", "trained, label smoothing")
SHOWN = (300, 1_000, 2_000, 5_000, ALL)


class Sequences(NamedTuple):
    """The sequences of a data set."""

    inputs: np.ndarray  # [n, time, features]
    labels: np.ndarray  # int [n], from 0
    lengths: np.ndarray | None  # int [n]
    groups: np.ndarray | None  # subjects, [n]


@functools.cache
def load_images(folder: Path, name: Literal["mnist", "fashion_mnist"]) -> Sequences:
    """Reads the training images of a data set."""
    data = DataConfig(name=name, manual_dir=str(folder / name))
    splits = datasets.load(Config(data=data)).splits
    parts = [splits["validation"], splits["train"]]
    images = np.concatenate([part.take(slice(None)) for part in parts])
    labels = np.concatenate([part.labels for part in parts])
    return Sequences(images.astype(np.float32), labels, None, None)


@functools.cache
def load_watch(folder: Path) -> Sequences:
    """Divides the smartwatch recordings into non-overlapping windows."""
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
    """Reads both files of PLAID as one data set."""
    path = folder / "sktime" / "datasets" / "data" / "PLAID" / "PLAID_TRAIN.ts"
    found = read(path)
    return Sequences(found.inputs, np.asarray(found.labels), found.lengths, None)


def load_binary_images(
    folder: Path, name: Literal["mnist", "fashion_mnist"]
) -> Sequences:
    """Reads the training images of a data set, and thresholds pixels to 0 or 1."""
    images = load_images(folder, name)
    binary = (images.inputs > 127).astype(np.float32)
    return Sequences(binary, images.labels, None, None)


@functools.cache
def load_words(folder: Path) -> Sequences:
    """Reads the most frequent words of each language."""
    found = []
    for language in LANGUAGES:
        file = folder / "wordfreq" / "data" / f"large_{language}.msgpack.gz"
        # After a header, there is a list of words for each frequency.
        _, *lists = msgspec.msgpack.decode(gzip.decompress(file.read_bytes()))
        found.append([word for words in lists for word in words])
    return encode_letters(found)


@functools.cache
def load_names(folder: Path) -> Sequences:
    """Reads the last names of each country."""
    sys.path.append(str(folder))
    found = []
    for country in COUNTRIES:
        module = importlib.import_module(f"faker.providers.person.{country}")
        found.append(list(module.Provider.last_names))
    return encode_letters(found)


def encode_letters(texts_of_classes: list[list[str]]) -> Sequences:
    """Encodes texts as one-hot letters, without accents.

    Texts must have 3 to 16 letters and occur in only one class. Each class keeps its
    first `MAX_WORDS` texts.
    """
    letters_of_classes = []
    for texts in texts_of_classes:
        plain = [unicodedata.normalize("NFKD", text.lower()) for text in texts]
        plain = ["".join(c for c in text if c.isalnum()) for text in plain]
        letters_of_classes.append(
            [
                text
                for text in dict.fromkeys(plain)
                if 3 <= len(text) <= 16 and set(text) <= set(string.ascii_lowercase)
            ]
        )
    sequences, labels = [], []
    for label, texts in enumerate(letters_of_classes):
        rest = letters_of_classes[:label] + letters_of_classes[label + 1 :]
        others = set[str]().union(*rest)
        unique = [text for text in texts if text not in others][:MAX_WORDS]
        sequences += unique
        labels += [label] * len(unique)
    lengths = np.array([len(text) for text in sequences])
    inputs = np.zeros((len(sequences), lengths.max(), 26), np.float32)
    for values, text in zip(inputs, sequences, strict=True):
        codes = [string.ascii_lowercase.index(letter) for letter in text]
        values[np.arange(len(text)), codes] = 1
    return Sequences(inputs, np.array(labels), lengths, None)


def divide(name: str, data: Sequences, draw: int) -> tuple[np.ndarray, np.ndarray]:
    """Returns shuffled indices of training sequences and of held-out sequences."""
    # The draws differ from `crossover.py`, where networks classify test images.
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
) -> dict[str, int]:
    """Trains a recipe, classifies held-out sequences, and returns counts."""
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
            placement="host",  # all sizes share a compiled program
            seed=draw,
            verbose=False,
            **RECIPES[recipe],
        )
        model = rnnmnist.load(Path(folder) / "run", "latest")
        probabilities = model.classify(data.inputs[test], take(data.lengths, test))
    predicted = np.array(model.task.classes, int)[probabilities.argmax(axis=1)]
    return {
        "train": len(train),
        "examples": len(test),
        "correct": int((predicted == data.labels[test]).sum()),
    }


def read_differences(name: str, size: int) -> np.ndarray:
    """Reads the accuracy of trained networks minus the accuracy of filters, in points.

    The networks have label smoothing. Draws that only one of the recipes has are
    skipped.
    """
    runs = json.loads(FILE.read_text())["runs"]
    found = []
    for draw in range(FOLDS):
        pair = [runs.get(key(name, size, draw, recipe)) for recipe in COMPARED]
        if None not in pair:
            filters, trained = (100 * run["correct"] / run["examples"] for run in pair)
            found.append(trained - filters)
    return np.array(found)


def accuracies() -> str:
    """Renders the table of differences by number of training sequences."""
    lines = []
    for name in SIZES:
        row = [read_differences(name, size) for size in SHOWN]
        lines.append([TITLES[name], *map(format_difference, row)])
    header = ("trained - filters", *(f"{size:,}" for size in SHOWN[:-1]), "all")
    return page_tables.table(header, lines)


def binary() -> str:
    """Renders the same table for data sets with binary features, with means."""
    sizes = BINARY_SIZES["words"]
    rows = {
        TITLES[name]: [read_differences(name, size) for size in sizes]
        for name in BINARY_SIZES
    }
    rows["mean"] = list(np.mean([*rows.values()], axis=0))
    lines = [[title, *map(format_difference, row)] for title, row in rows.items()]
    header = ("trained - filters", *(f"{size:,}" for size in sizes))
    return page_tables.table(header, lines)


def format_difference(differences: np.ndarray) -> str:
    """Formats the mean difference, with its standard error for several draws."""
    count = len(differences)
    if not count:
        return ""
    text = f"{differences.mean():+.1f}"
    if count > 1:
        text += f" ± {differences.std(ddof=1) / count**0.5:.1f}"
    return text


def key(name: str, size: int, draw: int, recipe: str) -> str:
    """Returns the key of a measurement in the file."""
    number = "all" if size == ALL else str(size)
    return f"{name}, {number}, {draw}, {recipe}"


def make_loaders(data: Path, wheel: Path) -> dict[str, Callable[[], Sequences]]:
    """Returns a function for each data set that loads it from the folders."""
    return {
        "mnist": functools.partial(load_images, data, "mnist"),
        "fashion_mnist": functools.partial(load_images, data, "fashion_mnist"),
        "watch": functools.partial(load_watch, wheel),
        "PLAID": functools.partial(load_plaid, wheel),
        "binary_mnist": functools.partial(load_binary_images, data, "mnist"),
        "binary_fashion_mnist": functools.partial(
            load_binary_images, data, "fashion_mnist"
        ),
        "words": functools.partial(load_words, wheel),
        "names": functools.partial(load_names, wheel),
    }


def main() -> None:
    """Parses the command line, trains, and writes the counts."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True, metavar="FOLDER")
    parser.add_argument("--wheel", type=Path, required=True, metavar="FOLDER")
    sizes = SIZES | BINARY_SIZES
    parser.add_argument("--sets", nargs="+", default=SIZES, choices=sizes)
    parser.add_argument("--sizes", nargs="+", type=int, metavar="NUMBER")
    parser.add_argument("--recipes", nargs="+", default=RECIPES, choices=RECIPES)
    parser.add_argument("--draws", nargs="+", type=int, default=range(2), metavar="I")
    args = parser.parse_args()
    loaders = make_loaders(args.data, args.wheel)
    runs = json.loads(FILE.read_text())["runs"] if FILE.exists() else {}
    requested = [
        (name, size, draw, recipe)
        for name in args.sets
        for size in args.sizes or sizes[name]
        for draw in args.draws
        for recipe in args.recipes
    ]
    for name, size, draw, recipe in requested:
        run = key(name, size, draw, recipe)
        if run in runs:
            continue
        runs[run] = measure(name, loaders[name](), size, draw, recipe)
        print(run, runs[run], flush=True)
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
