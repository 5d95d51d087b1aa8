"""Compares classifiers of sequences by cross-validation on training splits.

    python tools/folds.py --data=FOLDER --aeon=PYTHON

FOLDER contains the folders of `results.DATA_SETS`. A classifier is trained on four of
five folds, and classifies the fifth one; a network does this after its last step. Folds
are stratified and drawn with a seed, so that all classifiers use the same folds. Each
process uses one core. PYTHON is the interpreter of an environment with
`requirements-baselines.txt`, for MiniRocket.

Writes counts to results/folds.json, for each classifier, seed of the folds, data set,
and fold:

- `examples` and `correct`, in the held-out fold;
- for filters, `fitted` and `left_out`: the sequences in the other folds, and the
  correct leave-one-out predictions for them.

Existing measurements are not repeated.
"""

import argparse
import functools
import json
import multiprocessing
import os
from collections.abc import Mapping
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import run_classifier
from result_files import RESULTS
from run_classifier import ROCKET

import rnnmnist
from results import DATA_SETS
from rnnmnist.data.sequences.checking import Sequences
from rnnmnist.data.sequences.reading import read
from rnnmnist.evaluation import predictions
from rnnmnist.models import filters
from rnnmnist.training import closed_form

FILE = RESULTS / "folds.json"
PLAIN = {
    "cell": "lru",
    "deltas": False,
    "label_smoothing": 0.0,
    "learning_rate": 2e-3,
}
FIRST = PLAIN | {"batch_size": 32, "min_steps": 600}
THREE = FIRST | {"num_layers": 3}
CHANGES = PLAIN | {"deltas": True}
FASTER = CHANGES | {"learning_rate": 4e-3}
RECIPES: dict[str, dict[str, Any]] = {  # settings that override `trained.py`
    "1 layer": FIRST | {"num_layers": 1},
    "2 layers": FIRST | {"num_layers": 2},
    "3 layers": THREE,
    "3 layers, no windows": THREE | {"window": 1},
    "deltas": CHANGES,
    "deltas, learning rate 4e-3": FASTER,
    "deltas, label smoothing, learning rate 4e-3": FASTER | {"label_smoothing": 0.1},
    "bidirectional": FASTER | {"bidirectional": True, "hidden_size": 45},
}
DROPOUT: dict[str, dict[str, Any]] = {
    "trained": {"cell": "lru"},
    "dropout 0.1": {"cell": "lru", "dropout": 0.1},
    "dropout 0.2": {"cell": "lru", "dropout": 0.2},
}
FOLDS = 5


class Variant(NamedTuple):
    """A variant of the default random filters."""

    settings: Mapping[str, Any] = {}
    constants: Mapping[str, Any] = {}  # replacements for globals of the modules


def ppv_only(carry: filters.FilterCarry, num_read: jax.Array) -> jax.Array:
    """Computes hidden states from PPV only, with all maxima set to 0."""
    zeros = jnp.zeros_like(carry.max_outputs)
    return HIDDEN_STATE(carry._replace(max_outputs=zeros), num_read)


HIDDEN_STATE = filters.hidden_state
VARIANTS = {
    "filters": Variant(),
    "1 recurrence": Variant(constants={"ORDER": 1}),
    "2 recurrences": Variant(constants={"ORDER": 2}),
    "4 recurrences": Variant(constants={"ORDER": 4}),
    "2 thresholds": Variant(constants={"THRESHOLDS": 2}),
    "8 thresholds": Variant(constants={"THRESHOLDS": 8}),
    "250 filters": Variant({"hidden_size": 250}),
    "500 filters": Variant({"hidden_size": 500}),
    "2,000 filters": Variant({"hidden_size": 2000}),
    "no deltas": Variant({"deltas": False}),
    "PPV only": Variant(constants={"hidden_state": ppv_only}),
}
# The data sets whose folds selected the settings of the filters.
SELECTION_DATA_SETS = DATA_SETS[:-1]
# The classifiers that are compared, the seeds of the folds, and the data sets.
COMPARISONS = (
    (tuple(RECIPES), (0,), DATA_SETS),
    (tuple(DROPOUT), (0, 1), SELECTION_DATA_SETS),
    ((*VARIANTS, ROCKET), (0, 1), SELECTION_DATA_SETS),
    # Nothing was selected on these folds.
    (("filters", "PPV only", ROCKET), (2, 3), DATA_SETS),
)


