"""Reads the digit in a picture, and says what it believed after each row."""

from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from rnnmnist.checkpoints.selection import with_step
from rnnmnist.config.command_line import workdir_of_run
from rnnmnist.config.files import REFERENCES
from rnnmnist.data.datasets import Examples
from rnnmnist.errors import UserError
from rnnmnist.evaluation.predictions import EvaluationSplit, predict_logits
from rnnmnist.evaluation.restore import Network, restore
from rnnmnist.inference import image_io, out_of_distribution
from rnnmnist.inference.preprocessing import Stages, prepare
from rnnmnist.models.traces import Trace, decision_rows, trace
from rnnmnist.runtime.mesh import make_mesh, replicated

OF_DIGITS = ("mnist", "mnist5k")  # data sets


class Prediction(NamedTuple):
    """What a network says of one picture."""

    probabilities: np.ndarray  # float32 [rows, classes], probabilities after each row
    stages: Stages  # of the picture on its way to the network
    looks_like_digit: bool  # like the one that it was taken for

    @property
    def digit(self) -> int:
        """The answer, after the last row."""
        return int(self.probabilities[-1].argmax())

    @property
    def probability(self) -> float:
        """That the network gives its answer."""
        return float(self.probabilities[-1].max())

    @property
    def runner_up(self) -> int:
        """The digit that is likeliest after the answer."""
        return int(self.probabilities[-1].argsort(stable=True)[-2])

    @property
    def decision_row(self) -> int:
        """The row, from 1, after which the answer no longer changes."""
        return int(decision_rows(self.probabilities.argmax(-1)[None])[0])

    def to_dict(self) -> dict[str, Any]:
        """The fields as JSON takes them; the file's name is not known here."""
        return {
            "digit": self.digit,
            "probability": self.probability,
            "runner_up": self.runner_up,
            "runner_up_probability": float(self.probabilities[-1][self.runner_up]),
            "looks_like_digit": self.looks_like_digit,
            "decision_row": self.decision_row,
            "probabilities": [
                [float(share) for share in row] for row in self.probabilities
            ],
        }


class Predictor:
    """A trained network that reads pictures of digits.

    >>> from rnnmnist import Predictor
    >>> prediction = Predictor().predict("docs/five.jpg")
    >>> prediction.digit, prediction.looks_like_digit
    (5, True)
    """

    def __init__(self, workdir: str | Path = REFERENCES[0], step: str = "best") -> None:
        """Restores a network.

        Args:
            workdir: of the run; by default the reference model that is shipped.
            step: `best`, `latest` or a step's number.

        Raises:
            UserError: when there is no such run or step, or it did not learn digits.
            RunError: when the checkpoint is damaged.
        """
        folder = workdir_of_run(str(workdir))
        self._mesh = make_mesh(1, 1, 1)

        def at(found: int) -> Network:
            return restore(folder, found, replicated(self._mesh))

        self.config, self.model, self.params = with_step(folder, step, at)
        if self.config.data.name not in OF_DIGITS:
            raise UserError(
                f"--workdir: {folder} has learned {self.config.data.name}, no digits; "
                "name a run on mnist"
            )

    def predict(self, picture: str | Path | bytes | np.ndarray) -> Prediction:
        """Reads one picture.

        Args:
            picture: an image file's name or content; or grey levels [height, width],
                of uint8, uint16, bool, or floats from 0 to 1.

        Raises:
            UserError: when a file is no image, naming it.
            ValueError: when an array is of another rank or type, or its levels are.
        """
        if isinstance(picture, str | Path):
            grey = image_io.read(str(picture))
        elif isinstance(picture, bytes):
            grey = image_io.decode(picture, "the image")
        else:
            grey = image_io.of_array(picture)
        stages = prepare(grey)
        images = stages.image[None]
        beliefs = self.predict_probabilities(images)
        looks = out_of_distribution.of_digits().look_like(images, beliefs[:, -1])
        return Prediction(beliefs[0], stages, bool(looks[0]))

    def trace(self, images: np.ndarray) -> Trace:
        """What the gates and states of its LSTM do after each row.

        Args:
            images: uint8 [n, 28, 28], as MNIST has them or as `Stages.image` is.

        Raises:
            ValueError: if it is another cell, or several networks.
        """
        return trace(self.model, self.params, images)

    def predict_probabilities(self, images: np.ndarray) -> np.ndarray:
        """The class probabilities after each row; the mean of an ensemble's.

        Args:
            images: uint8 [n, 28, 28], as MNIST has them.

        Returns:
            float32 [n, rows, classes].
        """
        unknown = np.zeros(len(images), np.uint8)  # labels, which are not read
        split = EvaluationSplit.device_put(Examples(images, unknown), self._mesh)
        logits = predict_logits(self.model, self.params, split, every_row=True)
        weights = np.exp(logits - logits.max(-1, keepdims=True))
        return (weights / weights.sum(-1, keepdims=True)).mean(0)
