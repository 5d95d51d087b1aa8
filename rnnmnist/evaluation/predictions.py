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

from rnnmnist.data.datasets import Examples
from rnnmnist.models.classifier import Params, SequenceClassifier, ensemble_size
from rnnmnist.models.traces import decision_rows
from rnnmnist.runtime.ensemble import map_ensemble
from rnnmnist.runtime.mesh import BATCH, SEEDS, device_put, ensemble_spec, replicated


@dataclasses.dataclass(frozen=True)
class EvaluationSplit:
    """A split whose images lie on the devices, padded and cut into batches."""

    images: jax.Array  # uint8 [batches, batch, rows, columns]
    labels: np.ndarray  # [examples], on the host; there are none for the padding
    mesh: Mesh

    @classmethod
    def device_put(
        cls, examples: Examples, mesh: Mesh, batch_per_device: int | None = None
    ) -> "EvaluationSplit":
        """Lays a split out over the devices of a mesh.

        Args:
            examples: all images of the split.
            mesh: over whose `batch` axis each batch is sharded.
            batch_per_device: images that a device scores at a time (default: 64 on
                a CPU, which suits a core's cache, else 1024). It changes memory and
                speed, no count, and the loss by rounding only.
        """
        if batch_per_device is None:
            on_cpu = mesh.devices.flat[0].platform == "cpu"
            batch_per_device = 64 if on_cpu else 1024
        count, shards = len(examples.labels), mesh.shape[BATCH]
        batch = min(batch_per_device, -(-count // shards)) * shards
        images = np.pad(examples.images, ((0, -count % batch), (0, 0), (0, 0)))
        return cls(
            device_put(
                images.reshape(-1, batch, *images.shape[1:]),
                NamedSharding(mesh, P(None, BATCH)),
            ),
            examples.labels,
            mesh,
        )


def predict_logits(
    model: SequenceClassifier,
    params: Params,
    split: EvaluationSplit,
    *,
    every_row: bool = False,
) -> np.ndarray:
    """The logits of each network for every example of a split.

    Args:
        model: of the networks.
        params: of one network, or of an ensemble.
        split: the examples.
        every_row: whether logits after each row are returned, not only the last.

    Returns:
        float32 [networks, examples, classes], on every process; with `every_row`
        [networks, examples, rows, classes].
    """
    logits = jax.device_get(
        predict_batches(
            params, split.images, model=model, mesh=split.mesh, every_row=every_row
        )
    )
    flat = logits.reshape(len(logits), -1, *logits.shape[3:])
    return flat[:, : len(split.labels)]


@functools.partial(jax.jit, static_argnames=("model", "mesh", "every_row"))
def predict_batches(
    params: Params,
    batches: jax.Array,
    *,
    model: SequenceClassifier,
    mesh: Mesh,
    every_row: bool,
) -> jax.Array:
    """The logits of all batches in one call, each device its own shard.

    Args:
        params: of one network, or of an ensemble.
        batches: uint8 [batches, batch, rows, columns].
        model: static.
        mesh: whose `batch` axis divides the batch, and whose `seeds` the ensemble.
        every_row: static; whether there are logits after each row.

    Returns:
        float32 [networks, batches, batch, (rows,) classes], replicated.
    """
    size = ensemble_size(params)

    def one_shard(params: Params, batches: jax.Array) -> jax.Array:
        def member(params: Params) -> jax.Array:
            def one_batch(images: jax.Array) -> jax.Array:
                logits = model.apply({"params": params}, images, every_row=every_row)
                return jnp.asarray(logits)

            return jax.lax.map(one_batch, batches)

        logits = map_ensemble(member, size is not None)(params)
        return logits if size is not None else logits[None]

    run = jax.shard_map(
        one_shard,
        mesh=mesh,
        in_specs=(ensemble_spec(size or 1), P(None, BATCH)),
        out_specs=P(SEEDS, None, BATCH),
        check_vma=False,
    )
    return jax.lax.with_sharding_constraint(run(params, batches), replicated(mesh))


class Predictions(NamedTuple):
    """What one network says of each image of a split."""

    labels: np.ndarray  # uint8 [examples], what is true
    said: np.ndarray  # uint8 [examples, rows], the likeliest class after each row
    probabilities: np.ndarray  # float64 [examples, classes], after the last row

    @classmethod
    def of(cls, logits: np.ndarray, labels: np.ndarray) -> "Predictions":
        """From the logits after each row, float32 [examples, rows, classes]."""
        last = logits[:, -1].astype(np.float64)
        weights = np.exp(last - last.max(axis=1, keepdims=True))
        return cls(
            labels,
            logits.argmax(-1).astype(np.uint8),
            weights / weights.sum(axis=1, keepdims=True),
        )

    @property
    def right(self) -> np.ndarray:
        """Whether the answer after the last row is right, bool [examples]."""
        return self.said[:, -1] == self.labels

    @property
    def confidence(self) -> np.ndarray:
        """The probability that the network gives its answer, float64 [examples]."""
        return self.probabilities.max(axis=1)

    @property
    def correct_after_rows(self) -> np.ndarray:
        """Images whose answer is right after each row, int [rows]."""
        return (self.said == self.labels[:, None]).sum(axis=0)

    @property
    def decision_rows(self) -> np.ndarray:
        """The row after which each answer no longer changes, int [examples]."""
        return decision_rows(self.said)

    def separation_row(self, one: int, other: int, most: float = 0.02) -> int | None:
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


def predict(
    model: SequenceClassifier, params: Params, split: EvaluationSplit
) -> list[Predictions]:
    """The predictions of each network after each row of each image."""
    logits = predict_logits(model, params, split, every_row=True)
    return [Predictions.of(network, split.labels) for network in logits]


class Misclassification(NamedTuple):
    """An image of which the network said something else than what it is."""

    place: int  # in the split, from 0
    said: int
    probability: float  # of what was said
    true: int
    probability_of_true: float


def most_confident_errors(answers: Predictions, most: int) -> list[Misclassification]:
    """The wrong answers that the network was surest of, the surest first."""
    (wrong,) = np.nonzero(~answers.right)
    order = np.argsort(-answers.confidence[wrong], kind="stable")
    return [
        Misclassification(
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
