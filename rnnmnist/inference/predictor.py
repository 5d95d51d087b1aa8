"""Classifies images of digits, or sequences, with a trained network."""

import io
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from rnnmnist.config.files import REFERENCES, resolve_workdir
from rnnmnist.config.tasks import Task
from rnnmnist.data.examples import Inputs, find_invalid, padding
from rnnmnist.errors import UserError
from rnnmnist.evaluation.network import Trace, TrainedNetwork
from rnnmnist.evaluation.predictions import decision_times, softmax
from rnnmnist.inference import image_io, out_of_distribution
from rnnmnist.inference.preprocessing import Stages, preprocess

CHECKED_AT_A_TIME = 1024  # sequences, so that a mapped file is not copied whole
DIGIT_DATASETS = ("mnist", "mnist5k")


class Prediction(NamedTuple):
    """The prediction of a network for one image."""

    probabilities: np.ndarray  # float32 [time, classes], after each time step
    stages: Stages  # of the image's preprocessing
    looks_like_digit: bool  # the result of the out-of-distribution check

    @property
    def digit(self) -> int:
        """The predicted digit, after the last time step."""
        return int(self.probabilities[-1].argmax())

    @property
    def probability(self) -> float:
        """The probability of the predicted digit."""
        return float(self.probabilities[-1].max())

    @property
    def decision_time(self) -> int:
        """The time step, from 1, after which the predicted digit no longer changes."""
        return int(decision_times(self.probabilities.argmax(-1)[None])[0])


class Predictor(TrainedNetwork):
    """A trained network that classifies images of digits, or sequences.

    >>> from rnnmnist import Predictor
    >>> prediction = Predictor().predict("docs/five.jpg")
    >>> prediction.digit, prediction.looks_like_digit
    (5, True)

    Attributes:
        config: the configuration of the run.
        task: the data set on which it was trained; gives the names of the classes.
    """

    def __init__(
        self, workdir: str | Path = REFERENCES[0], selector: str = "best"
    ) -> None:
        """Restores a network from a checkpoint.

        Args:
            workdir: of a run; by default the shipped reference model.
            selector: `best`, `latest` or the number of a step.
        """
        super().__init__(resolve_workdir(str(workdir)), selector)

    def check_digits(self) -> None:
        """Checks that the network was trained on digits.

        Raises:
            UserError: if it was not.
        """
        if self.task.name not in DIGIT_DATASETS:
            raise UserError(
                f"workdir: {self.workdir} was trained on {self.task.name}, not on "
                "digits; name a run on mnist"
            )

    def predict(self, image: str | Path | bytes | np.ndarray) -> Prediction:
        """Preprocesses and classifies one image.

        Args:
            image: the name or the content of an image file; or grey levels [height,
                width] of uint8, or floats from 0 to 1.

        Raises:
            UserError: if a file is not an image, or the network was not trained on
                digits.
            OSError: if a file cannot be read.
            ValueError: if an array has another shape, type or range.
        """
        self.check_digits()
        stages = preprocess_image(image)
        pixels = stages.image[None]
        (probabilities,) = self.predict_probabilities(pixels)
        (accepted,) = out_of_distribution.load().is_digit(pixels).tolist()
        return Prediction(probabilities, stages, accepted)

    def trace(self, images: np.ndarray) -> Trace:
        """Returns the gates and states of the LSTM after each time step.

        Args:
            images: uint8 [n, 28, 28], as MNIST's or `Stages.image`.

        Raises:
            ValueError: if the network is not one LSTM.
        """
        return self.activations(self.inputs(images))

    def predict_probabilities(
        self,
        examples: np.ndarray | Sequence[np.ndarray],
        lengths: np.ndarray | None = None,
    ) -> np.ndarray:
        """Returns the probabilities of each class after each time step.

        Args:
            examples: images, uint8 [n, 28, 28], as MNIST's or `Stages.image`; or
                sequences, real [n, time, features], as they were trained on, or a list
                of n arrays [time, features] of different lengths.
            lengths: int [n], the time steps before the padding of each sequence; None
                if there is no padding.

        Returns:
            float32 [n, time, classes]; of an ensemble, the mean over its members.

        Raises:
            ValueError: if the examples have another shape, or missing values that the
                run does not fill.
        """
        inputs = self.inputs(examples, lengths)
        return softmax(self.logits(inputs, every_step=True)).mean(0)

    def classify(
        self,
        examples: np.ndarray | Sequence[np.ndarray],
        lengths: np.ndarray | None = None,
    ) -> np.ndarray:
        """Returns the probabilities of each class after the last time step.

        Args and errors are those of `predict_probabilities`.

        Returns:
            float32 [n, classes]; of an ensemble, the mean over its members.
        """
        return softmax(self.logits(self.inputs(examples, lengths))).mean(0)

    def inputs(
        self,
        values: np.ndarray | Sequence[np.ndarray],
        lengths: np.ndarray | None = None,
    ) -> Inputs:
        """Checks images or sequences, and pads sequences of different lengths."""
        is_image = self.task.image_shape is not None
        if isinstance(values, list | tuple) and not is_image and lengths is None:
            values, lengths = _pad(self.task, values)
        values = np.asarray(values)
        _check_shape(self.task, values)
        if is_image:
            return super().inputs(values)
        if lengths is not None:
            count, time_steps, _ = values.shape
            lengths = np.asarray(lengths, np.int32)
            if (
                lengths.shape != (count,)
                or lengths.min() < 1
                or lengths.max() > time_steps
            ):
                raise ValueError(
                    f"lengths must be {count} numbers from 1 to {time_steps}"
                )
        _check_values(values, lengths, self.config.data.missing)
        return super().inputs(values, lengths)