class Folds(NamedTuple):
    """A division of the training split of a file into stratified folds."""

    path: Path
    seed: int

    def divide(self, labels: np.ndarray) -> np.ndarray:
        """Returns the fold of each sequence, int [n]."""
        order = np.random.default_rng(self.seed).permutation(len(labels))
        order = order[np.argsort(labels[order], kind="stable")]
        result = np.empty(len(labels), int)
        result[order] = np.arange(len(labels)) % FOLDS
        return result

    def load(self) -> tuple[Sequences, np.ndarray, np.ndarray]:
        """Returns the sequences, the class and the fold of each, [n]."""
        sequences = read(self.path, both_splits=False)
        labels = np.asarray(sequences.labels)
        return sequences, np.array(sequences.classes)[labels], self.divide(labels)

    def classifier_seed(self, fold: int) -> int:
        """Returns the seed of the classifier that leaves out a fold."""
        return self.seed * FOLDS + fold


def evaluate(name: str, folds: Folds, aeon: str, fold: int) -> dict[str, Any]:
    """Trains a classifier without one fold, and returns its counts.

    `prepare` must have set the constants of a variant.
    """
    sequences, classes, fold_of = folds.load()
    inputs, seed = np.asarray(sequences.inputs), folds.classifier_seed(fold)
    is_held_out = fold_of == fold
    if name == ROCKET:
        arrays = {
            "inputs": inputs[~is_held_out],
            "labels": classes[~is_held_out],
            "test": inputs[is_held_out],
            "truth": classes[is_held_out],
        }
        correct = run_classifier.run(aeon, name, seed, **arrays)["correct"]
        return {"correct": correct, "examples": int(is_held_out.sum())}
    settings = (RECIPES | DROPOUT).get(name)
    model = rnnmnist.fit(
        inputs,
        classes,
        lengths=sequences.lengths,
        split=np.where(is_held_out, "validation", "train"),
        seed=seed,
        verbose=False,
        **settings or {"cell": "filters", **VARIANTS[name].settings},
    )
    last = {line.split: line for line in model.record.lines}
    held_out = last["validation"]
    counts: dict[str, Any] = {
        "correct": held_out.correct,
        "examples": held_out.examples,
    }
    if left_out := last.get("leave_one_out"):
        counts |= {"left_out": left_out.correct, "fitted": left_out.examples}
    return counts


def core_pool(constants: Mapping[str, Any] = {}) -> ProcessPoolExecutor:
    """Returns a pool of one process for each usable core, with changed constants."""
    spawn = multiprocessing.get_context("spawn")
    cores = spawn.Queue()
    usable = os.sched_getaffinity(0)
    for core in usable:
        cores.put(core)
    return ProcessPoolExecutor(len(usable), spawn, prepare, (cores, constants))


def prepare(cores: Any, constants: Mapping[str, Any]) -> None:
    """Pins this process to one of the cores, and replaces constants in its modules."""
    os.sched_setaffinity(0, {cores.get()})
    for module in (filters, closed_form, predictions):
        for name in constants.keys() & vars(module).keys():
            setattr(module, name, constants[name])


def main() -> None:
    """Parses the command line, measures, and writes the counts of each data set."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True, metavar="FOLDER")
    parser.add_argument("--aeon", required=True, metavar="PYTHON")
    args = parser.parse_args()
    results = json.loads(FILE.read_text()) if FILE.exists() else {}
    requested = [
        (name, Folds(args.data / data_set / f"{data_set}_TRAIN.ts", seed))
        for names, seeds, data_sets in COMPARISONS
        for name in names
        for seed in seeds
        for data_set in data_sets
    ]
    for name, folds in requested:
        data_set, key = folds.path.parent.name, f"{FOLDS} folds, seed {folds.seed}"
        found = results.setdefault(name, {}).setdefault(key, {})
        if data_set in found:
            continue
        constants = VARIANTS[name].constants if name in VARIANTS else {}
        with core_pool(constants) as pool:
            evaluate_fold = functools.partial(evaluate, name, folds, args.aeon)
            counts = list(pool.map(evaluate_fold, range(FOLDS)))
        found[data_set] = {kind: [fold[kind] for fold in counts] for kind in counts[0]}
        FILE.write_text(json.dumps(results, indent=1) + "\n")
        print(name, key, data_set, found[data_set], flush=True)


if __name__ == "__main__":
    main()
