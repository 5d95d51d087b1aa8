"""Compares classifiers of sequences by cross-validation on training splits.

    python tools/folds.py --data=FOLDER --folds=5 --seeds 0 1 -- CLASSIFIER …

FOLDER contains the folders of `results.SETS`. A classifier is trained on all folds
except one, and classifies the held-out fold; a network does this after its last step.
Folds are stratified and drawn with a seed, so that all classifiers use the same folds.
Each process uses one core. Runs trained by gradient descent are kept in
`checkpoints/folds`. MiniRocket needs `--aeon`, the Python of an environment with
`requirements-baselines.txt`.

Writes counts to results/folds.json, for each classifier, number and seed of the folds,
data set, and fold:

- `examples` and `correct`, in the held-out fold;
- for filters, `fitted` and `left_out`: the sequences in the other folds, and the
  correct leave-one-out predictions for them;
- for `filters`, `correct_after`: the correct predictions after each percentage of the
  time steps of a sequence.

Existing measurements are not repeated.

These commands measure the numbers of `docs/results_choices.md`. The recipes:

    python tools/folds.py --data=FOLDER -- "1 layer" "2 layers" …

Dropout, where SEVEN is BasicMotions JapaneseVowels ItalyPowerDemand GunPoint ArrowHead
OSULeaf PickupGestureWiimoteZ:

    python tools/folds.py --data=FOLDER --seeds 0 1 --sets SEVEN \
        -- trained "dropout 0.1" "dropout 0.2"

The variants of the filters (all names of `VARIANTS`, and MiniRocket):

    python tools/folds.py --data=FOLDER --seeds 0 1 --sets SEVEN \
        --aeon=PYTHON -- filters "1 recurrence" …

The fresh folds, on which nothing was selected:

    python tools/folds.py --data=FOLDER --seeds 2 3 --aeon=PYTHON \
        -- filters "PPV only" MiniRocket
"""

import argparse
import functools
import json
import math
import multiprocessing
import os
import subprocess
import tempfile
from collections.abc import Callable, Mapping
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

import rnnmnist
from results import RESULTS, RUNS, SETS
from rnnmnist.data.sequences.reading import read
from rnnmnist.evaluation import predictions
from rnnmnist.models import filters
from rnnmnist.runs import logs
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
    "3 layers, 1,200 updates": THREE | {"min_steps": 1200},
    "3 layers, no windows, 1,200 updates": THREE | {"min_steps": 1200, "window": 1},
    "deltas": CHANGES,
    "deltas, rate 4e-3": FASTER,
    "deltas, smoothing, rate 4e-3": FASTER | {"label_smoothing": 0.1},
    "both directions": FASTER | {"bidirectional": True, "hidden_size": 45},
}
# The other settings are in `trained.py`.
TRAINED: dict[str, Any] = {"cell": "lru"}
DROPOUT = {
    "trained": TRAINED,
    "dropout 0.1": TRAINED | {"dropout": 0.1},
    "dropout 0.2": TRAINED | {"dropout": 0.2},
}
EARLY = (25, 50, 75)  # percentages of the time steps


class Variant(NamedTuple):
    """A variant of the default random filters."""

    settings: Mapping[str, Any] = {}
    constants: Mapping[str, Any] = {}  # replacements for globals of the modules
    is_early: bool = False  # whether to count predictions after fewer time steps


def ppv_only(carry: filters.FilterCarry, times: jax.Array) -> jax.Array:
    """Computes hidden states from PPV only, with all maxima set to 0."""
    zeros = jnp.zeros_like(carry.max_outputs)
    return HIDDEN_STATE(carry._replace(max_outputs=zeros), times)


