"""Classifies images of digits with a trained network."""

from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from rnnmnist.checkpoints.selection import with_step
from rnnmnist.config.command_line import resolve_workdir
from rnnmnist.config.files import REFERENCES
from rnnmnist.data.datasets import Examples
from rnnmnist.errors import UserError
from rnnmnist.evaluation.predictions import (
    EvaluationSplit,
    decision_rows,
    predict_logits,
    softmax,
)
from rnnmnist.evaluation.restore import restore_model
from rnnmnist.evaluation.traces import Trace, trace
from rnnmnist.inference import image_io, out_of_distribution
from rnnmnist.inference.preprocessing import Stages, preprocess
from rnnmnist.runtime.mesh import make_mesh

DIGIT_DATASETS = ("mnist", "mnist5k")


class Prediction(NamedTuple):
    """The prediction of a network for one image."""

    probabilities: np.ndarray  # float32 [rows, classes], after each row
    stages: Stages  # of the image's preprocessing
    looks_like_digit: bool  # the result of the out-of-distribution check

    @property
    def digit(self) -> int:
        """The predicted digit, after the last row."""
        return int(self.probabilities[-1].argmax())

    @property
    def probability(self) -> float:
        """The probability of the predicted digit."""
        return float(self.probabilities[-1].max())

    @property
    def runner_up(self) -> int:
        """The digit with the second highest probability."""
        return int(self.probabilities[-1].argsort(stable=True)[-2])

    @property
    def runner_up_probability(self) -> float:
        """The probability of the runner-up."""
        return float(self.probabilities[-1][self.runner_up])

    @property
    def decision_row(self) -> int:
        """The row, from 1, after which the predicted digit no longer changes."""
        return int(decision_rows(self.probabilities.argmax(-1)[None])[0])

    def to_dict(self) -> dict[str, Any]:
        """Returns the JSON object that `predict --json` prints, without `file`."""
        return {
            "digit": self.digit,
            "probability": self.probability,
            "runner_up": self.runner_up,
            "runner_up_probability": self.runner_up_probability,
            "looks_like_digit": self.looks_like_digit,
            "decision_row": self.decision_row,
            "probabilities": self.probabilities.tolist(),
        }


class Predictor:
    """A trained network that classifies images of digits.

    >>> from rnnmnist import Predictor
    >>> prediction = Predictor().predict("docs/five.jpg")
    >>> prediction.digit, prediction.looks_like_digit
    (5, True)
    """

    def __init__(self, workdir: str | Path = REFERENCES[0], step: str = "best") -> None:
        """Restores a network from a checkpoint.

        Args:
            workdir: of a run; by default the shipped reference model.
            step: `best`, `latest` or the number of a step.

        Raises:
            UserError: if the run or the step does not exist, or if the network was not
                trained on digits.
            RunError: if the checkpoint is damaged.
        """
        folder = resolve_workdir(str(workdir))
        self._mesh = make_mesh(1, 1, 1)
        self.config, self._execution, self.model, self.params = with_step(
            folder, step, lambda number: restore_model(folder, number, self._mesh)
        )
        if self.config.data.name not in DIGIT_DATASETS:
            raise UserError(
                f"--workdir: {folder} was trained on {self.config.data.name}, not on "
                "digits; name a run on mnist"
            )

    def predict(self, image: str | Path | bytes | np.ndarray) -> Prediction:
        """Preprocesses and classifies one image.

        Args:
            image: the name or the content of an image file; or grey levels [height,
                width] of uint8, uint16, bool, or floats from 0 to 1.

        Raises:
            UserError: if a file is not a readable image.
            ValueError: if an array has another shape, type or range.
        """
        if isinstance(image, str | Path):
            grey = image_io.read(str(image))
        elif isinstance(image, bytes):
            grey = image_io.decode(image, "the image")
        else:
            grey = image_io.from_array(image)
        stages = preprocess(grey)
        images = stages.image[None]
        probabilities = self.predict_probabilities(images)
        is_digit = out_of_distribution.load().is_digit(images, probabilities[:, -1])
        return Prediction(probabilities[0], stages, bool(is_digit[0]))

    def trace(self, images: np.ndarray) -> Trace:
        """Returns the gates and states of the LSTM after each row.

        Args:
            images: uint8 [n, 28, 28], as MNIST's or `Stages.image`.

        Raises:
            ValueError: if the network is not one LSTM.
        """
        return trace(self.model, self.params, self._split(images))

    def predict_probabilities(self, images: np.ndarray) -> np.ndarray:
        """Returns class probabilities, float32 [n, rows, classes]; ensembles' means.

        Args:
            images: uint8 [n, 28, 28], as MNIST's or `Stages.image`.
        """
        split = self._split(images)
        logits = predict_logits(self.model, self.params, split, every_step=True)
        return softmax(logits).mean(0)

    def _split(self, images: np.ndarray) -> EvaluationSplit:
        labels = np.zeros(len(images), np.uint8)  # required, but not used
        examples = Examples(images, labels)
        return EvaluationSplit.device_put(examples, self._mesh, self._execution)
