"""Compares ways to calibrate a trained network without held-out sequences.

    python tools/calibration.py --data=FOLDER --wheel=FOLDER

The folders are described in `few_sequences.py`; the first folder also contains the
folders of `results.DATA_SETS`. The recipe of configs/trained.py is evaluated in two
ways:

- On seven data sets, it is trained on four of five folds of the training split and
  classifies the fifth fold, with two draws of the folds.
- On other data sets, it is trained on some training sequences and classifies others,
  with two draws.

Test splits are not read. A second network is trained on nine tenths of the same
sequences, and its temperature is fitted on the remaining tenth. Each process uses one
core.

Writes the mean log loss, the mean confidence and the calibration error of each data set
and method to results/calibration.json.
"""

import argparse
import functools
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import NamedTuple

import few_sequences
import numpy as np
import page_tables
from few_sequences import ALL, TITLES
from folds import FOLDS, SELECTION_DATA_SETS, Folds, core_pool
from result_files import read_result, write_result

import rnnmnist
from rnnmnist.evaluation.probabilities import (
    calibrate,
    log_softmax,
    smoothing_temperature,
)

DRAWS = (0, 1)
# From data sets to numbers of training sequences.
SIZES = {
    "mnist": (2_000, 5_000),
    "fashion_mnist": (2_000, 5_000),
    "watch": (ALL,),
    "words": (2_000,),
    "names": (2_000,),
}
BINS = 15  # confidence bins, as in Guo et al., 2017
SMOOTHING = 0.1  # the label smoothing of the trained recipe


class Part(NamedTuple):
    """Sequences of a data set."""

    inputs: np.ndarray  # [n, time, features]
    classes: np.ndarray  # str [n]
    lengths: np.ndarray | None  # int [n]


class Outcome(NamedTuple):
    """Predictions for held-out sequences."""

    logits: np.ndarray  # of a network that was trained on all other sequences
    labels: np.ndarray  # int [n]
    temperature: float  # of a second network, from its validation split


Load = Callable[[], tuple[Part, Part, int]]  # training, held-out part, and the seed


def list_parts(data: Path, wheel: Path) -> dict[str, list[Load]]:
    """Returns loaders for each data set."""
    parts: dict[str, list[Load]] = {}
    for name in SELECTION_DATA_SETS:
        path = data / name / f"{name}_TRAIN.ts"
        parts[name] = [
            functools.partial(load_fold, Folds(path, draw), fold)
            for draw in DRAWS
            for fold in range(FOLDS)
        ]
    for name, sizes in SIZES.items():
        for size in sizes:
            title = TITLES[name] if size == ALL else f"{size:,} {TITLES[name]}"
            parts[title] = [
                functools.partial(load_draw, name, data, wheel, size, draw)
                for draw in DRAWS
            ]
    return parts


def load_fold(folds: Folds, fold: int) -> tuple[Part, Part, int]:
    """Loads the other folds and the held-out fold."""
    sequences, classes, fold_of = folds.load()
    everything = Part(sequences.inputs, classes, sequences.lengths)
    is_held_out = fold_of == fold
    train, held_out = select(everything, ~is_held_out), select(everything, is_held_out)
    return train, held_out, folds.classifier_seed(fold)


def load_draw(
    name: str, data: Path, wheel: Path, size: int, draw: int
) -> tuple[Part, Part, int]:
    """Loads some training sequences and all held-out sequences."""
    sequences = few_sequences.load(name, data, wheel)
    train, held_out = few_sequences.divide(name, sequences, draw)
    everything = Part(sequences.inputs, sequences.labels.astype(str), sequences.lengths)
    return select(everything, train[:size]), select(everything, held_out), draw


def select(part: Part, selected: np.ndarray) -> Part:
    """Selects sequences by indices, or by a mask, bool [n]."""
    arrays = (None if array is None else np.asarray(array)[selected] for array in part)
    return Part(*arrays)  # type: ignore[arg-type]


def train(load: Load) -> Outcome:
    """Trains two networks."""
    part, held_out, seed = load()
    fit = functools.partial(
        rnnmnist.fit,
        part.inputs,
        part.classes,
        lengths=part.lengths,
        cell="lru",
        seed=seed,
        verbose=False,
    )
    model = fit(validation=False)
    probabilities = model.classify(held_out.inputs, held_out.lengths).astype(float)
    second = fit()  # holds out a tenth for validation
    assert second.dataset is not None
    validation = second.dataset.splits["validation"]
    return Outcome(
        np.log(probabilities) * model.temperature,
        np.array([model.task.classes.index(name) for name in held_out.classes]),
        calibrate(second.logits(validation), validation.labels),
    )


def correct_smoothing(outcome: Outcome) -> np.ndarray:
    """Divides logits by the temperature that a run uses."""
    return outcome.logits / smoothing_temperature(SMOOTHING, outcome.logits.shape[1])


METHODS: Mapping[str, Callable[[Outcome], np.ndarray]] = {
    "none": lambda outcome: outcome.logits,
    "exact at 95 %": correct_smoothing,
    "held-out tenth": lambda outcome: outcome.logits / outcome.temperature,
}


def evaluate(outcomes: list[Outcome], method: str) -> dict[str, float]:
    """Evaluates a method on all held-out sequences of a data set."""
    labels = np.concatenate([outcome.labels for outcome in outcomes])
    logits = np.concatenate([METHODS[method](outcome) for outcome in outcomes])
    logarithms = log_softmax(logits)
    is_correct = logarithms.argmax(axis=1) == labels
    confidences = np.exp(logarithms.max(axis=1))
    bins = np.minimum((confidences * BINS).astype(int), BINS - 1)
    gaps = np.bincount(bins, is_correct - confidences, BINS)
    return {
        "accuracy": float(is_correct.mean()),
        "confidence": float(confidences.mean()),
        "log_loss": float(-logarithms[np.arange(len(labels)), labels].mean()),
        "calibration_error": float(np.abs(gaps).sum()) / len(labels),
    }


def methods() -> str:
    """Renders the table of the methods, with means over the data sets."""
    found = read_result("calibration")["datasets"].values()
    lines = []
    for method in METHODS:
        log_loss = np.mean([figures[method]["log_loss"] for figures in found])
        errors = [figures[method]["calibration_error"] for figures in found]
        lines.append([method, f"{log_loss:.3f}", f"{100 * np.mean(errors):.1f}"])
    header = ("calibration", "log loss", "calibration error, points")
    return page_tables.table(header, lines)


def main() -> None:
    """Parses the command line, trains, and writes the results."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True, metavar="FOLDER")
    parser.add_argument("--wheel", type=Path, required=True, metavar="FOLDER")
    args = parser.parse_args()
    parts = list_parts(args.data, args.wheel)
    with core_pool() as pool:
        futures = {
            name: [pool.submit(train, load) for load in loads]
            for name, loads in parts.items()
        }
        outcomes = {
            name: [future.result() for future in trained]
            for name, trained in futures.items()
        }
    datasets = {
        name: {method: evaluate(found, method) for method in METHODS}
        for name, found in outcomes.items()
    }
    command = "python tools/calibration.py --data=FOLDER --wheel=FOLDER"
    write_result("calibration", command, {"datasets": datasets})


if __name__ == "__main__":
    main()
