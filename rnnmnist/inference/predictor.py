"""Classifies images of digits, or sequences, with a trained network."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from rnnmnist.config.files import REFERENCES, resolve_workdir
from rnnmnist.config.tasks import Task
from rnnmnist.data.examples import Inputs, find_invalid, padding
from rnnmnist.errors import UserError
from rnnmnist.evaluation.predictions import (
    EvaluationSplit,
    decision_times,
    predict_logits,
    softmax,
)
from rnnmnist.evaluation.scoring import restore_model
from rnnmnist.evaluation.traces import Trace, trace
from rnnmnist.inference import image_io, out_of_distribution, streaming
from rnnmnist.inference.preprocessing import Stages, preprocess
from rnnmnist.inference.streaming import StreamState
from rnnmnist.runs.checkpoints import with_step
from rnnmnist.runtime.mesh import make_mesh

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
    def runner_up(self) -> int:
        """The digit with the second highest probability."""
        return int(self.probabilities[-1].argsort(stable=True)[-2])

    @property
    def runner_up_probability(self) -> float:
        """The probability of the runner-up."""
        return float(self.probabilities[-1][self.runner_up])

    @property
    def decision_time(self) -> int:
        """The time step, from 1, after which the predicted digit no longer changes."""
        return int(decision_times(self.probabilities.argmax(-1)[None])[0])

    def to_dict(self) -> dict[str, Any]:
        """Returns the JSON object that `predict --json` prints, without `file`."""
        return {
            "digit": self.digit,
            "probability": self.probability,
            "runner_up": self.runner_up,
            "runner_up_probability": self.runner_up_probability,
            "looks_like_digit": self.looks_like_digit,
            "decision_step": self.decision_time,
            "probabilities": self.probabilities.tolist(),
        }


class Predictor:
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
        self._folder = resolve_workdir(str(workdir))
        self._restored = with_step(
            self._folder,
            selector,
            lambda step: restore_model(self._folder, step, make_mesh(1, 1, 1)),
        )
        self.config = self._restored.config
        self.task = self._restored.task
        self.model = self._restored.model
        self.params = self._restored.params

    def check_digits(self) -> None:
        """Checks that the network was trained on digits.

        Raises:
            UserError: if it was not.
        """
        if self.task.name not in DIGIT_DATASETS:
            raise UserError(
                f"workdir: {self._folder} was trained on {self.task.name}, not on "
                "digits; name a run on mnist"
            )

    def predict(self, image: str | Path | bytes | np.ndarray) -> Prediction:
        """Preprocesses and classifies one image.

        Args:
            image: the name or the content of an image file; or grey levels [height,
                width] of uint8, uint16, bool, or floats from 0 to 1.

        Raises:
            UserError: if a file is not an image, or the network was not trained on
                digits.
            OSError: if a file cannot be read.
            ValueError: if an array has another shape, type or range.
        """
        return self.predict_preprocessed([preprocess_image(image)])[0]

    def predict_preprocessed(self, images: Sequence[Stages]) -> list[Prediction]:
        """Classifies preprocessed images, at once.

        Each number of images compiles a program of its own.

        Args:
            images: from `preprocess_image`.

        Raises:
            UserError: if the network was not trained on digits.
        """
        self.check_digits()
        if not images:
            return []
        pixels = np.stack([stages.image for stages in images])
        probabilities = self.predict_probabilities(pixels)
        accepted = out_of_distribution.load().is_digit(pixels).tolist()
        return list(map(Prediction, probabilities, images, accepted))

    def trace(self, images: np.ndarray) -> Trace:
        """Returns the gates and states of the LSTM after each time step.

        Args:
            images: uint8 [n, 28, 28], as MNIST's or `Stages.image`.

        Raises:
            ValueError: if the network is not one LSTM.
        """
        return trace(self.model, self.params, self._split(images, None))

    def predict_probabilities(
        self, examples: np.ndarray, lengths: np.ndarray | None = None
    ) -> np.ndarray:
        """Returns the probabilities of each class after each time step.

        Args:
            examples: images, uint8 [n, 28, 28], as MNIST's or `Stages.image`; or
                sequences, real [n, time, features], as they were trained on.
            lengths: int [n], the time steps before the padding of each sequence; None
                if there is no padding.

        Returns:
            float32 [n, time, classes]; of an ensemble, the mean over its members.

        Raises:
            ValueError: if the examples have another shape, or missing values that the
                run does not fill.
        """
        logits = predict_logits(
            self.model, self.params, self._split(examples, lengths), every_step=True
        )
        return softmax(logits).mean(0)

    def classify(
        self, examples: np.ndarray, lengths: np.ndarray | None = None
    ) -> np.ndarray:
        """Returns the probabilities of each class after the last time step.

        Args and errors are those of `predict_probabilities`.

        Returns:
            float32 [n, classes]; of an ensemble, the mean over its members.
        """
        split = self._split(examples, lengths)
        return softmax(predict_logits(self.model, self.params, split)).mean(0)

    def start(self) -> StreamState:
        """Returns the state before the first time step of a sequence, for `step`."""
        return streaming.start(self.model, self.params, self.task)

    def step(
        self, state: StreamState, features: np.ndarray
    ) -> tuple[StreamState, np.ndarray]:
        """Classifies a sequence after one more time step, in constant time and memory.

        Args:
            state: from `start`, or from the time step before.
            features: real [features], the values of one time step; of an image, its
                grey levels from 0 to 1 in the order of `data.view`.

        Returns:
            The new state, and the probabilities of the classes, float32 [classes], as
            `predict_probabilities` returns them for the whole sequence.

        Raises:
            ValueError: if the features have another shape, or a value is missing that
                the run does not fill.
        """
        return streaming.step(
            self.model, self.params, self._restored.normalization, state, features
        )

    def _check_values(self, inputs: Inputs) -> None:
        for start in range(0, len(inputs), CHECKED_AT_A_TIME):
            part = slice(start, start + CHECKED_AT_A_TIME)
            values = inputs.stored[part]
            if inputs.lengths is not None:
                values = values.copy()
                values[padding(values.shape[1], inputs.lengths[part])] = 0
            if found := find_invalid(values, self.config.data.missing):
                (sequence, time, feature), reason = found
                raise ValueError(
                    f"the value of sequence {start + sequence} at time step {time}, "
                    f"feature {feature}, {reason}"
                )

    def _split(
        self, examples: np.ndarray, lengths: np.ndarray | None
    ) -> EvaluationSplit:
        examples = np.asarray(examples)
        check_shape(self.task, examples)
        if self.task.image_shape is not None:
            return self._restored.put(Inputs(examples))
        if lengths is not None:
            count, time_steps, _ = examples.shape
            lengths = np.asarray(lengths, np.int32)
            if (
                lengths.shape != (count,)
                or lengths.min() < 1
                or lengths.max() > time_steps
            ):
                raise ValueError(
                    f"lengths must be {count} numbers from 1 to {time_steps}"
                )
        normalization = self._restored.normalization
        inputs = Inputs(examples, lengths, normalization=normalization)
        self._check_values(inputs)
        return self._restored.put(inputs)


def preprocess_image(image: str | Path | bytes | np.ndarray) -> Stages:
    """Reads and preprocesses one image.

    Args and errors are those of `Predictor.predict`.
    """
    if isinstance(image, str | Path):
        return preprocess(image_io.read(str(image)))
    if isinstance(image, bytes):
        return preprocess(image_io.decode(image, "the image"))
    return preprocess(image_io.from_array(image))


def check_shape(task: Task, examples: np.ndarray) -> None:
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
