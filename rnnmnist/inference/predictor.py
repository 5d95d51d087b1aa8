"""Classifies images of digits, or sequences, with a trained network."""

import io
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from rnnmnist.config.files import REFERENCES, resolve_workdir
from rnnmnist.data.image_sets import DIGITS
from rnnmnist.data.sequences.validation import SequenceInputs
from rnnmnist.errors import UserError
from rnnmnist.evaluation.network import TrainedNetwork
from rnnmnist.evaluation.occlusion import occlude
from rnnmnist.evaluation.predictions import decision_times
from rnnmnist.inference import image_io
from rnnmnist.inference.preprocessing import Stages, preprocess
from rnnmnist.runtime.compilation import enable_default_cache


class Prediction(NamedTuple):
    """The prediction of a network for one image.

    Attributes:
        probabilities: float32 [time, classes], after each time step. If the network
            reads in both directions, there is only the last one.
        stages: the image during preprocessing.
    """

    probabilities: NDArray[np.float32]
    stages: Stages

    @property
    def digit(self) -> int:
        """The predicted digit, after the last time step."""
        return int(self.probabilities[-1].argmax())

    @property
    def probability(self) -> float:
        """The probability of the predicted digit."""
        return float(self.probabilities[-1].max())

    @property
    def decision_time(self) -> int | None:
        """The time step, from 1, after which the digit stays; None if bidirectional."""
        if len(self.probabilities) == 1:
            return None
        return int(decision_times(self.probabilities.argmax(-1)[None])[0])


class Predictor(TrainedNetwork):
    """A trained network that classifies images of digits, or sequences.

    Attributes:
        workdir: the folder of the run.
        checkpoint_step: the step of the checkpoint that was restored.
        config: the settings of the run.
        task: what is classified, such as the `classes` in the order of probabilities.
        validation: the scores of the checkpoint on the validation split; None if it
            was not validated.
        params: arrays by the names of the modules, with a leading ensemble axis.
        params_sha256: their SHA-256, as in result files.
        num_parameters: the number of trained parameters of one member of an ensemble.

    >>> from rnnmnist import Predictor
    >>> prediction = Predictor().predict("docs/five.jpg")
    >>> prediction.digit, round(prediction.probability, 2)
    (5, 0.95)
    """

    def __init__(
        self,
        workdir: str | Path = REFERENCES[0],
        selector: str | int = "best",
        paths: Mapping[str, str | Path | None] = {},
        cell: str | None = None,
    ) -> None:
        """Restores a network from a checkpoint.

        If jax has no devices yet, this sets what `rnnmnist.fit` sets then: the number
        of CPU devices, of which a predictor uses the first, and the compilation cache.
        A process that is forked afterwards cannot use it: load it after the fork.

        Args:
            workdir: the folder of a run; by default the shipped reference model.
            selector: `best`, `latest` or the number of a step.
            paths: the values of settings with paths of data that have moved since the
                training, by the names of the settings; also another `data.columns`.
            cell: the `module:Class` or `FILE.py:Class` of your own cell, if the run was
                trained with one. Its code is imported only if it is named here, not
                because the checkpoint names it.

        Raises:
            UserError: if the folder has no such run; or if the cell is missing, is not
                that of the run, or has another source than during the training; or if
                this process was forked from one that has trained or loaded a network.
        """
        enable_default_cache()
        super().__init__(
            resolve_workdir(str(workdir)), str(selector), paths=paths, cell=cell
        )

    def check_digits(self) -> None:
        """Raises a `UserError` if the network was not trained on images of digits."""
        task = self.task
        if task.image_shape is None or task.classes != DIGITS:
            raise UserError(
                f"workdir: {self.workdir} was trained on {task.noun} of {task.name}, "
                "not on images of digits; name a run on mnist, or call classify"
            )

    def predict(self, image: str | Path | bytes | np.ndarray) -> Prediction:
        """Preprocesses and classifies one image.

        Args:
            image: the name or the content of an image file; or grey levels [height,
                width] of uint8, or floats from 0 to 1.

        Raises:
            UserError: if a file is not an image, an array has another shape, type or
                range, or the network was not trained on images of digits.
            OSError: if a file cannot be read.
        """
        self.check_digits()
        stages = preprocess_image(image)
        every_step = not self.config.model.bidirectional
        probabilities = self.classify(stages.image[None], every_step=every_step)
        return Prediction(probabilities.reshape(-1, len(self.task.classes)), stages)

    def classify(
        self,
        inputs: SequenceInputs,
        lengths: ArrayLike | None = None,
        *,
        every_step: bool = False,
    ) -> NDArray[np.float32]:
        """Returns the probabilities of each class after the last time step.

        Args:
            inputs: images, uint8 [n, 28, 28], in the form of MNIST's, which
                `Stages.image` has; or sequences, real [n, time, features], with the
                features of the training, or [n, time] of one feature, or a list of
                arrays of different lengths; or a table, as for `rnnmnist.fit`.
            lengths: int [n], the time steps before the padding of each sequence; None
                if there is no padding.
            every_step: returns the probabilities after each time step; between the
                ends of two windows, those of the last one.

        Returns:
            float32 [n, classes], or with `every_step` [n, time, classes]; of an
            ensemble, from the mean over its members. If the validation split has
            selected the checkpoint, they are calibrated: the logits are multiplied by
            `multiplier`, so that the validation split has the least cross-entropy.

        Raises:
            UserError: if the inputs have another shape or type, missing values that
                the run does not fill, or a value more than 1e6 standard deviations
                from the mean in training; or if `every_step` needs one direction.
            RunError: if logits are not finite.
        """
        return self.probabilities(self.inputs(inputs, lengths), every_step=every_step)

    def occlusion(
        self, inputs: SequenceInputs, lengths: ArrayLike | None = None
    ) -> NDArray[np.float32]:
        """Returns on which time steps each prediction depends, float32 [n, time].

        A sequence is divided into windows of a 28th of its time steps, rounded up. The
        value of a time step says by how many nats the log-probability of the predicted
        class falls if its window is replaced: by the mean of the training split (0 if
        the run does not normalize), or by an image's background. It is 0 in padding.
        Arguments and errors are those of `classify`.

        References:
            Zeiler, Fergus, "Visualizing and Understanding Convolutional Networks",
            ECCV 2014.
        """
        return occlude(self, self.inputs(inputs, lengths))


def preprocess_image(image: str | Path | bytes | np.ndarray) -> Stages:
    """Reads and preprocesses one image.

    Args and errors are those of `Predictor.predict`.
    """
    if isinstance(image, str | Path):
        return preprocess(image_io.read(str(image)))
    if isinstance(image, bytes):
        return preprocess(image_io.decode(io.BytesIO(image), "the image"))
    return preprocess(image_io.convert_array(image))
