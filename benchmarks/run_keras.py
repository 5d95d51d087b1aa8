"""The turn of Keras on TensorFlow: `LSTM`, `Dense`, Adam, `fit`, as in its guides."""

import json
import os

os.environ["KERAS_BACKEND"] = "tensorflow"
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

from typing import Any

import keras
import numpy as np
import turns

BATCH = 128


def make_network(rows: int, columns: int, jit: bool) -> keras.Model:
    """The same network, with several steps in each of Keras's calls."""
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
    """Once through the images, whole batches only."""
    whole = len(labels) - len(labels) % batch
    network.fit(images[:whole], labels[:whole], batch_size=batch, verbose=0)


def count_correct(
    network: keras.Model, images: Any, labels: Any, batch: int = 1000
) -> int:
    """Right answers, of all images."""
    answers = network.predict(images, batch_size=batch, verbose=0).argmax(1)
    return int((answers == labels).sum())


def train(
    steps: int, batch: int = BATCH, rows: int = 28, columns: int = 28, jit: bool = False
) -> None:
    """Training, in images."""
    images, labels = turns.noise(steps * batch, rows, columns)
    network = make_network(rows, columns, jit)

    def turn() -> int:
        fit(network, images, labels, batch)
        return steps * batch

    turns.serve(turn)


def evaluate(images: int, batch: int, jit: bool = False) -> None:
    """Evaluation, in images."""
    pixels, labels = turns.noise(images)
    network = make_network(28, 28, jit)

    def turn() -> int:
        count_correct(network, pixels, labels, batch)
        return images

    turns.serve(turn)


def job(data: str, steps: int, jit: bool = False) -> None:
    """Trains on the originals; says how many of all test images are right."""
    images, labels = turns.originals(data, "train")
    network = make_network(28, 28, jit)
    left = steps
    while left:
        now = min(left, len(labels) // BATCH)
        order = np.random.default_rng(left).permutation(len(labels))[: now * BATCH]
        fit(network, images[order], labels[order])
        left -= now
    correct = count_correct(network, *turns.originals(data, "test"))
    print(json.dumps({"correct": correct}))


def epochs(data: str, seed: int, most: int, jit: bool = False) -> None:
    """Trains epoch by epoch, and after each says how many test images are right."""
    keras.utils.set_random_seed(seed)
    images, labels = turns.originals(data, "train")
    test = turns.originals(data, "test")
    network = make_network(28, 28, jit)
    for _ in range(most):
        fit(network, images, labels)
        print(json.dumps({"correct": count_correct(network, *test)}), flush=True)


if __name__ == "__main__":
    turns.main({"train": train, "evaluate": evaluate, "job": job, "epochs": epochs})
