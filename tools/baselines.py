"""Classifies sequences with 1-nearest-neighbour DTW and with MiniRocket.

    python tools/baselines.py --data=FOLDER

FOLDER contains the folders of all data sets for which `tools/results.py` has results.
The classifiers are aeon's, in the environment of `requirements-baselines.txt`, with
default settings (unlimited warping, 10,000 kernels) and one thread on one core. Each
classifier is fitted to the whole training split and predicts the test split. MiniRocket
uses five seeds and pads sequences with zeros.

Writes the correct predictions and the median processor seconds to
results/baselines.json. The seconds exclude imports, reading files, and numba's
compilation, which a preceding fit to two sequences triggers.
"""

import argparse
import datetime
import json
import os
import re
import statistics
import time
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
from aeon.classification.convolution_based import (  # type: ignore[import-not-found]
    MiniRocketClassifier,
)
from aeon.classification.distance_based import (  # type: ignore[import-not-found]
    KNeighborsTimeSeriesClassifier,
)
from aeon.datasets import load_from_ts_file  # type: ignore[import-not-found]

RESULTS = Path(__file__).resolve().parent.parent / "results"


def dtw(_: int) -> Any:
    """Creates a nearest-neighbour classifier with DTW distance; ignores the seed."""
    return KNeighborsTimeSeriesClassifier(n_neighbors=1, distance="dtw", n_jobs=1)


def minirocket(seed: int) -> Any:
    """Creates a linear classifier on random convolutions."""
    return MiniRocketClassifier(random_state=seed, n_jobs=1)


def measure(
    create: Any, seeds: int, train: Any, labels: Any, test: Any, truth: Any
) -> dict[str, Any]:
    """Fits a classifier with each seed and classifies the test split.

    Sequences are float64 [sequences, features, time]. If their lengths differ, they are
    a list of arrays [features, time].
    """
    two = [0, next(i for i, label in enumerate(labels) if label != labels[0])]
    few = [train[index] for index in two] if isinstance(train, list) else train[two]
    create(0).fit(few, labels[two]).predict(few)  # compiles
    correct, seconds = [], []
    for seed in range(seeds):
        begin = time.process_time()
        predicted = create(seed).fit(train, labels).predict(test)
        seconds.append(time.process_time() - begin)
        correct.append(int((predicted == truth).sum()))
    return {"correct": correct, "seconds": round(statistics.median(seconds), 3)}


def measure_all(folder: Path, name: str) -> dict[str, Any]:
    """Measures both classifiers on a data set."""
    train, labels = load_from_ts_file(str(folder / name / f"{name}_TRAIN.ts"))
    test, truth = load_from_ts_file(str(folder / name / f"{name}_TEST.ts"))
    longest = max(sequence.shape[1] for part in (train, test) for sequence in part)
    padded = [
        np.stack([np.pad(x, ((0, 0), (0, longest - x.shape[1]))) for x in part])
        for part in (train, test)
    ]
    return {
        "examples": len(truth),
        "dtw": measure(dtw, 1, train, labels, test, truth),
        "minirocket": measure(minirocket, 5, padded[0], labels, padded[1], truth),
    }


def main() -> None:
    """Parses the command line, measures, and writes the results."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True, metavar="FOLDER")
    data = parser.parse_args().data
    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    processors = re.findall(r"model name\s*: (.*)", Path("/proc/cpuinfo").read_text())
    paths = sorted(RESULTS.glob("archive_*.json"))
    names = [path.stem.removeprefix("archive_") for path in paths]
    result = {
        "name": "baselines",
        "command": "python tools/baselines.py --data=FOLDER",
        "hardware": f"one core of {processors[0]}",
        "date": datetime.date.today().isoformat(),
        "versions": {name: metadata.version(name) for name in ("aeon", "numba")},
        "datasets": {name: measure_all(data, name) for name in names},
    }
    (RESULTS / "baselines.json").write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
