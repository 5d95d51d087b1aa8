"""Classifies sequences by their nearest neighbour under dynamic time warping.

    python benchmarks/run_dtw.py --data=FOLDER GunPoint ItalyPowerDemand

FOLDER contains NAME_TRAIN.ts and NAME_TEST.ts for each name. The classifier is aeon's,
in the environment of `requirements-dtw.txt`, with its default settings: no limit on the
warping, and one thread. It predicts the whole test split once. Printed is one JSON
object with the number of correct predictions and the processor seconds of each data
set. The seconds do not include imports, loading the files, and numba's compilation:
before each measurement, two training sequences are classified, which compiles the
functions for the types of that data set.
"""

import argparse
import json
import time
from importlib import metadata
from pathlib import Path
from typing import Any

from aeon.classification.distance_based import (  # type: ignore[import-not-found]
    KNeighborsTimeSeriesClassifier,
)
from aeon.datasets import load_from_ts_file  # type: ignore[import-not-found]


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
    train, labels = load_from_ts_file(str(folder / f"{name}_TRAIN.ts"))
    test, truth = load_from_ts_file(str(folder / f"{name}_TEST.ts"))
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
    """Parses the command line, measures and prints the result."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("names", nargs="+", metavar="NAME", help="of a data set")
    parser.add_argument("--data", type=Path, required=True, metavar="FOLDER")
    args = parser.parse_args()
    result = {
        "versions": {name: metadata.version(name) for name in ("aeon", "numba")},
        "datasets": {name: measure(args.data, name) for name in args.names},
    }
    print(json.dumps(result))


if __name__ == "__main__":
    main()
