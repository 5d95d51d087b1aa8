"""What a network says of each image after each row, and what follows from that."""

import functools
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from rnnmnist.data.datasets import Examples
from rnnmnist.models.classifier import Params, RowReader
from rnnmnist.models.traces import decision_rows
from rnnmnist.runtime.mesh import here, put

BATCH = 250
BINS = 15  # as in Guo et al.


class Answers(NamedTuple):
    """What one network says of each image of a split."""

    labels: np.ndarray  # uint8 [examples], what is true
    said: np.ndarray  # uint8 [examples, rows], the likeliest class after each row
    probabilities: np.ndarray  # float64 [examples, classes], after the last row

    @property
    def right(self) -> np.ndarray:
        """Whether the answer after the last row is right, bool [examples]."""
        return self.said[:, -1] == self.labels

    @property
    def confidence(self) -> np.ndarray:
        """The probability that the network gives its answer, float64 [examples]."""
        return self.probabilities.max(axis=1)

    @property
    def right_after_rows(self) -> np.ndarray:
        """Images whose answer is right after each row, int [rows]."""
        return (self.said == self.labels[:, None]).sum(axis=0)

    @property
    def decision_rows(self) -> np.ndarray:
        """The row after which each answer no longer changes, int [examples]."""
        return decision_rows(self.said)

    def parting_row(self, one: int, other: int, most: float = 0.02) -> int | None:
        """The row, from 1, after which two classes are told apart.

        From there on at most a share `most` of the images of the two classes are taken
        for the other one of them; None if that is so after no row.
        """
        ours = np.isin(self.labels, (one, other))
        labels, said = self.labels[ours].astype(int), self.said[ours]
        taken = (said == (one + other - labels)[:, None]).mean(axis=0)
        late = np.flatnonzero(taken > most)
        if not len(late):
            return 1
        return int(late[-1]) + 2 if late[-1] + 1 < said.shape[1] else None


class Bins(NamedTuple):
    """Images, put together by how sure the network was of its answers.

    Bin *b* of *n* holds the answers of a probability above b/n, up to (b + 1)/n.
    """

    images: np.ndarray  # int [bins]
    right: np.ndarray  # int [bins]
    confidence: np.ndarray  # float64 [bins], summed over the images

    @property
    def calibration_error(self) -> float:
        """How far from the truth the network's confidence is, on average.

        The expected calibration error: over bins, the mean of the distance between
        the share of right answers and the mean confidence, weighted by the images.

        References:
            Guo, Pleiss, Sun, Weinberger, "On Calibration of Modern Neural
            Networks", ICML 2017.
        """
        return float(np.abs(self.right - self.confidence).sum() / self.images.sum())


class Mistake(NamedTuple):
    """An image of which the network said something else than what it is."""

    place: int  # in the split, from 0
    said: int
    probability: float  # of what was said
    true: int
    probability_of_true: float


def ask(model: RowReader, params: Params, examples: Examples) -> Answers:
    """Asks a network after each row of each image.

    Args:
        model: the network.
        params: of one network, on one device.
        examples: of the split, in whose order the answers are.
    """
    count = len(examples.labels)
    batch = min(BATCH, count)
    images = np.pad(examples.images, ((0, -count % batch), (0, 0), (0, 0)))
    batches = put(images.reshape(-1, batch, *images.shape[1:]), here())
    said, logits = jax.device_get(_ask(params, batches, model=model))
    logits = logits.reshape(-1, logits.shape[-1])[:count].astype(np.float64)
    weights = np.exp(logits - logits.max(axis=1, keepdims=True))
    return Answers(
        examples.labels,
        said.reshape(-1, said.shape[-1])[:count].astype(np.uint8),
        weights / weights.sum(axis=1, keepdims=True),
    )


def bins_of(networks: Sequence[Answers], number: int = BINS) -> Bins:
    """Puts the images of all networks into bins of one width, by confidence."""
    confidence = np.concatenate([answers.confidence for answers in networks])
    right = np.concatenate([answers.right for answers in networks])
    place = np.clip(np.ceil(confidence * number).astype(int) - 1, 0, number - 1)
    return Bins(
        np.bincount(place, minlength=number),
        np.bincount(place[right], minlength=number),
        np.bincount(place, weights=confidence, minlength=number),
    )


def most_confidently_wrong(answers: Answers, most: int) -> list[Mistake]:
    """The wrong answers that the network was surest of, the surest first."""
    (wrong,) = np.nonzero(~answers.right)
    order = np.argsort(-answers.confidence[wrong], kind="stable")
    return [
        Mistake(
            place=int(place),
            said=int(answers.said[place, -1]),
            probability=float(answers.confidence[place]),
            true=int(answers.labels[place]),
            probability_of_true=float(
                answers.probabilities[place, answers.labels[place]]
            ),
        )
        for place in wrong[order][:most]
    ]


@functools.partial(jax.jit, static_argnames="model")
def _ask(
    params: Params, batches: jax.Array, *, model: RowReader
) -> tuple[jax.Array, jax.Array]:
    def one_batch(images: jax.Array) -> tuple[jax.Array, jax.Array]:
        logits: Any = model.apply({"params": params}, images, every_row=True)
        last = jnp.asarray(logits[:, -1])  # [batch, classes]
        return logits.argmax(-1), last  # the answers [batch, rows]

    return jax.lax.map(one_batch, batches)
