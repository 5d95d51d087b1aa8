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
core.

Writes the log losses and the calibration error of each data set and method to
results/calibration.json.
"""

import argparse
import functools
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import few_sequences
import numpy as np
import page_tables
from few_sequences import ALL, TITLES
from folds import FOLDS, SEVEN, Folds, core_pool
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
COUNTS = ("examples", "correct", "loss_of_correct", "loss_of_wrong")
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
    trained_on: int  # sequences
    temperature: float  # of a second network, from its validation split


Load = Callable[[], tuple[Part, Part, int]]  # training, held-out part, and the seed


def list_parts(data: Path, wheel: Path) -> dict[str, list[Load]]:
    """Returns loaders for each data set."""
    parts: dict[str, list[Load]] = {}
    for name in SEVEN:
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
        len(part.inputs),
        calibrate(second.logits(validation), validation.labels),
    )


def undo_smoothing(outcome: Outcome) -> np.ndarray:
    """Inverts label smoothing, and returns log probabilities.

    This assumes that the network has learned the smoothed targets exactly. The minimum
    probability is 1 over the number of training sequences.
    """
    smoothed = np.exp(log_softmax(outcome.logits))
    probabilities = (smoothed - SMOOTHING / smoothed.shape[1]) / (1 - SMOOTHING)
    return np.log(probabilities.clip(1 / outcome.trained_on))


def match_sample_size(outcome: Outcome) -> np.ndarray:
    """Scales logits so that perfectly learned smoothed targets get probability 1 - 1/n.

    Here, n is the number of training sequences.
    """
    classes = outcome.logits.shape[1]
    margin = np.log1p(classes * (1 - SMOOTHING) / SMOOTHING)
    return outcome.logits * np.log((outcome.trained_on - 1) * (classes - 1)) / margin


def correct_smoothing(outcome: Outcome) -> np.ndarray:
    """Divides logits by the temperature that a run uses."""
    return outcome.logits / smoothing_temperature(SMOOTHING, outcome.logits.shape[1])


METHODS: Mapping[str, Callable[[Outcome], np.ndarray]] = {
    "none": lambda outcome: outcome.logits,
    "inverse smoothing": undo_smoothing,
    "exact at 95 %": correct_smoothing,
    "target 1 - 1/n": match_sample_size,
    "held-out tenth": lambda outcome: outcome.logits / outcome.temperature,
}


def evaluate(outcomes: list[Outcome], method: str) -> dict[str, Any]:
    """Evaluates a method on a data set; losses are sums over the sequences per part."""
    parts: dict[str, list[float]] = {name: [] for name in COUNTS}
    gaps = np.zeros(BINS)
    confidence = 0.0
    for outcome in outcomes:
        logarithms = log_softmax(METHODS[method](outcome))
        labels = outcome.labels
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
    sets = read_result("calibration")["sets"]
    lines = []
    for method in METHODS:
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
        lines.append([method, *numbers.split()])
    losses = ("log loss", "log loss if correct", "log loss if wrong")
    header = ("calibration", *losses, "calibration error, points")
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
    sets = {
        name: {method: evaluate(found, method) for method in METHODS}
        for name, found in outcomes.items()
    }
    command = "python tools/calibration.py --data=FOLDER --wheel=FOLDER"
    write_result("calibration", command, {"sets": sets})


if __name__ == "__main__":
    main()
