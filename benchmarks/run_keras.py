"""The Keras worker: `LSTM`, `Dense`, Adam and `fit` on TensorFlow, as in its guides."""

import os

os.environ["KERAS_BACKEND"] = "tensorflow"
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

from typing import Any

import keras
import numpy as np
import worker


class Trainer:
    """The same network, with several steps per execution."""

    def __init__(
        self, images: Any, labels: Any, jit: bool = False, seed: int = 0
    ) -> None:
        keras.utils.set_random_seed(seed)
        self.images, self.labels = images, labels
        self.generator = np.random.default_rng(seed)
        self.network = keras.Sequential(
            [
                keras.Input(images.shape[1:]),
                keras.layers.Rescaling(1 / 255),
                keras.layers.LSTM(128),
                keras.layers.Dense(10),
            ]
        )
        self.network.compile(
            optimizer=keras.optimizers.Adam(1e-3),
            loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True),
            jit_compile=jit,
            steps_per_execution=20,
        )

    def steps(self, count: int, batch: int) -> None:
        """Trains on shuffled batches and drops an incomplete one."""
        while count:
            whole = min(count, len(self.labels) // batch)
            order = self.generator.permutation(len(self.labels))[: whole * batch]
            images, labels = self.images[order], self.labels[order]
            self.network.fit(images, labels, batch, verbose=0, shuffle=False)
            count -= whole

    def count_correct(self, images: Any, labels: Any, batch: int) -> int:
        """Counts the correct predictions."""
        predicted = self.network.predict(images, batch_size=batch, verbose=0).argmax(1)
        return int((predicted == labels).sum())


if __name__ == "__main__":
    worker.main(worker.peer_tasks(Trainer))
