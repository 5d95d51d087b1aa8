"""The Keras worker: `LSTM`, `Dense`, Adam and `fit` on TensorFlow, as in its guides."""

import json
import os

os.environ["KERAS_BACKEND"] = "tensorflow"
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

from typing import Any

import keras
import numpy as np
import worker

BATCH = 128


def make_network(rows: int, columns: int, jit: bool) -> keras.Model:
    """Builds the same network, with several steps per execution."""
    network = keras.Sequential(
        [
            keras.Input((rows, columns)),
            keras.layers.Rescaling(1 / 255),
            keras.layers.LSTM(128),
            keras.layers.Dense(10),
        ]
    )
    network.compile(
        optimizer=keras.optimizers.Adam(1e-3),
        loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        jit_compile=jit,
        steps_per_execution=20,
    )
    return network


def fit(network: keras.Model, images: Any, labels: Any, batch: int = BATCH) -> None:
    """Trains one epoch and drops an incomplete batch."""
    whole = len(labels) - len(labels) % batch
    network.fit(images[:whole], labels[:whole], batch_size=batch, verbose=0)


def count_correct(
    network: keras.Model, images: Any, labels: Any, batch: int = 1000
) -> int:
    """Counts the correct predictions."""
    predicted = network.predict(images, batch_size=batch, verbose=0).argmax(1)
    return int((predicted == labels).sum())


def train(
    steps: int, batch: int = BATCH, rows: int = 28, columns: int = 28, jit: bool = False
) -> None:
    """Serves training steps; the amount is in images."""
    images, labels = worker.noise(steps * batch, rows, columns)
    network = make_network(rows, columns, jit)

    def task() -> int:
        fit(network, images, labels, batch)
        return steps * batch

    worker.serve(task)


def evaluate(images: int, batch: int, jit: bool = False) -> None:
    """Serves evaluations; the amount is in images."""
    pixels, labels = worker.noise(images)
    network = make_network(28, 28, jit)

    def task() -> int:
        count_correct(network, pixels, labels, batch)
        return images

    worker.serve(task)


def job(data: str, steps: int, jit: bool = False) -> None:
    """Trains on MNIST and prints the correct predictions on the test split."""
    images, labels = worker.originals(data, "train")
    network = make_network(28, 28, jit)
    generator = np.random.default_rng(0)
    while steps:
        count = min(steps, len(labels) // BATCH)
        order = generator.permutation(len(labels))[: count * BATCH]
        fit(network, images[order], labels[order])
        steps -= count
    correct = count_correct(network, *worker.originals(data, "test"))
    print(json.dumps({"correct": correct}))


def epochs(data: str, seed: int, max_epochs: int, jit: bool = False) -> None:
    """Prints the correct predictions on the test split after each epoch."""
    keras.utils.set_random_seed(seed)
    images, labels = worker.originals(data, "train")
    test = worker.originals(data, "test")
    network = make_network(28, 28, jit)
    for _ in range(max_epochs):
        fit(network, images, labels)
        print(json.dumps({"correct": count_correct(network, *test)}), flush=True)


if __name__ == "__main__":
    worker.main({"train": train, "evaluate": evaluate, "job": job, "epochs": epochs})
