"""How a contestant and the benchmark talk: one turn of work for each line of input."""

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


def serve(turn: Callable[[], int]) -> None:
    """Warms up, says that it is ready, then works once for each line of input.

    Args:
        turn: does the work and waits for its end; returns how much it was.
    """
    for _ in range(2):  # compiles, and meets the caches
        turn()
    print(json.dumps({"ready": True}), flush=True)
    for _ in sys.stdin:
        begin = time.perf_counter()
        amount = turn()
        seconds = time.perf_counter() - begin
        line = {"seconds": seconds, "amount": amount, "peak_mib": peak_mib()}
        print(json.dumps(line), flush=True)


def peak_mib() -> float:
    """The most memory that this process has had, in MiB; as Linux keeps it."""
    status = Path("/proc/self/status").read_text()
    found = re.search(r"VmHWM:\s*(\d+) kB", status)
    if found is None:
        raise RuntimeError("/proc/self/status does not say VmHWM")
    return int(found[1]) / 1024


def noise(count: int, rows: int = 28, columns: int = 28) -> tuple[Any, Any]:
    """Images of noise, uint8 [count, rows, columns], and labels, uint8 [count]."""
    generator = np.random.default_rng(0)
    images = generator.integers(0, 256, (count, rows, columns), np.uint8)
    return images, generator.integers(0, 10, count, np.uint8)


def originals(folder: str, split: str) -> tuple[Any, Any]:
    """The images and labels of an original MNIST split, from its two files."""
    stem = Path(folder) / FILES[split]
    with gzip.open(f"{stem}-images-idx3-ubyte.gz") as file:
        images = np.frombuffer(file.read(), np.uint8, offset=16)
    with gzip.open(f"{stem}-labels-idx1-ubyte.gz") as file:
        labels = np.frombuffer(file.read(), np.uint8, offset=8)
    return images.reshape(-1, 28, 28), labels


def main(tasks: dict[str, Callable[..., Any]]) -> None:
    """Runs the task that the command line names, with its settings as JSON."""
    _, name, settings = sys.argv
    tasks[name](**json.loads(settings))
