"""Compares random filters with trained networks on few sequences.

    python tools/few_sequences.py --data=FOLDER --wheel=FOLDER

The `--data` folder contains `mnist/` and `fashion_mnist/`, each with the original
files. Training images are sequences of 28 rows. The `--wheel` folder contains the
extracted wheels of seglearn, sktime, wordfreq and Faker, with these data sets:

- recordings of a smartwatch, which are cut into windows of 100 time steps;
- PLAID, recordings of electric appliances;
- frequent words of eight languages;
- last names from eight countries.

Some data sets have binary features: whether a pixel is above 127, and the one-hot
letters of a word or name.

Each classifier is trained on randomly drawn sequences and classifies others: 8,000
other training images, or a held-out fold. There are five folds, which consist of whole
subjects for the watch and are stratified for the other data sets. Test images are not
read.

Writes the correct predictions to results/few_sequences.json. Existing measurements are
not repeated.
"""

import argparse
import functools
import gzip
import importlib
import string
import sys
import unicodedata
from pathlib import Path
from typing import NamedTuple

import msgspec
import numpy as np
from folds import FOLDS, Folds
from page_tables import format_change, table
from result_files import read_runs, write_result

import rnnmnist
from rnnmnist.config.schema import Config
from rnnmnist.data import datasets
from rnnmnist.data.sequences.reading import read

