"""The training loss."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import Mesh

from rnnmnist.config.resolving import RunTrainConfig
from rnnmnist.config.tasks import Task
from rnnmnist.data.batches import Batch
from rnnmnist.models.classifier import Params, SequenceClassifier
from rnnmnist.runtime.mesh import device_put, replicated


@dataclasses.dataclass(frozen=True)
class Objective:
    """The cross-entropy of a network as a function of parameters and a batch."""

    model: SequenceClassifier
    every_step: bool  # takes the loss after each time step, not only the last
    label_smoothing: float  # probability spread evenly over all classes

    def __call__(
        self, params: Params, batch: Batch, class_weights: jax.Array | None = None
    ) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
        """Computes the minimized loss, the loss, and the correct predictions.

        The inputs are float32 [batch, time, features]. Losses are in nats, float32 [],
        summed over the batch; with `every_step`, that of a sequence is a weighted mean
        over its time. Class weights, float32 [classes], are in the minimized loss only;
        None: all are 1. Correct predictions, int32 [], are those at the last step.

        References:
            Szegedy, Vanhoucke, Ioffe, Shlens, Wojna, "Rethinking the Inception
            Architecture for Computer Vision", CVPR 2016, for label smoothing.
        """
        inputs, labels, lengths = batch
        logits = jnp.asarray(
            self.model.apply(
                {"params": params}, inputs, lengths, every_step=self.every_step
            )
        )
        one_hot = jax.nn.one_hot(labels, logits.shape[-1])
        targets = optax.smooth_labels(one_hot, self.label_smoothing)
        if self.every_step:
            losses = optax.softmax_cross_entropy(logits, targets[:, None])
            time_steps = logits.shape[1]
            if lengths is None:
                # A weighted mean is never rounded to the precision of a layer.
                weights = time_weights(time_steps)
                losses = jnp.matmul(losses, weights, precision="float32")
                logits = logits[:, -1]
            else:
                weights = jax.vmap(time_weights, (None, 0))(time_steps, lengths)
                losses = jnp.where(weights > 0, losses * weights, 0).sum(axis=1)
                logits = logits[jnp.arange(len(lengths)), lengths - 1]
        else:
            losses = optax.softmax_cross_entropy(logits, targets)
        loss = minimized = losses.sum()
        if class_weights is not None:
            minimized = jnp.sum(losses * class_weights[labels])
        return minimized, (loss, jnp.sum(logits.argmax(-1) == labels))


def weigh_classes(
    config: RunTrainConfig, task: Task, labels: np.ndarray, mesh: Mesh
) -> jax.Array | None:
    """Returns the weights of the classes in the minimized loss, float32 [classes].

    "balanced" ones are inversely proportional to the number of training examples of a
    class, with a mean of 1 over these. Labels are int [examples]. None: all are 1.
    """
    if config.class_weight == "none":
        return None
    if config.class_weight == "balanced":
        counts = np.bincount(labels, minlength=len(task.classes))
        weights = counts.sum() / np.count_nonzero(counts) / np.maximum(counts, 1)
    else:
        weights = np.array([dict(config.class_weight)[name] for name in task.classes])
    return device_put(weights.astype(np.float32), replicated(mesh))


def time_weights(time_steps: int, length: jax.Array | None = None) -> jax.Array:
    """Returns the weights of the losses after each time step, float32 [time], of sum 1.

    They grow with the square of the time, since the first time steps carry little
    information, and are 0 after the first `length` ones.
    """
    squares = jnp.arange(1, time_steps + 1, dtype=jnp.float32) ** 2
    if length is not None:
        squares = jnp.where(jnp.arange(time_steps) < length, squares, 0)
    return squares / squares.sum()
