"""Measures what early stopping saves and costs, within training splits.

    python tools/patience.py --data=FOLDER --images=FOLDER

The first folder contains the folders of `results.SETS`, of which two of five folds
are classified in turn; the second one the four files of MNIST, of whose training split
the rows of 8,000 images are classified after training on others, three draws of each
size. Training goes to the end, on all sequences or without a tenth that validates, or
ends if the loss of that tenth has not fallen for so long. A fit has one core;
results/patience.json receives its figures, and finished fits are not repeated.
"""

import argparse
import fnmatch
import json
import os
import statistics
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import page_tables
from recipes import folds_of

import results
import rnnmnist
from rnnmnist.config.schema import DataConfig
from rnnmnist.config.tasks import batch_for
from rnnmnist.data import datasets
from rnnmnist.data.examples import Inputs
from rnnmnist.data.sequences.reading import read
from rnnmnist.runs import logs

FILE = results.RESULTS / "patience.json"
VARIANTS: dict[str, dict[str, Any]] = {
    "all data": {},
    "nine tenths": {"early_stopping": True, "n_iter_no_change": 1000},
    "2 tenths of the run": {"early_stopping": True, "n_iter_no_change": 2},
    "3 tenths of the run": {"early_stopping": True, "n_iter_no_change": 3},
    "10 epochs": {"early_stopping": True},
}
Case = tuple[str, Any, np.ndarray, np.ndarray]  # inputs, labels, is held out


def archive(folder: Path) -> Iterator[Case]:
    """Yields the parts of each data set."""
    for name in results.SETS:
        sequences = read(folder / name / f"{name}_TRAIN.ts", pair=False)
        padded = Inputs(sequences.inputs, sequences.lengths)
        inputs = [padded.unpadded(position) for position in range(len(padded))]
        labels = np.asarray(sequences.labels)
        for fold in range(2):
            yield name, inputs, labels, folds_of(labels, 5) == fold


def images(folder: Path) -> Iterator[Case]:
    """Yields draws of MNIST's training images, of three sizes."""
    train = datasets.load(DataConfig(manual_dir=str(folder))).splits["train"]
    for size in (300, 1_000, 5_000):
        for draw in range(3):
            order = np.random.default_rng(draw).permutation(len(train) - 8_000)
            taken = np.r_[order[:size], len(train) - 8_000 : len(train)]
            inputs = list(np.asarray(train.take(taken), np.float32) / 255)
            labels, is_held_out = train.labels[taken], np.arange(len(taken)) >= size
            yield f"{size} rows of MNIST", inputs, labels, is_held_out


def measure(case: Case, variant: str) -> dict[str, Any]:
    """Trains a classifier on a case; returns its figures."""
    _, inputs, labels, is_held_out = case
    train, test = (np.flatnonzero(part) for part in (~is_held_out, is_held_out))
    settings = dict(VARIANTS[variant])
    if "n_iter_no_change" in settings:
        count = round(0.9 * len(train))
        steps = max(600, round(20 * count / batch_for(count)))
        settings["eval_every_steps"] = steps // 10
    classifier = rnnmnist.RNNClassifier(num_devices=1, **settings)
    classifier.fit([inputs[index] for index in train], labels[train])
    (session,) = logs.read(classifier.workdir_, logs.Session)
    accuracy = classifier.score([inputs[index] for index in test], labels[test])
    return {"accuracy": accuracy, "updates": session.step, **session.seconds}


def table() -> str:
    """Returns the table of accuracies, and of the updates and seconds of training."""
    runs = json.loads(FILE.read_text())["runs"]
    lines = []
    for name in dict.fromkeys(key.partition(",")[0] for key in runs):
        line = [name]
        for variant in VARIANTS:
            keys = fnmatch.filter(runs, f"{name}, *, {variant}")
            accuracy, updates, seconds = (
                statistics.mean(runs[key][figure] for key in keys)
                for figure in ("accuracy", "updates", "train")
            )
            line.append(f"{100 * accuracy:.1f} ({updates:,.0f}; {seconds:.1f})")
        lines.append(line)
    return page_tables.table(("data", *VARIANTS), lines)


def main() -> None:
    """Parses the command line, measures, and writes the figures."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True, metavar="FOLDER")
    parser.add_argument("--images", type=Path, required=True, metavar="FOLDER")
    args = parser.parse_args()
    os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})
    runs = json.loads(FILE.read_text())["runs"] if FILE.exists() else {}
    for number, case in enumerate([*images(args.images), *archive(args.data)]):
        for variant in VARIANTS:
            key = f"{case[0]}, {number}, {variant}"
            if key not in runs:
                runs[key] = measure(case, variant)
                print(key, runs[key], flush=True)
            content = {
                "command": "python tools/patience.py --data=FOLDER --images=FOLDER",
                **results.origin(),
                "runs": runs,
            }
            FILE.write_text(json.dumps(content, indent=1) + "\n")


if __name__ == "__main__":
    main()
