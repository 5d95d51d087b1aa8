"""Compares recipes for sequences by cross-validation within training splits.

    python tools/recipes.py --data=FOLDER --folds=5 RECIPE …

FOLDER contains the folders of `results.SETS`. A run trains on all folds but one, whose
number is the seed, and classifies that one after its last step. A run has one core, and
stays in `checkpoints/recipes`. results/recipes.json receives, for each recipe and data
set, the correct predictions and the sequences of every fold.
"""

import argparse
import functools
import json
import multiprocessing
import os
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np

import rnnmnist
from results import RESULTS, RUNS, SETS
from rnnmnist.data.sequences.reading import read
from rnnmnist.runs import logs

PLAIN = {"differences": False, "label_smoothing": 0.0, "learning_rate": 2e-3}
FIRST = PLAIN | {"batch_size": 32, "min_steps": 600}
THREE = FIRST | {"num_layers": 3}
CHANGES = PLAIN | {"differences": True}
FASTER = CHANGES | {"learning_rate": 4e-3}
RECIPES: dict[str, dict[str, Any]] = {  # settings instead of those of `files.py`
    "1 layer": FIRST | {"num_layers": 1},
    "2 layers": FIRST | {"num_layers": 2},
    "3 layers": THREE,
    "3 layers, 1,200 updates": THREE | {"min_steps": 1200},
    "3 layers, no windows": THREE | {"window": 1},
    "3 layers, no windows, 1,200 updates": THREE | {"min_steps": 1200, "window": 1},
    "differences": CHANGES,
    "differences, rate 4e-3": FASTER,
    "both directions": FASTER | {"bidirectional": True, "hidden_size": 45},
    "differences, smoothing, rate 4e-3": FASTER | {"label_smoothing": 0.1},
}


def folds_of(labels: np.ndarray, folds: int) -> np.ndarray:
    """Returns the fold of each sequence, int [n]; every class is spread evenly."""
    order = np.random.default_rng(0).permutation(len(labels))
    order = order[np.argsort(labels[order], kind="stable")]
    result = np.empty(len(labels), int)
    result[order] = np.arange(len(labels)) % folds
    return result


def evaluate(path: Path, recipe: str, folds: int, fold: int) -> tuple[int, int]:
    """Trains without a fold; returns its correct predictions and its size."""
    sequences = read(path, pair=False)
    labels = np.asarray(sequences.labels)
    workdir = rnnmnist.fit(
        sequences.inputs,
        np.array(sequences.classes)[labels],
        workdir=RUNS.with_name("recipes") / recipe / f"{path.stem}-{fold}-of-{folds}",
        lengths=sequences.lengths,
        split=np.where(folds_of(labels, folds) == fold, "validation", "train"),
        seed=fold,
        verbose=False,
        **RECIPES[recipe],
    )
    *_, last = (m for m in logs.read(workdir, logs.Metrics) if m.split == "validation")
    return last.correct, last.examples


def pin(cores: Any) -> None:
    """Gives this process one of the cores."""
    os.sched_setaffinity(0, {cores.get()})


def main() -> None:
    """Parses the command line, trains, and writes the counts."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("recipes", nargs="+", choices=RECIPES, metavar="RECIPE")
    parser.add_argument("--data", type=Path, required=True, metavar="FOLDER")
    parser.add_argument("--folds", type=int, required=True)
    parser.add_argument("--sets", nargs="+", default=SETS, choices=SETS)
    args = parser.parse_args()
    spawn = multiprocessing.get_context("spawn")
    cores = spawn.Queue()
    for core in os.sched_getaffinity(0):
        cores.put(core)
    file = RESULTS / "recipes.json"
    results = json.loads(file.read_text()) if file.exists() else {}
    with ProcessPoolExecutor(cores.qsize(), spawn, pin, (cores,)) as pool:
        for recipe in args.recipes:
            found = results.setdefault(f"{recipe}, {args.folds} folds", {})
            for name in args.sets:
                path = args.data / name / f"{name}_TRAIN.ts"
                one = functools.partial(evaluate, path, recipe, args.folds)
                found[name] = list(pool.map(one, range(args.folds)))
                file.write_text(json.dumps(results, indent=1) + "\n")
                print(recipe, name, *found[name], flush=True)


if __name__ == "__main__":
    main()
