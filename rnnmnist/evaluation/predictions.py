"""The predictions of a network, or of an ensemble, for every example of a split.

The trainer and every command that scores or predicts obtain their logits here.
"""

import dataclasses
import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from rnnmnist.config.platforms import Execution
from rnnmnist.data.datasets import Examples
from rnnmnist.evaluation.metrics import Scores
from rnnmnist.models.classifier import Params, SequenceClassifier
from rnnmnist.runtime.ensemble import map_ensemble
from rnnmnist.runtime.mesh import BATCH, SEEDS, device_put, replicated


@dataclasses.dataclass(frozen=True)
class EvaluationSplit:
    """A split on the devices, padded and divided into batches."""

    images: jax.Array  # uint8 [batches, batch, rows, columns]
    labels: np.ndarray  # [examples], on the host, without padding
    mesh: Mesh
    vectorize_seeds: bool

    @classmethod
    def device_put(
        cls, examples: Examples, mesh: Mesh, execution: Execution
    ) -> "EvaluationSplit":
        """Copies a split to the devices of a mesh.

        Args:
            examples: all images of the split.
            mesh: each batch is sharded over its `batch` axis.
            execution: gives the batch of a device, which affects memory and speed.
                Counts do not depend on it, the loss only by rounding.
        """
        count, shards = len(examples.labels), mesh.shape[BATCH]
        batch = min(execution.eval_batch_size, -(-count // shards)) * shards
        images = np.pad(examples.images, ((0, -count % batch), (0, 0), (0, 0)))
        return cls(
            device_put(
                images.reshape(-1, batch, *images.shape[1:]),
                NamedSharding(mesh, P(None, BATCH)),
            ),
            examples.labels,
            mesh,
            execution.vectorize_seeds,
        )


def predict_logits(
    model: SequenceClassifier,
    params: Params,
    split: EvaluationSplit,
    *,
    every_step: bool = False,
) -> np.ndarray:
    """Returns the logits of each network for every example of a split.

    Returns:
        float32 [networks, examples, classes] on every process, after the last step;
        with `every_step` [networks, examples, time, classes].
    """
    logits = jax.device_get(
        predict_batches(
            params,
            split.images,
            model=model,
            mesh=split.mesh,
            vectorize_seeds=split.vectorize_seeds,
            every_step=every_step,
        )
    )
    flat = logits.reshape(len(logits), -1, *logits.shape[3:])
    return flat[:, : len(split.labels)]


def evaluate(
    model: SequenceClassifier, params: Params, split: EvaluationSplit
) -> Scores:
    """Evaluates each network on a whole split."""
    return Scores.from_logits(predict_logits(model, params, split), split.labels)


@functools.partial(
    jax.jit, static_argnames=("model", "mesh", "vectorize_seeds", "every_step")
)
def predict_batches(
    params: Params,
    batches: jax.Array,
    *,
    model: SequenceClassifier,
    mesh: Mesh,
    vectorize_seeds: bool,
    every_step: bool,
) -> jax.Array:
    """Computes the logits of all batches in one call.

    The axis `seeds` of the mesh divides the networks, the axis `batch` the second axis
    of the batches, uint8 [batches, batch, rows, columns].

    Returns:
        float32 [networks, batches, batch, (time,) classes], replicated.
    """

    def one_shard(params: Params, batches: jax.Array) -> jax.Array:
        def one_network(params: Params) -> jax.Array:
            def one_batch(images: jax.Array) -> jax.Array:
                logits = model.apply({"params": params}, images, every_step=every_step)
                return jnp.asarray(logits)

            return jax.lax.map(one_batch, batches)

        logits: jax.Array = map_ensemble(one_network, vectorize_seeds)(params)
        return logits

    run = jax.shard_map(
        one_shard,
        mesh=mesh,
        in_specs=(P(SEEDS), P(None, BATCH)),
        out_specs=P(SEEDS, None, BATCH),
        check_vma=False,
    )
    return jax.lax.with_sharding_constraint(run(params, batches), replicated(mesh))


def softmax(logits: np.ndarray) -> np.ndarray:
    """Returns the probabilities over the last axis."""
    weights = np.exp(logits - logits.max(-1, keepdims=True))
    return weights / weights.sum(-1, keepdims=True)


def decision_rows(predicted: np.ndarray) -> np.ndarray:
    """Returns the row, from 1, after which no prediction changes, int [images].

    Args:
        predicted: classes after each row, int [images, rows].
    """
    same = predicted[:, ::-1] == predicted[:, -1:]
    return predicted.shape[1] - np.cumprod(same, axis=1).sum(axis=1) + 1


class Predictions(NamedTuple):
    """The predictions of one network for every image of a split."""

    labels: np.ndarray  # uint8 [examples], the true classes
    predicted: np.ndarray  # uint8 [examples, rows], most probable class after each row
    probabilities: np.ndarray  # float64 [examples, classes], after the last row

    @classmethod
    def from_logits(cls, logits: np.ndarray, labels: np.ndarray) -> "Predictions":
        """Converts logits after each row, float32 [examples, rows, classes]."""
        probabilities = softmax(logits[:, -1].astype(np.float64))
        return cls(labels, logits.argmax(-1).astype(np.uint8), probabilities)

    @property
    def correct(self) -> np.ndarray:
        """Whether the prediction after the last row is correct, bool [examples]."""
        return self.predicted[:, -1] == self.labels

    @property
    def confidence(self) -> np.ndarray:
        """The probability of the predicted class, float64 [examples]."""
        return self.probabilities.max(axis=1)

    @property
    def correct_after_rows(self) -> np.ndarray:
        """The number of correct predictions after each row, int [rows]."""
        return (self.predicted == self.labels[:, None]).sum(axis=0)

    @property
    def decision_rows(self) -> np.ndarray:
        """The row after which each prediction no longer changes, int [examples]."""
        return decision_rows(self.predicted)

    def separation_row(self, one: int, other: int, most: float = 0.02) -> int | None:
        """Returns the row, from 1, after which two classes are separated.

        From that row on, at most a fraction `most` of the images of the two classes is
        predicted as the other of them. None if that holds after no row.
        """
        selected = np.isin(self.labels, (one, other))
        others = one + other - self.labels[selected].astype(int)
        confused = (self.predicted[selected] == others[:, None]).mean(axis=0)
        above = np.flatnonzero(confused > most)
        row = int(above[-1]) + 2 if len(above) else 1
        return row if row <= len(confused) else None


def predict(
    model: SequenceClassifier, params: Params, split: EvaluationSplit
) -> list[Predictions]:
    """Returns the predictions of each network for every image of a split."""
    logits = predict_logits(model, params, split, every_step=True)
    return [Predictions.from_logits(network, split.labels) for network in logits]


@dataclasses.dataclass(frozen=True)
class Misclassification:
    """An image whose predicted class is not the true one."""

    index: int  # in the split, from 0
    predicted: int
    probability: float  # of the predicted class
    label: int
    label_probability: float


def most_confident_errors(
    predictions: Predictions, limit: int
) -> list[Misclassification]:
    """Returns up to `limit` wrong predictions, the most confident first."""
    (wrong,) = np.nonzero(~predictions.correct)
    order = np.argsort(-predictions.confidence[wrong], kind="stable")
    errors = []
    for index in wrong[order][:limit]:
        probabilities = predictions.probabilities[index]
        label = predictions.labels[index]
        errors.append(
            Misclassification(
                index=int(index),
                predicted=int(predictions.predicted[index, -1]),
                probability=float(probabilities.max()),
                label=int(label),
                label_probability=float(probabilities[label]),
            )
        )
    return errors
