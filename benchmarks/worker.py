"""The protocol of a benchmark worker, and the tasks that all peers implement."""

import functools
import gzip
import json
import re
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np

BATCH = 128
VALIDATION = 5000  # images; with a recipe, the first training images are held out


class Recipe(NamedTuple):
    """The settings of a configuration that a peer supports, under the same names."""

    learning_rate: float
    weight_decay: float
    clip_norm: float
    warmup_fraction: float
    num_steps: int
    max_shift: int

    @property
    def warmup(self) -> int:
        """The number of steps of the linear warm-up, before the cosine decay."""
        return int(self.warmup_fraction * self.num_steps)


class Trainer(Protocol):
    """A peer's network, its optimizer, and its training images."""

    def steps(self, count: int, batch: int) -> None:
        """Trains on shuffled batches."""

    def count_correct(self, images: Any, labels: Any, batch: int) -> int:
        """Counts the correct predictions."""


Create = Callable[..., Trainer]  # images [n, rows, columns], labels [n], settings


def peer_tasks(create: Create) -> dict[str, Callable[..., None]]:
    """Returns the tasks of a peer, given a function that creates its trainer."""
    tasks = (train, evaluate, job)
    return {task.__name__: functools.partial(task, create) for task in tasks}


def train(
    create: Create,
    steps: int,
    batch: int = BATCH,
    rows: int = 28,
    columns: int = 28,
    **settings: Any,
) -> None:
    """Serves training steps, counted in images."""
    trainer = create(*noise(max(4000, steps * batch), rows, columns), **settings)

    def task() -> int:
        trainer.steps(steps, batch)
        return steps * batch

    serve(task)


def evaluate(create: Create, images: int, batch: int, **settings: Any) -> None:
    """Serves evaluations, counted in images."""
    pixels, labels = noise(images)
    trainer = create(pixels, labels, **settings)

    def task() -> int:
        trainer.count_correct(pixels, labels, batch)
        return images

    serve(task)


def job(
    create: Create,
    data: str,
    steps: int,
    recipe: dict[str, Any] | None = None,
    **settings: Any,
) -> None:
    """Trains on MNIST, and prints the correct predictions on the test split."""
    images, labels = originals(data, "train")
    held_out = VALIDATION if recipe else 0
    parsed = Recipe(**recipe) if recipe else None
    trainer = create(images[held_out:], labels[held_out:], recipe=parsed, **settings)
    trainer.steps(steps, BATCH)
    correct = trainer.count_correct(*originals(data, "t10k"), batch=1000)
    print(json.dumps({"correct": correct}), flush=True)


def serve(task: Callable[[], int]) -> None:
    """Warms up, reports that it is ready, then runs the task once per line of input.

    The task must block until its work is done, and return the amount of work.
    """
    for _ in range(2):  # compiles, and fills caches
        task()
    print(json.dumps({"ready": True}), flush=True)
    for _ in sys.stdin:
        begin = time.perf_counter()
        amount = task()
        seconds = time.perf_counter() - begin
        line = {"seconds": seconds, "amount": amount, "peak_mib": peak_mib()}
        print(json.dumps(line), flush=True)


def serve_products(multiply: Callable[[], Any], size: int) -> None:
    """Serves products of square matrices, counted in floating-point operations."""

    def task() -> int:
        for _ in range(4):
            multiply()
        return 4 * 2 * size**3

    serve(task)


def peak_mib() -> float:
    """Returns the peak memory of this process in MiB, on Linux."""
    status = Path("/proc/self/status").read_text()
    (kilobytes,) = re.findall(r"VmHWM:\s*(\d+) kB", status)
    return int(kilobytes) / 1024


def noise(count: int, rows: int = 28, columns: int = 28) -> tuple[Any, Any]:
    """Returns random images, uint8 [count, rows, columns], and labels [count]."""
    generator = np.random.default_rng(0)
    images = generator.integers(0, 256, (count, rows, columns), np.uint8)
    return images, generator.integers(0, 10, count, np.int32)


def originals(folder: str, prefix: str) -> tuple[Any, Any]:
    """Reads images and labels from the original MNIST files, `train` or `t10k`."""
    stem = Path(folder) / prefix
    with gzip.open(f"{stem}-images-idx3-ubyte.gz") as file:
        images = np.frombuffer(bytearray(file.read()), np.uint8, offset=16)
    with gzip.open(f"{stem}-labels-idx1-ubyte.gz") as file:
        labels = np.frombuffer(file.read(), np.uint8, offset=8)
    return images.reshape(-1, 28, 28), labels.astype(np.int32)


def main(tasks: dict[str, Callable[..., Any]]) -> None:
    """Runs the task named on the command line, with settings in JSON."""
    _, name, settings = sys.argv
    tasks[name](**json.loads(settings))