def preprocess_image(image: str | Path | bytes | np.ndarray) -> Stages:
    """Reads and preprocesses one image.

    Args and errors are those of `Predictor.predict`.
    """
    if isinstance(image, str | Path):
        return preprocess(image_io.read(str(image)))
    if isinstance(image, bytes):
        return preprocess(image_io.decode(io.BytesIO(image), "the image"))
    return preprocess(image_io.from_array(image))


def _pad(task: Task, sequences: Sequence[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """Returns sequences of different lengths as one array, and their lengths."""
    arrays = list(map(np.asarray, sequences))
    for array in arrays:
        _check_shape(task, array[None])
    lengths = np.array([len(array) for array in arrays], np.int32)
    longest = max(lengths, default=0)
    padded = np.zeros((len(arrays), longest, *np.shape(arrays[:1])[2:]))
    for target, array in zip(padded, arrays, strict=True):
        target[: len(array)] = array
    return padded, lengths


def _check_values(values: np.ndarray, lengths: np.ndarray | None, missing: str) -> None:
    for start in range(0, len(values), CHECKED_AT_A_TIME):
        part = values[start : start + CHECKED_AT_A_TIME]
        if lengths is not None:
            part = part.copy()
            own = lengths[start : start + CHECKED_AT_A_TIME]
            part[padding(part.shape[1], own)] = 0
        if found := find_invalid(part, missing):
            (sequence, time, feature), reason = found
            raise ValueError(
                f"the value of sequence {start + sequence} at time step {time}, "
                f"feature {feature}, {reason}"
            )


def _check_shape(task: Task, examples: np.ndarray) -> None:
    """Checks that a network that was trained on the task accepts the examples."""
    if task.image_shape is None:
        valid = examples.ndim == 3 and examples.shape[2] == task.features
        valid &= examples.dtype.kind in "biuf"
        allowed = f"real [n, time, {task.features}]"
    else:
        valid = examples.shape[1:] == task.image_shape and examples.dtype == np.uint8
        allowed = "uint8 [n, {}, {}]".format(*task.image_shape)
    if not valid or not examples.size:
        raise ValueError(
            f"examples must be {allowed}, not {examples.dtype} of shape "
            f"{examples.shape}"
        )
