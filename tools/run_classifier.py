"""Trains one classifier in a new process, for `crossover.py` and `folds.py`.

    python tools/run_classifier.py CLASSIFIER SEED FILE

CLASSIFIER is a cell of `RNNClassifier`, or MiniRocket, which needs an environment with
`requirements-baselines.txt`. Both have their default settings, including one thread for
MiniRocket. FILE is a .npz file with `inputs` [n, time, features], `labels` [n], `test`
and `truth`.

Prints the number of correct predictions, the processor seconds of the training, and the
peak memory in MiB, as JSON.
"""

import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from typing import Any

import numpy as np

ROCKET = "MiniRocket"


def run(python: str, name: str, seed: int, **arrays: np.ndarray) -> dict[str, Any]:
    """Calls this program with an interpreter, and returns what it prints.

    Every process compiles, as in the first training on a machine.
    """
    with tempfile.NamedTemporaryFile(suffix=".npz") as file:
        np.savez(file.name, **arrays)  # type: ignore[arg-type]
        command = [python, __file__, name, str(seed), file.name]
        env = os.environ | {"JAX_ENABLE_COMPILATION_CACHE": "false"}
        output = subprocess.check_output(command, env=env)
    found: dict[str, Any] = json.loads(output.splitlines()[-1])
    return found


def create(name: str, seed: int) -> Any:
    """Creates a classifier with its defaults."""
    if name != ROCKET:
        from rnnmnist import RNNClassifier

        return RNNClassifier(cell=name, random_state=seed)
    from aeon.classification import convolution_based  # type: ignore[import-not-found]

    return convolution_based.MiniRocketClassifier(random_state=seed)


def main() -> None:
    """Reads the file, trains, and classifies the test sequences."""
    _, name, seed, file = sys.argv
    arrays = np.load(file)
    inputs, labels, test = arrays["inputs"], arrays["labels"], arrays["test"]
    if name == ROCKET:  # [n, features, time]
        inputs, test = inputs.swapaxes(1, 2), test.swapaxes(1, 2)
        create(name, 0).fit(inputs[:2], np.arange(2)).predict(test[:1])  # compiles
    classifier = create(name, int(seed))
    begin = time.process_time()
    classifier.fit(inputs, labels)
    seconds = time.process_time() - begin
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    correct = int((classifier.predict(test) == arrays["truth"]).sum())
    print(json.dumps({"correct": correct, "seconds": seconds, "MiB": memory}))


if __name__ == "__main__":
    main()
