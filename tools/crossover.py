"""Compares both recipes of RNNClassifier with MiniRocket as the data set grows.

    python tools/crossover.py --data=FOLDER --aeon=PYTHON

FOLDER contains the four MNIST files. An image is a sequence of 28 time steps and 28
features. PYTHON is the interpreter of an environment with
`requirements-baselines.txt`. All classifiers use their defaults, including one thread
for MiniRocket.

For each number of sequences, each classifier is trained on three draws from the
training images and classifies all test images. `lru` is also trained on all training
images, with three seeds. Each training runs in a new process, and includes compilation
by XLA. A process is stopped after 30 minutes, or if it needs more than 10 GiB.

Writes accuracies, processor seconds and memory to results/crossover.json. Existing
measurements are not repeated.
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
# From `cell` of RNNClassifier, or MiniRocket, to the name in tables and plots.
TITLES = {ROCKET: ROCKET, "filters": "random filters", "lru": "trained network"}
RUNS = [
    *(
        (name, size, draw)
        for size in (300, 1_000, 5_000)
        for name in TITLES
        for draw in range(3)
    ),
    *(("lru", 60_000, draw) for draw in range(3)),
]
METRICS = ("accuracy", "seconds", "MiB", "ms")


def create(name: str, seed: int) -> Any:
    """Creates a classifier with its defaults. MiniRocket is compiled by numba first."""
    if name != ROCKET:
        from rnnmnist import RNNClassifier

        return RNNClassifier(cell=name, random_state=seed)
    from aeon.classification import convolution_based  # type: ignore[import-not-found]

    create_minirocket = functools.partial(
        convolution_based.MiniRocketClassifier, random_state=seed
    )
    two = np.eye(28, dtype=np.float32)[None].repeat(2, axis=0)
    create_minirocket().fit(two, np.arange(2)).predict(two)
    return create_minirocket()


def measure(name: str, draw: int, file: Path) -> dict[str, float]:
    """Trains a classifier, classifies the test images, and returns the `METRICS`."""
    inputs, labels, test, truth = np.load(file).values()
    if name == ROCKET:  # [n, features, time]
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
    return dict(zip(METRICS, found, strict=True))


def run(python: str, *argv: object) -> dict[str, Any]:
    """Measures in a process with limits; returns metrics, or why it was stopped."""
    limit = 10 * 2**30
    set_limit = functools.partial(
        resource.setrlimit, resource.RLIMIT_DATA, (limit, limit)
    )
    command = [python, __file__, "--run", *map(str, argv)]
    with tempfile.TemporaryDirectory() as cache:  # every process compiles
        env = os.environ | {"JAX_COMPILATION_CACHE_DIR": cache}
        try:
            output = subprocess.check_output(
                command, timeout=1800, preexec_fn=set_limit, env=env
            )
        except subprocess.SubprocessError as error:
            return {"stopped": str(error)}
    return json.loads(output.splitlines()[-1])


def read_metrics() -> dict[tuple[str, int], np.ndarray]:
    """Reads metrics [metrics, draws] for each classifier and number of sequences."""
    runs = json.loads(FILE.read_text())["runs"]
    found: dict[tuple[str, int], list[list[float]]] = {}
    for name, size, draw in RUNS:
        run = runs[f"{name}, {size}, {draw}"]
        metrics = [run.get(key, np.nan) for key in METRICS]
        found.setdefault((name, size), []).append(metrics)
    return {key: np.transpose(draws) for key, draws in found.items()}


def table() -> str:
    """Renders the table of accuracies and costs."""
    from page_tables import table

    header = ("training sequences", "classifier", "test accuracy, %", "seconds", "MiB")
    lines = []
    for (name, size), (accuracies, *costs, _) in read_metrics().items():
        accuracy = f"{100 * accuracies.mean():.1f} ± {100 * accuracies.std(ddof=1):.1f}"
        if np.isnan(accuracies).any():
            accuracy = "stopped after 30 minutes, or at 10 GiB"
        numbers = [f"{float(f'{np.median(cost):.2g}'):,g}" for cost in costs]
        lines.append([f"{size:,}", TITLES[name], accuracy, *numbers])
    return table(header, lines)


def plot() -> bytes:
    """Plots accuracies over the number of training sequences, as PNG."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7.5, 3.5), dpi=150, layout="constrained")
    axes = figure.subplots()
    for name, style in zip(TITLES, ("s--", "^-.", "o-"), strict=True):
        found = read_metrics().items()
        points = {size: rows[0] for (other, size), rows in found if other == name}
        accuracies = 100 * np.array([*points.values()])
        mean, std = accuracies.mean(axis=1), accuracies.std(axis=1, ddof=1)
        axes.errorbar([*points], mean, std, fmt=style, capsize=3, label=TITLES[name])
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
    """Parses the command line; measures all runs or, with `--run`, a single run."""
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
        selected = np.random.default_rng(draw).permutation(len(labels))[:size]
        with tempfile.NamedTemporaryFile(suffix=".npz") as saved:
            inputs = np.float32(images[selected])
            np.savez(saved.name, inputs, labels[selected], test, splits["test"].labels)
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