HIDDEN_STATE = filters.hidden_state
VARIANTS = {
    "filters": Variant(is_early=True),
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
MINIROCKET = "MiniRocket"


class Folds(NamedTuple):
    """A division of the training split of a file into stratified folds."""

    path: Path
    number: int
    seed: int

    def divide(self, labels: np.ndarray) -> np.ndarray:
        """Returns the fold of each sequence, int [n]."""
        order = np.random.default_rng(self.seed).permutation(len(labels))
        order = order[np.argsort(labels[order], kind="stable")]
        result = np.empty(len(labels), int)
        result[order] = np.arange(len(labels)) % self.number
        return result

    @property
    def first_seed(self) -> int:
        """The seed of the classifier that leaves out the first fold."""
        return self.seed * self.number


def train(folds: Folds, recipe: str, fold: int) -> dict[str, Any]:
    """Trains a recipe without one fold, and returns the counts of that fold."""
    name = f"{folds.path.stem}-{fold}-of-{folds.number}-seed-{folds.seed}"
    workdir = RUNS.with_name("folds") / recipe / name
    _fit(folds, fold, workdir, (RECIPES | DROPOUT)[recipe])
    return _read_counts(workdir)


def fit_filters(folds: Folds, variant: Variant, fold: int) -> dict[str, Any]:
    """Fits filters without one fold; returns counts of that fold and of the others.

    `prepare` must have set the constants of the variant.
    """
    with tempfile.TemporaryDirectory() as folder:
        workdir = Path(folder) / "run"
        _fit(folds, fold, workdir, {"cell": "filters", **variant.settings})
        counts = _read_counts(workdir)
        if variant.is_early:
            counts["correct_after"] = _count_early(folds, fold, workdir)
        return counts


def _fit(folds: Folds, fold: int, workdir: Path, settings: Mapping[str, Any]) -> None:
    sequences = read(folds.path, both_splits=False)
    labels = np.asarray(sequences.labels)
    rnnmnist.fit(
        sequences.inputs,
        np.array(sequences.classes)[labels],
        workdir=workdir,
        lengths=sequences.lengths,
        split=np.where(folds.divide(labels) == fold, "validation", "train"),
        seed=folds.first_seed + fold,
        verbose=False,
        **settings,
    )


def _read_counts(workdir: Path) -> dict[str, Any]:
    last = {line.split: line for line in logs.read(workdir)}
    held_out = last["validation"]
    counts = {"correct": held_out.correct, "examples": held_out.examples}
    if left_out := last.get("leave_one_out"):
        counts |= {"left_out": left_out.correct, "fitted": left_out.examples}
    return counts


def _count_early(folds: Folds, fold: int, workdir: Path) -> dict[int, int]:
    """Counts correct predictions after each percentage of a sequence's time steps."""
    sequences = read(folds.path, both_splits=False)
    labels = np.asarray(sequences.labels)
    held_out = np.flatnonzero(folds.divide(labels) == fold)
    inputs = np.asarray(sequences.inputs)[held_out]
    lengths = np.full(len(held_out), inputs.shape[1])
    if sequences.lengths is not None:
        lengths = np.asarray(sequences.lengths)[held_out]
    model = rnnmnist.load(workdir)
    names = np.array(sequences.classes)[labels[held_out]]
    correct = {}
    for percentage in EARLY:
        ends = [math.ceil(percentage * length / 100) for length in lengths.tolist()]
        prefixes = [values[:end] for values, end in zip(inputs, ends, strict=True)]
        predicted = model.classify(prefixes).argmax(axis=-1)
        is_correct = np.array(model.task.classes)[predicted] == names
        correct[percentage] = int(is_correct.sum())
    return correct


def fit_minirocket(folds: Folds, python: str) -> list[dict[str, Any]]:
    """Cross-validates MiniRocket in a process, and returns the counts of each fold."""
    sequences = read(folds.path, both_splits=False)
    labels = np.asarray(sequences.labels)
    divided = folds.divide(labels)
    tool = Path(__file__).with_name("minirocket_folds.py")
    with tempfile.NamedTemporaryFile(suffix=".npz") as saved:
        np.savez(
            saved.name,
            inputs=np.asarray(sequences.inputs).swapaxes(1, 2),
            labels=labels,
            folds=divided,
            seed=folds.first_seed,
        )
        output = subprocess.check_output([python, tool, saved.name])
    return [
        {"correct": correct, "examples": int((divided == fold).sum())}
        for fold, correct in enumerate(json.loads(output.splitlines()[-1]))
    ]


def prepare(cores: Any, constants: Mapping[str, Any]) -> None:
    """Pins this process to one of the cores, and replaces constants in its modules."""
    os.sched_setaffinity(0, {cores.get()})
    for module in (filters, closed_form, predictions):
        for name in constants.keys() & vars(module).keys():
            setattr(module, name, constants[name])


def measure(
    names: list[str],
    all_folds: list[Folds],
    evaluate_all: Callable[[str, ProcessPoolExecutor, Folds], list[dict[str, Any]]],
) -> None:
    """Measures classifiers, and writes the counts after each data set."""
    spawn = multiprocessing.get_context("spawn")
    results = json.loads(FILE.read_text()) if FILE.exists() else {}
    for name in names:
        constants = VARIANTS[name].constants if name in VARIANTS else {}
        cores = spawn.Queue()
        for core in os.sched_getaffinity(0):
            cores.put(core)
        size = len(os.sched_getaffinity(0))
        # A classifier's processes reuse compiled programs for all data sets.
        with ProcessPoolExecutor(size, spawn, prepare, (cores, constants)) as pool:
            for folds in all_folds:
                key = f"{folds.number} folds, seed {folds.seed}"
                found = results.setdefault(name, {}).setdefault(key, {})
                data_set = folds.path.parent.name
                if data_set in found:
                    continue
                counts = evaluate_all(name, pool, folds)
                found[data_set] = {
                    kind: [fold[kind] for fold in counts] for kind in counts[0]
                }
                FILE.write_text(json.dumps(results, indent=1) + "\n")
                print(name, key, data_set, found[data_set], flush=True)


def main() -> None:
    """Parses the command line, and measures."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    choices = [*RECIPES, *DROPOUT, *VARIANTS, MINIROCKET]
    parser.add_argument("names", nargs="+", choices=choices, metavar="CLASSIFIER")
    parser.add_argument("--data", type=Path, required=True, metavar="FOLDER")
    parser.add_argument("--folds", type=int, default=5)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--sets", nargs="+", default=SETS, choices=SETS)
    parser.add_argument("--aeon", metavar="PYTHON")
    args = parser.parse_args()
    if MINIROCKET in args.names and args.aeon is None:
        parser.error(f"{MINIROCKET} needs --aeon")

    def evaluate_all(
        name: str, pool: ProcessPoolExecutor, folds: Folds
    ) -> list[dict[str, Any]]:
        """Returns the counts of all folds."""
        if name == MINIROCKET:
            return fit_minirocket(folds, args.aeon)
        evaluate = functools.partial(train, folds, name)
        if name in VARIANTS:
            evaluate = functools.partial(fit_filters, folds, VARIANTS[name])
        return list(pool.map(evaluate, range(folds.number)))

    all_folds = [
        Folds(args.data / name / f"{name}_TRAIN.ts", args.folds, seed)
        for name in args.sets
        for seed in args.seeds
    ]
    measure(args.names, all_folds, evaluate_all)


if __name__ == "__main__":
    main()
