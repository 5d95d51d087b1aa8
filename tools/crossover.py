"""Compares both recipes of RNNClassifier with MiniRocket on more and more sequences.

    python tools/crossover.py --data=FOLDER --aeon=PYTHON

FOLDER contains the four files of MNIST, whose images are sequences of 28 time steps and
28 features. PYTHON is that of an environment of `requirements-baselines.txt`. All
classifiers have their defaults: MiniRocket has one thread. Each is trained on three
draws from the training images, in a process of its own, in which XLA compiles, and
classifies all test images; `lru` also with all training images and three seeds. A
process ends after 30 minutes, or where it needs more than 10 GiB.
results/crossover.json receives the figures, with processor seconds; those that it
contains are not measured again.
"""

import argparse
import datetime
import functools
import io
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

FILE = Path(__file__).resolve().parent.parent / "results" / "crossover.json"
ROCKET = "MiniRocket"
# The classifiers, by the cell of RNNClassifier.
TITLES = {ROCKET: ROCKET, "filters": "random filters", "lru": "trained recipe"}
RUNS = [
    *(
        (name, size, draw)
        for size in (300, 1_000, 5_000)
        for name in TITLES
        for draw in range(3)
    ),
    *(("lru", 60_000, draw) for draw in range(3)),
]
FIGURES = ("accuracy", "seconds", "MiB", "ms")


def create(name: str, seed: int) -> Any:
    """Returns a classifier with its defaults; numba has compiled MiniRocket."""
    if name != ROCKET:
        from rnnmnist import RNNClassifier

        return RNNClassifier(cell=name, random_state=seed)
    from aeon.classification import convolution_based  # type: ignore[import-not-found]

    make = functools.partial(convolution_based.MiniRocketClassifier, random_state=seed)
    two = np.eye(28, dtype=np.float32)[None].repeat(2, axis=0)
    make().fit(two, np.arange(2)).predict(two)
    return make()


def measure(name: str, draw: int, file: Path) -> dict[str, float]:
    """Trains a classifier and classifies test sequences; returns the `FIGURES`."""
    inputs, labels, test, truth = np.load(file).values()
    if name == ROCKET:  # features before time
        inputs, test = inputs.swapaxes(1, 2), test.swapaxes(1, 2)
    classifier = create(name, draw)
    begin = time.process_time()
    classifier.fit(inputs, labels)
    seconds = time.process_time() - begin
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    times = []
    for index in range(100):
        begin = time.process_time()
        classifier.predict(test[index : index + 1])
        times.append(1000 * (time.process_time() - begin))
    accuracy = float(np.mean(classifier.predict(test) == truth))
    found = accuracy, seconds, memory, statistics.median(times)
    return dict(zip(FIGURES, found, strict=True))


def run(python: str, *argv: object) -> dict[str, Any]:
    """Measures in a process with limits; returns its figures, or what stopped it."""
    most = 10 * 2**30
    limit = functools.partial(resource.setrlimit, resource.RLIMIT_DATA, (most, most))
    command = [python, __file__, "--run", *map(str, argv)]
    with tempfile.TemporaryDirectory() as cache:  # so that every process compiles
        env = os.environ | {"JAX_COMPILATION_CACHE_DIR": cache}
        try:
            output = subprocess.check_output(
                command, timeout=1800, preexec_fn=limit, env=env
            )
        except subprocess.SubprocessError as error:
            return {"stopped": str(error)}
    return json.loads(output.splitlines()[-1])


def figures() -> dict[tuple[str, int], np.ndarray]:
    """Returns figures [figures, draws], by classifier and number of sequences."""
    runs = json.loads(FILE.read_text())["runs"]
    found: dict[tuple[str, int], list[list[float]]] = {}
    for name, size, draw in RUNS:
        one = runs[f"{name}, {size}, {draw}"]
        of_draw = [one.get(key, np.nan) for key in FIGURES]
        found.setdefault((name, size), []).append(of_draw)
    return {key: np.transpose(draws) for key, draws in found.items()}


def table() -> str:
    """Returns the table of accuracies and costs."""
    from page_tables import table

    header = ("training sequences", "classifier", "test accuracy, %", "s, training")
    lines = []
    for (name, size), (accuracies, *costs) in figures().items():
        accuracy = f"{100 * accuracies.mean():.1f} ± {100 * accuracies.std(ddof=1):.1f}"
        if np.isnan(accuracies).any():
            accuracy = "stopped after 30 minutes, or at 10 GiB"
        numbers = [f"{float(f'{np.median(cost):.2g}'):,g}" for cost in costs]
        lines.append([f"{size:,}", TITLES[name], accuracy, *numbers])
    return table((*header, "MiB, training", "ms, one prediction"), lines)


def plot() -> bytes:
    """Plots the accuracies."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7.5, 3.5), dpi=150, layout="constrained")
    axes = figure.subplots()
    for name, style in zip(TITLES, ("s--", "^-.", "o-"), strict=True):
        found = figures().items()
        points = {size: rows[0] for (one, size), rows in found if one == name}
        percents = 100 * np.array([*points.values()])
        mean, ends = percents.mean(axis=1), percents.std(axis=1, ddof=1)
        axes.errorbar([*points], mean, ends, fmt=style, capsize=3, label=TITLES[name])
    axes.set_xscale("log")
    axes.set_xticks([*points], [f"{size:,}" for size in points])
    axes.set_xlabel("training sequences, logarithmic")
    axes.set_ylabel("test accuracy, %")
    axes.grid(linewidth=0.5)
    axes.legend()
    file = io.BytesIO()
    figure.savefig(file)
    return file.getvalue()


def main() -> None:
    """Parses the command line; measures all runs, or one in this process."""
    if sys.argv[1:2] == ["--run"]:
        found = measure(sys.argv[2], int(sys.argv[3]), Path(sys.argv[4]))
        print(json.dumps(found))
        return
    from rnnmnist.config.schema import Config, DataConfig
    from rnnmnist.data import datasets
    from rnnmnist.runtime import machine

    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True, metavar="FOLDER")
    parser.add_argument("--aeon", required=True, metavar="PYTHON")
    args = parser.parse_args()
    data = DataConfig(manual_dir=str(args.data))
    splits = datasets.load(Config(data=data)).splits
    parts = [splits["validation"], splits["train"]]
    images = np.concatenate([part.take(slice(None)) for part in parts])
    labels = np.concatenate([part.labels for part in parts])
    test = np.float32(splits["test"].take(slice(None)))
    runs = json.loads(FILE.read_text())["runs"] if FILE.exists() else {}
    for name, size, draw in RUNS:
        key = f"{name}, {size}, {draw}"
        if key in runs:
            continue
        chosen = np.random.default_rng(draw).permutation(len(labels))[:size]
        with tempfile.NamedTemporaryFile(suffix=".npz") as saved:
            inputs = np.float32(images[chosen])
            np.savez(saved.name, inputs, labels[chosen], test, splits["test"].labels)
            python = args.aeon if name == ROCKET else sys.executable
            runs[key] = run(python, name, draw, saved.name)
        runs[key]["hardware"] = machine.describe_processor()
        print(key, runs[key], flush=True)
        content = {
            "command": "python tools/crossover.py --data=FOLDER --aeon=PYTHON",
            "date": datetime.date.today().isoformat(),
            "versions": machine.installed_versions(),
            "runs": runs,
        }
        FILE.write_text(json.dumps(content, indent=1) + "\n")


if __name__ == "__main__":
    main()
