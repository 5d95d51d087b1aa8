"""Classifies sequences by their nearest neighbour under dynamic time warping.

    python tools/dtw.py --data=FOLDER

FOLDER contains the folders of the data sets that have a result of `tools/results.py`.
The classifier is aeon's, in the environment of `requirements-dtw.txt`, with its default
settings: no limit on the warping, and one thread, on one core. It predicts the whole
test split once. results/dtw.json receives the number of correct predictions and the
processor seconds of each data set. The seconds do not include imports, loading the
files, and numba's compilation: before each measurement, two training sequences are
classified, which compiles the functions for the types of that data set.
"""

import argparse
import json
import os
import re
import time
from importlib import metadata
from pathlib import Path
from typing import Any

from aeon.classification.distance_based import (  # type: ignore[import-not-found]
    KNeighborsTimeSeriesClassifier,
)
from aeon.datasets import load_from_ts_file  # type: ignore[import-not-found]

RESULTS = Path(__file__).resolve().parent.parent / "results"


def classify(train: Any, labels: Any, test: Any) -> Any:
    """Returns the label of the nearest training sequence of each test sequence.

    Args:
        train: float64 [sequences, features, time], or a list of [features, time] if
            the lengths differ.
        labels: of the training sequences.
        test: as `train`.
    """
    classifier = KNeighborsTimeSeriesClassifier(n_neighbors=1, distance="dtw", n_jobs=1)
    return classifier.fit(train, labels).predict(test)


def two_classes(labels: Any) -> list[int]:
    """Returns the indices of the first sequence and of one with another label."""
    return [0, next(i for i, label in enumerate(labels) if label != labels[0])]


def measure(folder: Path, name: str) -> dict[str, Any]:
    """Classifies the test split of a data set."""
    train, labels = load_from_ts_file(str(folder / name / f"{name}_TRAIN.ts"))
    test, truth = load_from_ts_file(str(folder / name / f"{name}_TEST.ts"))
    two = two_classes(labels)
    few = [train[index] for index in two] if isinstance(train, list) else train[two]
    classify(few, labels[two], few)  # compiles
    begin = time.process_time()
    predicted = classify(train, labels, test)
    seconds = time.process_time() - begin
    return {
        "correct": int((predicted == truth).sum()),
        "examples": len(truth),
        "seconds": round(seconds, 3),
    }


def main() -> None:
    """Parses the command line, measures and writes the result."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True, metavar="FOLDER")
    data = parser.parse_args().data
    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    processors = re.findall(r"model name\s*: (.*)", Path("/proc/cpuinfo").read_text())
    paths = sorted(RESULTS.glob("archive_*.json"))
    names = [path.stem.removeprefix("archive_") for path in paths]
    result = {
        "name": "dtw",
        "command": "python tools/dtw.py --data=FOLDER",
        "hardware": f"one core of {processors[0]}",
        "versions": {name: metadata.version(name) for name in ("aeon", "numba")},
        "datasets": {name: measure(data, name) for name in names},
    }
    (RESULTS / "dtw.json").write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
