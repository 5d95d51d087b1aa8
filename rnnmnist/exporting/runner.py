"""Runs an export in a process that imports nothing of this package.

python -P runner.py PREDICT.py FOLDER INPUTS.npz OUTPUTS.npz
"""

import runpy
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

BATCH_SIZES = (1, 128)  # for which the speed is measured
SECONDS = 0.25  # for which a call is repeated, after a first one
Predict = Callable[..., np.ndarray]  # raw examples -> logits


def main() -> None:
    """Writes the logits of all examples, and the examples per second."""
    script, folder, inputs, outputs = map(Path, sys.argv[1:])
    predict = runpy.run_path(str(script))["load"](folder)
    with np.load(inputs) as file:
        examples = [file[name] for name in file.files]
    batch = max(BATCH_SIZES)
    logits = [
        predict(*(array[start : start + batch] for array in examples))
        for start in range(0, len(examples[0]), batch)
    ]
    rates = examples_per_second(predict, examples)
    np.savez(outputs, logits=np.concatenate(logits), rates=rates)


def examples_per_second(
    predict: Predict, examples: Sequence[np.ndarray]
) -> list[float]:
    """Measures the examples per second for each of `BATCH_SIZES`.

    Args:
        predict: maps raw examples to logits.
        examples: arrays with a leading axis of examples.
    """
    rates = []
    for size in BATCH_SIZES:
        part = [array[:size] for array in examples]
        predict(*part)
        calls, start = 0, time.perf_counter()
        while time.perf_counter() < start + SECONDS:
            predict(*part)
            calls += 1
        rates.append(calls * len(part[0]) / (time.perf_counter() - start))
    return rates


if __name__ == "__main__":
    main()
