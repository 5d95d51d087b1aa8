"""Predictions for digit images of any size and colour."""

import io
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from rnnmnist.config.settings import expand_path
from rnnmnist.data.examples import Inputs
from rnnmnist.data.image_datasets import DIGITS
from rnnmnist.errors import UserError
from rnnmnist.evaluation.network import Network
from rnnmnist.evaluation.predictions import decision_times
from rnnmnist.inference import image_io
from rnnmnist.inference.preprocessing import preprocess


class Prediction(NamedTuple):
    """A prediction for one image.

    Attributes:
        probabilities: the class probabilities after each time step, float32
            [time, classes]. For a bidirectional or custom network, only the final
            probabilities, [1, classes].
        image: the preprocessed image, uint8 [28, 28]; all 0 if no digit was found.
    """

    probabilities: NDArray[np.float32]
    image: NDArray[np.uint8]

    @property
    def digit(self) -> int:
        """The digit predicted after the last time step."""
        return int(self.probabilities[-1].argmax())

    @property
    def probability(self) -> float:
        """The probability of the predicted digit."""
        return float(self.probabilities[-1].max())

    @property
    def decision_time(self) -> int:
        """The time step after which the predicted digit no longer changes.

        The first time step is 1. Always 1 for a bidirectional or custom network.
        """
        return int(decision_times(self.probabilities.argmax(-1)[None])[0])


def check_digits(network: Network) -> None:
    """Raises a `UserError` if the network was not trained on digit images."""
    task = network.task
    if task.image_shape is None or task.classes != DIGITS:
        raise UserError(
            f"workdir: {network.workdir or 'the network'} was trained on {task.noun} "
            f"of {task.name}, not on digit images; choose a run that was trained on "
            "mnist, or call classify"
        )


def predict(network: Network, image: str | Path | bytes | np.ndarray) -> Prediction:
    """Preprocesses and classifies an image; see `Model.predict`."""
    check_digits(network)
    preprocessed = preprocess_image(image)
    every_step = not network.config.model.reads_whole_sequences
    inputs = Inputs(preprocessed[None])
    probabilities = network.probabilities(inputs, every_step=every_step)
    return Prediction(
        probabilities.reshape(-1, len(network.task.classes)), preprocessed
    )


def preprocess_image(image: str | Path | bytes | np.ndarray) -> NDArray[np.uint8]:
    """Reads an image and converts it to MNIST's format, uint8 [28, 28].

    For arguments and errors, see `Model.predict`.
    """
    if isinstance(image, np.ndarray):
        return preprocess(image_io.convert_array(image))
    if isinstance(image, bytes):
        return preprocess(image_io.decode(io.BytesIO(image), "the image"))
    with expand_path(str(image)).open("rb") as file:
        return preprocess(image_io.decode(file, str(image)))