HELD_OUT = 8_000  # images
WINDOW = 100  # time steps, for the smartwatch recordings
ALL = 10**6  # more than any data set contains
CELLS = ("filters", "lru")
# The number of draws for each data set and number of training sequences.
SIZES: dict[str, dict[int, int]] = {
    "mnist": dict.fromkeys((300, 1_000, 2_000, 5_000), 2),
    "fashion_mnist": dict.fromkeys((300, 1_000, 2_000, 5_000), 2),
    "watch": {300: 2, 1_000: 3, ALL: 3},
    "PLAID": {300: 2, ALL: 1},
}
BINARY_SIZES = dict.fromkeys(
    ("binary_mnist", "binary_fashion_mnist", "words", "names"),
    dict.fromkeys((100, 200, 500, 1_000, 2_000), 3),
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


class Sequences(NamedTuple):
    """The sequences of a data set."""

    inputs: np.ndarray  # [n, time, features]
    labels: np.ndarray  # int [n], from 0
    lengths: np.ndarray | None  # int [n]
    groups: np.ndarray | None  # subjects, [n]


@functools.cache
def load(name: str, data: Path, wheel: Path) -> Sequences:
    """Loads a data set from one of the folders."""
    match name:
        case "watch":
            return load_watch(wheel)
        case "PLAID":
            path = wheel / "sktime" / "datasets" / "data" / "PLAID" / "PLAID_TRAIN.ts"
            found = read(path)  # both files
            labels = np.asarray(found.labels)
            return Sequences(found.inputs, labels, found.lengths, None)
        case "words":
            return encode_letters(read_words(wheel))
        case "names":
            return encode_letters(read_names(wheel))
        case "binary_mnist" | "binary_fashion_mnist":
            images = load_images(data, name.removeprefix("binary_"))
            return images._replace(inputs=(images.inputs > 127).astype(np.float32))
    return load_images(data, name)


def load_images(
    folder: Path, name: str, splits: tuple[str, ...] = ("validation", "train")
) -> Sequences:
    """Reads splits of MNIST or Fashion-MNIST; by default, all training images."""
    settings = {"data.name": name, "data.manual_dir": str(folder / name)}
    loaded = datasets.load(Config().replace(settings)).splits
    parts = [loaded[split] for split in splits]
    images = np.concatenate([part.take(slice(None)) for part in parts])
    labels = np.concatenate([part.labels for part in parts])
    return Sequences(images.astype(np.float32), labels, None, None)


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


def read_words(folder: Path) -> list[list[str]]:
    """Reads the most frequent words of each language."""
    found = []
    for language in LANGUAGES:
        file = folder / "wordfreq" / "data" / f"large_{language}.msgpack.gz"
        # After a header, there is a list of words for each frequency.
        _, *lists = msgspec.msgpack.decode(gzip.decompress(file.read_bytes()))
        found.append([word for words in lists for word in words])
    return found


def read_names(folder: Path) -> list[list[str]]:
    """Reads the last names of each country."""
    sys.path.append(str(folder))
    found = []
    for country in COUNTRIES:
        module = importlib.import_module(f"faker.providers.person.{country}")
        found.append(list(module.Provider.last_names))
    return found


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
        folds = Folds(Path(), seed=0).divide(data.labels)
    else:
        _, codes = np.unique(data.groups, return_inverse=True)
        folds = codes % FOLDS
    return order[folds[order] != draw], order[folds[order] == draw]


def measure(
    name: str, data: Sequences, size: int, draw: int, cell: str
) -> dict[str, int]:
    """Trains a classifier, classifies held-out sequences, and returns counts."""
    train, test = divide(name, data, draw)
    train = train[:size]

    lengths = data.lengths
    model = rnnmnist.fit(
        data.inputs[train],
        data.labels[train],
        cell=cell,
        lengths=None if lengths is None else lengths[train],
        groups=None if data.groups is None else data.groups[train],
        validation=False,
        placement="host",  # all sizes share a compiled program
        seed=draw,
        verbose=False,
    )
    test_lengths = None if lengths is None else lengths[test]
    probabilities = model.classify(data.inputs[test], test_lengths)
    predicted = np.array(model.task.classes, int)[probabilities.argmax(axis=1)]
    return {
        "train": len(train),
        "examples": len(test),
        "correct": int((predicted == data.labels[test]).sum()),
    }


def read_differences(name: str, size: int) -> np.ndarray:
    """Reads differences in accuracy between networks and filters, in points."""
    runs = read_runs("few_sequences")
    accuracies = []
    for cell in CELLS:
        draws = range((SIZES | BINARY_SIZES)[name].get(size, 0))
        found = [runs[key(name, size, draw, cell)] for draw in draws]
        accuracies.append([100 * run["correct"] / run["examples"] for run in found])
    filters, trained = np.array(accuracies)
    return trained - filters


def accuracies() -> str:
    """Renders the table of differences by number of training sequences."""
    lines = []
    sizes = (*SIZES["mnist"], ALL)
    for name in SIZES:
        row = [read_differences(name, size) for size in sizes]
        lines.append([TITLES[name], *map(format_change, row)])
    header = ("trained - filters", *(f"{size:,}" for size in sizes[:-1]), "all")
    return table(header, lines)


def binary() -> str:
    """Renders the same table for data sets with binary features, with means."""
    sizes = BINARY_SIZES["words"]
    rows = {
        TITLES[name]: [read_differences(name, size) for size in sizes]
        for name in BINARY_SIZES
    }
    rows["mean"] = list(np.mean([*rows.values()], axis=0))
    lines = [[title, *map(format_change, row)] for title, row in rows.items()]
    header = ("trained - filters", *(f"{size:,}" for size in sizes))
    return table(header, lines)


def key(name: str, size: int, draw: int, cell: str) -> str:
    """Returns the key of a measurement in the file."""
    number = "all" if size == ALL else str(size)
    return f"{name}, {number}, {draw}, {cell}"


def main() -> None:
    """Parses the command line, trains, and writes the counts."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True, metavar="FOLDER")
    parser.add_argument("--wheel", type=Path, required=True, metavar="FOLDER")
    args = parser.parse_args()
    runs = read_runs("few_sequences")
    requested = [
        (name, size, draw, cell)
        for name, sizes in (SIZES | BINARY_SIZES).items()
        for size, draws in sizes.items()
        for draw in range(draws)
        for cell in CELLS
    ]
    for name, size, draw, cell in requested:
        run = key(name, size, draw, cell)
        if run in runs:
            continue
        data = load(name, args.data, args.wheel)
        runs[run] = measure(name, data, size, draw, cell)
        print(run, runs[run], flush=True)
        command = "python tools/few_sequences.py --data=FOLDER --wheel=FOLDER"
        write_result("few_sequences", command, {"runs": runs})


if __name__ == "__main__":
    main()
