"""Compares ways to calibrate a trained network without held-out sequences.

    python tools/calibration.py --data=FOLDER --wheel=FOLDER

The folders are described in `few_sequences.py`; the first folder also contains the
folders of `results.SETS`. The recipe of configs/trained.py is evaluated in two ways:

- On seven data sets, it is trained on four of five folds of the training split and
  classifies the fifth fold, with two draws of the folds.
- On other data sets, it is trained on some training sequences and classifies others,
  with two draws.

Test splits are not read. A second network is trained on nine tenths of the same
sequences, and its temperature is fitted on the remaining tenth. Each process uses one
core. Logits are kept in `checkpoints/calibration`.

Writes the log losses and the calibration error of each data set and method to
results/calibration.json.
"""

import argparse
import datetime
import functools
import json
import multiprocessing
import os
from collections.abc import Callable, Mapping
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import page_tables
from few_sequences import ALL, TITLES, Sequences, divide, make_loaders
from fold_tables import SEVEN
from folds import Folds, prepare

import rnnmnist
from results import RESULTS, RUNS
from rnnmnist.data.sequences.reading import read
from rnnmnist.evaluation.probabilities import (
    calibrate,
    log_softmax,
    smoothing_temperature,
)
from rnnmnist.runtime import machine

FILE = RESULTS / "calibration.json"
DRAWS = (0, 1)
FOLDS = 5
# From data sets to numbers of training sequences.
SIZES = {
    "mnist": (2_000, 5_000),
    "fashion_mnist": (2_000, 5_000),
    "watch": (ALL,),
    "words": (2_000,),
    "names": (2_000,),
}
COUNTS = ("examples", "correct", "loss_of_correct", "loss_of_wrong")
BINS = 15  # confidence bins, as in Guo et al., 2017
SMOOTHING = 0.1  # the label smoothing of the trained recipe

Part = tuple[np.ndarray, np.ndarray, np.ndarray | None]  # inputs, classes, lengths


def list_parts(
    data: Path, wheel: Path
) -> dict[str, list[Callable[[], tuple[Part, Part, int]]]]:
    """Returns loaders of (training part, held-out part, seed), for each data set."""
    parts: dict[str, list[Callable[[], tuple[Part, Part, int]]]] = {}
    for name in SEVEN:
        path = data / name / f"{name}_TRAIN.ts"
        parts[name] = [
            functools.partial(load_fold, Folds(path, FOLDS, draw), fold)
            for draw in DRAWS
            for fold in range(FOLDS)
        ]
    loaders = make_loaders(data, wheel)
    for name, sizes in SIZES.items():
        for size in sizes:
            title = TITLES[name] if size == ALL else f"{size:,} {TITLES[name]}"
            parts[title] = [
                functools.partial(load_part, name, loaders[name], size, draw)
                for draw in DRAWS
            ]
    return parts


def load_fold(folds: Folds, fold: int) -> tuple[Part, Part, int]:
    """Loads the other folds, the held-out fold, and the seed of the network."""
    sequences = read(folds.path, both_splits=False)
    labels = np.asarray(sequences.labels)
    is_held_out = folds.divide(labels) == fold
    classes = np.array(sequences.classes)[labels]
    return (
        take_part(sequences, classes, ~is_held_out),
        take_part(sequences, classes, is_held_out),
        folds.first_seed + fold,
    )


def load_part(
    name: str, load: Callable[[], Sequences], size: int, draw: int
) -> tuple[Part, Part, int]:
    """Loads training sequences, held-out sequences, and the seed of the network."""
    sequences = load()
    train, held_out = divide(name, sequences, draw)
    classes = sequences.labels.astype(str)
    return (
        take_part(sequences, classes, train[:size]),
        take_part(sequences, classes, held_out),
        draw,
    )


def take_part(sequences: Any, classes: np.ndarray, selected: np.ndarray) -> Part:
    """Selects sequences and their classes by indices, or by a mask, bool [n]."""
    lengths = sequences.lengths
    if lengths is not None:
        lengths = np.asarray(lengths)[selected]
    return np.asarray(sequences.inputs)[selected], classes[selected], lengths


def train(load: Callable[[], tuple[Part, Part, int]], file: Path) -> None:
    """Trains two networks; saves logits of the first, the temperature of the second."""
    (inputs, classes, lengths), (test, names, test_lengths), seed = load()
    fit = functools.partial(
        rnnmnist.fit,
        inputs,
        classes,
        lengths=lengths,
        cell="lru",
        seed=seed,
        verbose=False,
    )
    model = fit(validation=False)
    probabilities = model.classify(test, test_lengths).astype(float)
    second = fit()  # holds out a tenth for validation
    assert second.dataset is not None
    validation = second.dataset.splits["validation"]
    file.parent.mkdir(parents=True, exist_ok=True)
    np.savez(
        file,
        logits=np.log(probabilities) * model.temperature,
        labels=[model.task.classes.index(name) for name in names],
        trained_on=len(inputs),
        temperature=calibrate(second.logits(validation), validation.labels),
    )
    print(file, flush=True)


def undo_smoothing(logits: np.ndarray, trained_on: int, _: float) -> np.ndarray:
    """Inverts label smoothing, and returns log probabilities.

    This assumes that the network has learned the smoothed targets exactly. The minimum
    probability is 1 over the number of training sequences.
    """
    classes = logits.shape[1]
    smoothed = np.exp(log_softmax(logits))
    probabilities = (smoothed - SMOOTHING / classes) / (1 - SMOOTHING)
    return np.log(probabilities.clip(1 / trained_on))


