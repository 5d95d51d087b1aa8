"""Reads the digit in a picture, and says what it believed after each row."""

import functools
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from rnnmnist.checkpoints.selection import with_step
from rnnmnist.config.command_line import REFERENCES, workdir_of_a_run
from rnnmnist.errors import UserError
from rnnmnist.evaluation.restore import Network, restore
from rnnmnist.inference import image_io, out_of_distribution
from rnnmnist.inference.preprocessing import Stages, prepare
from rnnmnist.models.classifier import Params, RowReader, unstack
from rnnmnist.models.traces import Trace, decision_rows, trace
from rnnmnist.runtime.mesh import here

OF_DIGITS = ("mnist", "mnist5k")  # data sets


class Reading(NamedTuple):
    """What a network says of one picture."""

    belief: np.ndarray  # float32 [rows, classes], probabilities after each row
    stages: Stages  # of the picture on its way to the network
    looks_like_digit: bool  # like the one that it was taken for

    @property
    def digit(self) -> int:
        """The answer, after the last row."""
        return int(self.belief[-1].argmax())

    @property
    def probability(self) -> float:
        """That the network gives its answer."""
        return float(self.belief[-1].max())

    @property
    def runner_up(self) -> int:
        """The digit that is likeliest after the answer."""
        return int(self.belief[-1].argsort(stable=True)[-2])

    @property
    def decision_row(self) -> int:
        """The row, from 1, after which the answer no longer changes."""
        return int(decision_rows(self.belief.argmax(-1)[None])[0])

    def to_dict(self) -> dict[str, Any]:
        """The fields as JSON takes them; the file's name is not known here."""
        return {
            "digit": self.digit,
            "probability": self.probability,
            "runner_up": self.runner_up,
            "runner_up_probability": float(self.belief[-1][self.runner_up]),
            "looks_like_digit": self.looks_like_digit,
            "decision_row": self.decision_row,
            "belief": [[float(share) for share in row] for row in self.belief],
        }


class Reader:
    """A trained network that reads pictures of digits.

    >>> from rnnmnist import Reader
    >>> reading = Reader().read("digit.png")  # doctest: +SKIP
    >>> print(reading.digit, reading.probability)  # doctest: +SKIP
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
        folder = workdir_of_a_run(str(workdir))

        def at(found: int) -> Network:
            return restore(folder, found, here())

        self.config, self.model, self.params = with_step(folder, step, at)
        if self.config.data.name not in OF_DIGITS:
            raise UserError(
                f"--workdir: {folder} has learned {self.config.data.name}, no digits; "
                "name a run on mnist"
            )

    def read(self, picture: str | Path | bytes | np.ndarray) -> Reading:
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
        beliefs = self.believe(images)
        looks = out_of_distribution.of_digits().look_like(images, beliefs[:, -1])
        return Reading(beliefs[0], stages, bool(looks[0]))

    def trace(self, images: np.ndarray) -> Trace:
        """What the gates and states of its LSTM do after each row.

        Args:
            images: uint8 [n, 28, 28], as MNIST has them or as `Stages.image` is.

        Raises:
            ValueError: if it is another cell, or several networks.
        """
        return trace(self.model, self.params, images)

    def believe(self, images: np.ndarray) -> np.ndarray:
        """The probabilities after each row; of several networks, their mean.

        Args:
            images: uint8 [n, 28, 28], as MNIST has them.

        Returns:
            float32 [n, rows, classes].
        """
        return np.asarray(_believe(self.params, images, model=self.model))


@functools.partial(jax.jit, static_argnames="model")
def _believe(params: Params, images: jax.Array, *, model: RowReader) -> jax.Array:
    beliefs = [
        jax.nn.softmax(
            jnp.asarray(model.apply({"params": network}, images, every_row=True))
        )
        for network in unstack(params)
    ]
    return jnp.mean(jnp.stack(beliefs), axis=0)
