"""Compares both recipes of RNNClassifier with MiniRocket as the data set grows.

    python tools/crossover.py --data=FOLDER --aeon=PYTHON

FOLDER contains `mnist/` with the four original files. An image is a sequence of 28 time
steps and 28 features. PYTHON is the interpreter of an environment with
`requirements-baselines.txt`.

For each number of sequences, each classifier is trained on three draws from the
training images and classifies all test images. `lru` is also trained on all training
images, with three seeds.

Writes accuracies, processor seconds and memory to results/crossover.json. Existing
measurements are not repeated.
"""

import argparse
import sys
from pathlib import Path

import numpy as np
import page_tables
from few_sequences import load_images
from matplotlib.figure import Figure
from result_files import read_runs, write_result
from result_tables import over_seeds
from run_classifier import ROCKET, run

from rnnmnist.reporting import plots

# From `cell` of RNNClassifier, or MiniRocket, to the name in tables and plots.
TITLES = {ROCKET: ROCKET, "filters": "random filters", "lru": "trained network"}
DRAWS = 3
TEST_IMAGES = 10_000
# The classifiers for each number of training sequences.
SIZES = {
    **dict.fromkeys((300, 1_000, 5_000), tuple(TITLES)),
    60_000: ("lru",),
}


def read_draws(name: str, size: int, metric: str) -> np.ndarray:
    """Reads a metric of each draw."""
    runs = read_runs("crossover")
    return np.array([runs[f"{name}, {size}, {draw}"][metric] for draw in range(DRAWS)])


def table() -> str:
    """Renders the table of accuracies and costs."""
    lines = []
    for size, names in SIZES.items():
        for name in names:
            accuracies = read_draws(name, size, "correct") / TEST_IMAGES
            costs = [
                f"{float(f'{np.median(read_draws(name, size, cost)):.2g}'):,g}"
                for cost in ("seconds", "MiB")
            ]
            accuracy = over_seeds(accuracies.tolist())
            lines.append([f"{size:,}", TITLES[name], accuracy, *costs])
    header = ("training sequences", "classifier", "test accuracy, %", "seconds", "MiB")
    return page_tables.table(header, lines)


def plot() -> bytes:
    """Plots accuracies over the number of training sequences, as PNG."""
    figure = Figure(figsize=(7.5, 3.5), dpi=150, layout="constrained")
    axes = figure.subplots()
    for name, style in zip(TITLES, ("s--", "^-.", "o-"), strict=True):
        sizes = [size for size, names in SIZES.items() if name in names]
        correct = np.array([read_draws(name, size, "correct") for size in sizes])
        percents = 100 * (correct / TEST_IMAGES)
        mean, std = percents.mean(axis=1), percents.std(axis=1, ddof=1)
        axes.errorbar(sizes, mean, std, fmt=style, capsize=3, label=TITLES[name])
    axes.set_xscale("log")
    axes.set_xticks([*SIZES], [f"{size:,}" for size in SIZES])
    axes.set_xlabel("training sequences, logarithmic")
    axes.set_ylabel("test accuracy, %")
    axes.grid(linewidth=0.5)
    axes.legend()
    return plots.to_png(figure)


def main() -> None:
    """Parses the command line, and measures."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True, metavar="FOLDER")
    parser.add_argument("--aeon", required=True, metavar="PYTHON")
    args = parser.parse_args()
    train = load_images(args.data, "mnist")
    test = load_images(args.data, "mnist", ("test",))
    runs = read_runs("crossover")
    requested = [
        (name, size, draw)
        for size, names in SIZES.items()
        for name in names
        for draw in range(DRAWS)
    ]
    for name, size, draw in requested:
        key = f"{name}, {size}, {draw}"
        if key in runs:
            continue
        selected = np.random.default_rng(draw).permutation(len(train.labels))[:size]
        runs[key] = run(
            args.aeon if name == ROCKET else sys.executable,
            name,
            draw,
            inputs=train.inputs[selected],
            labels=train.labels[selected],
            test=test.inputs,
            truth=test.labels,
        )
        print(key, runs[key], flush=True)
        command = "python tools/crossover.py --data=FOLDER --aeon=PYTHON"
        write_result("crossover", command, {"runs": runs})


if __name__ == "__main__":
    main()
