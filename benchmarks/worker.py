"""The protocol of a benchmark worker: it does its task once per line of input."""

import gzip
import json
import re
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

FILES = {"train": "train", "test": "t10k"}


def serve(task: Callable[[], int]) -> None:
    """Warms up, prints that it is ready, then runs the task once per line of input.

    Args:
        task: does the work and waits for its end; returns its amount.
    """
    for _ in range(2):  # compiles and fills the caches
        task()
    print(json.dumps({"ready": True}), flush=True)
    for _ in sys.stdin:
        begin = time.perf_counter()
        amount = task()
        seconds = time.perf_counter() - begin
        line = {"seconds": seconds, "amount": amount, "peak_mib": peak_mib()}
        print(json.dumps(line), flush=True)


def peak_mib() -> float:
    """Returns the peak memory of this process in MiB, on Linux."""
    status = Path("/proc/self/status").read_text()
    found = re.search(r"VmHWM:\s*(\d+) kB", status)
    if found is None:
        raise RuntimeError("/proc/self/status has no VmHWM")
    return int(found[1]) / 1024


def noise(count: int, rows: int = 28, columns: int = 28) -> tuple[Any, Any]:
    """Returns random images, uint8 [count, rows, columns], and labels [count]."""
    generator = np.random.default_rng(0)
    images = generator.integers(0, 256, (count, rows, columns), np.uint8)
    return images, generator.integers(0, 10, count, np.int32)


def originals(folder: str, split: str) -> tuple[Any, Any]:
    """Reads the images and labels of a split of MNIST from its two original files."""
    stem = Path(folder) / FILES[split]
    with gzip.open(f"{stem}-images-idx3-ubyte.gz") as file:
        images = np.frombuffer(file.read(), np.uint8, offset=16)
    with gzip.open(f"{stem}-labels-idx1-ubyte.gz") as file:
        labels = np.frombuffer(file.read(), np.uint8, offset=8)
    return images.reshape(-1, 28, 28), labels


def main(tasks: dict[str, Callable[..., Any]]) -> None:
    """Runs the task that the command line names, with settings in JSON."""
    _, name, settings = sys.argv
    tasks[name](**json.loads(settings))