def match_sample_size(logits: np.ndarray, trained_on: int, _: float) -> np.ndarray:
    """Scales logits so that perfectly learned smoothed targets get probability 1 - 1/n.

    Here, n is the number of training sequences.
    """
    classes = logits.shape[1]
    margin = np.log1p(classes * (1 - SMOOTHING) / SMOOTHING)
    return logits * np.log((trained_on - 1) * (classes - 1)) / margin


def correct_smoothing(logits: np.ndarray, trained_on: int, _: float) -> np.ndarray:
    """Divides logits by the temperature that a run uses."""
    return logits / smoothing_temperature(SMOOTHING, logits.shape[1])


METHODS: Mapping[str, Callable[[np.ndarray, int, float], np.ndarray]] = {
    "none": lambda logits, trained_on, temperature: logits,
    "smoothing undone": undo_smoothing,
    "temperature, exact at 95 %": correct_smoothing,
    "temperature, up to 1 - 1/n": match_sample_size,
    "temperature of a tenth": lambda logits, trained_on, temperature: (
        logits / temperature
    ),
}


# In the table; the keys of `METHODS` are also keys of the result file.
LABELS = (
    "none",
    "inverse smoothing",
    "exact at 95 %",
    "target 1 - 1/n",
    "held-out tenth",
)


def evaluate(files: list[Path], method: str) -> dict[str, Any]:
    """Evaluates a method on a data set; losses are sums over the sequences per file."""
    parts: dict[str, list[float]] = {name: [] for name in COUNTS}
    gaps = np.zeros(BINS)
    confidence = 0.0
    for file in files:
        saved = np.load(file)
        trained_on, temperature = int(saved["trained_on"]), float(saved["temperature"])
        logits = METHODS[method](saved["logits"], trained_on, temperature)
        labels = saved["labels"]
        logarithms = log_softmax(logits)
        losses = -logarithms[np.arange(len(labels)), labels]
        is_correct = logarithms.argmax(axis=1) == labels
        confidences = np.exp(logarithms.max(axis=1))
        bins = np.minimum((confidences * BINS).astype(int), BINS - 1)
        gaps += np.bincount(bins, is_correct - confidences, BINS)
        confidence += float(confidences.sum())
        counted = (
            len(labels),
            int(is_correct.sum()),
            float(losses[is_correct].sum()),
            float(losses[~is_correct].sum()),
        )
        for name, value in zip(COUNTS, counted, strict=True):
            parts[name].append(value)
    examples = sum(parts["examples"])
    return {
        **parts,
        "confidence": confidence / examples,
        "calibration_error": float(np.abs(gaps).sum()) / examples,
    }


def methods() -> str:
    """Renders the table of the methods, with means over the data sets."""
    sets = json.loads(FILE.read_text())["sets"]
    lines = []
    for method, label in zip(METHODS, LABELS, strict=True):
        rows = []
        for figures in sets.values():
            found = {name: np.sum(figures[method][name]) for name in COUNTS}
            wrong = found["examples"] - found["correct"]
            loss = found["loss_of_correct"] + found["loss_of_wrong"]
            of_correct = found["loss_of_correct"] / found["correct"]
            of_wrong = found["loss_of_wrong"] / wrong if wrong else np.nan
            error = 100 * figures[method]["calibration_error"]
            rows.append((loss / found["examples"], of_correct, of_wrong, error))
        # A data set without wrong predictions has no mean loss for them.
        loss, of_correct, of_wrong, error = np.nanmean(rows, axis=0)
        numbers = f"{loss:.3f} {of_correct:.3f} {of_wrong:.2f} {error:.1f}"
        lines.append([label, *numbers.split()])
    losses = ("log loss", "if correct", "if wrong")
    header = ("calibration", *losses, "calibration error, points")
    return page_tables.table(header, lines)


def main() -> None:
    """Parses the command line, trains, and writes the results."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True, metavar="FOLDER")
    parser.add_argument("--wheel", type=Path, required=True, metavar="FOLDER")
    args = parser.parse_args()
    folder = RUNS.with_name("calibration")
    parts = list_parts(args.data, args.wheel)
    files = {
        name: [folder / f"{name}-{index}.npz" for index in range(len(parts[name]))]
        for name in parts
    }
    spawn = multiprocessing.get_context("spawn")
    cores = spawn.Queue()
    for core in os.sched_getaffinity(0):
        cores.put(core)
    size = len(os.sched_getaffinity(0))
    with ProcessPoolExecutor(size, spawn, prepare, (cores, {})) as pool:
        futures = [
            pool.submit(train, load, file)
            for name in parts
            for load, file in zip(parts[name], files[name], strict=True)
            if not file.exists()
        ]
        for future in futures:
            future.result()
    content = {
        "command": "python tools/calibration.py --data=FOLDER --wheel=FOLDER",
        "hardware": machine.describe_processor(),
        "date": datetime.date.today().isoformat(),
        "versions": machine.installed_versions(),
        "sets": {
            name: {method: evaluate(files[name], method) for method in METHODS}
            for name in parts
        },
    }
    FILE.write_text(json.dumps(content, indent=1) + "\n")


if __name__ == "__main__":
    main()
