"""Measures the latency of `Model.step` with the recipe of `configs/trained.py`.

    python benchmarks/latency.py

Trains `lru` and `lstm` for one update on noise with 12 features, then classifies one
time step per call.
"""

import statistics
import tempfile
import time

import numpy as np

import rnnmnist
from rnnmnist.runtime.machine import describe_processor

FEATURES, TIME_STEPS = 12, 5_000


def measure(cell: str) -> None:
    """Prints the median and 99th percentile of the latency over time steps."""
    generator = np.random.default_rng(0)
    inputs = generator.standard_normal((40, 10, FEATURES))
    with tempfile.TemporaryDirectory() as folder:
        labels = np.arange(40) % 2
        model = rnnmnist.fit(inputs, labels, workdir=folder, cell=cell, num_steps=1)
    state, seconds = model.start(), []
    for _ in range(TIME_STEPS):
        features = generator.standard_normal(FEATURES)
        begin = time.perf_counter()
        state, _ = model.step(state, features)
        seconds.append(time.perf_counter() - begin)
    quantiles = statistics.quantiles(seconds[10:], n=100)  # the first call compiles
    print(
        f"{cell} on {describe_processor()}: {1e6 * quantiles[49]:.0f} microseconds a "
        f"time step in the median, {1e6 * quantiles[98]:.0f} in the 99th percentile"
    )


if __name__ == "__main__":
    for cell in ("lru", "lstm"):
        measure(cell)
