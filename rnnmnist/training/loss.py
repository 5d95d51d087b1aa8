"""The training loss."""

import dataclasses
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from rnnmnist.config.resolving import RunTrainConfig
from rnnmnist.config.tasks import Task
from rnnmnist.data.batches import Batch
from rnnmnist.models.classifier import Params, SequenceClassifier
from rnnmnist.models.recurrences import select_last


class ScoreSums(NamedTuple):
    """Sums of scores over examples. Those of one network are float32 [].

    The log of the training has the mean of every field. To log another score, add a
    field here, and compute it in `Objective`.
    """

    loss: jax.Array  # in nats; class weights and penalties are left out
    correct: jax.Array  # the number of correct predictions; exact in float32


@dataclasses.dataclass(frozen=True)
class Objective:
    """The loss that is minimized, as a function of parameters and a batch."""

    model: SequenceClassifier
    every_step: bool  # takes the mean of the losses after all time steps
    label_smoothing: float  # probability spread evenly over all classes

    def __call__(
        self, params: Params, batch: Batch, class_weights: jax.Array | None = None
    ) -> tuple[jax.Array, ScoreSums]:
        """Returns the loss that is minimized, float32 [], and the scores.

        The loss is the cross-entropy, weighted by the class of each example, and summed
        over the examples. Class weights are float32 [classes]; None: all are 1.

        In training, each device calls this with its shard of the batch. The training
        step adds up the gradients of all shards, and divides them by the size of the
        batch. So every term of the loss must be a sum over the examples of the shard.
        To add a term for each example, add it to `losses`: class weights apply to it,
        and it is logged. To add a penalty on the parameters, which all examples share,
        add it to `minimized` before the return, multiplied by the number of examples,
        `len(batch.labels)`: it is not logged. It must leave out the parameters that are
        not trained (`NOT_TRAINED`).

        References:
            Szegedy, Vanhoucke, Ioffe, Shlens, Wojna, "Rethinking the Inception
            Architecture for Computer Vision", CVPR 2016, for label smoothing.
        """
        labels, lengths = batch.labels, batch.lengths
        outputs = self.model.apply(
            {"params": params}, batch.inputs, lengths, every_step=self.every_step
        )
        logits = jnp.asarray(outputs)  # for type checkers: `apply` can return a pair
        one_hot = jax.nn.one_hot(labels, logits.shape[-1])
        targets = optax.smooth_labels(one_hot, self.label_smoothing)
        if self.every_step:  # logits are [batch, time, classes]
            over_time = optax.softmax_cross_entropy(logits, targets[:, None])
            losses = average_over_time(over_time, lengths)
            last_logits = select_last(logits.swapaxes(0, 1), lengths)
        else:  # logits are [batch, classes]
            losses = optax.softmax_cross_entropy(logits, targets)
            last_logits = logits
        is_correct = last_logits.argmax(axis=-1) == labels
        scores = ScoreSums(
            loss=losses.sum(), correct=jnp.sum(is_correct, dtype=jnp.float32)
        )
        if class_weights is None:
            minimized = scores.loss
        else:
            minimized = jnp.sum(losses * class_weights[labels])
        return minimized, scores


def average_over_time(losses: jax.Array, lengths: jax.Array | None) -> jax.Array:
    """Returns the weighted means of losses [batch, time] over the time, [batch].

    The weights are those of `time_weights`. Losses in the padding have no meaning.
    """
    time_steps = losses.shape[1]
    if lengths is None:  # all sequences have the same weights
        weights = time_weights(time_steps)
        # On an accelerator, a matrix product would be less precise by default.
        return jnp.matmul(losses, weights, precision="float32")
    weights = jax.vmap(lambda length: time_weights(time_steps, length))(lengths)
    return (losses * weights).sum(axis=1)


def time_weights(time_steps: int, length: jax.Array | None = None) -> jax.Array:
    """Returns the weights of the losses after each time step, float32 [time].

    Their sum is 1. They grow with the square of the time, since the first time steps
    carry little information. After `length` time steps, they are 0.
    """
    squares = jnp.arange(1, time_steps + 1, dtype=jnp.float32) ** 2
    if length is not None:
        squares = jnp.where(jnp.arange(time_steps) < length, squares, 0)
    return squares / squares.sum()


def weigh_classes(config: RunTrainConfig, task: Task, labels: np.ndarray) -> np.ndarray:
    """Returns the weights of the classes in the minimized loss, float64 [classes].

    Balanced weights are inversely proportional to the number of training examples of a
    class, and their mean over all examples is 1, as in scikit-learn. Labels are those
    of the training split, int [examples].
    """
    if config.class_weight == "none":
        # The training loop does not ask for these weights, but a fit in closed form
        # does (`training/closed_form.py`).
        return np.ones(len(task.classes))
    if config.class_weight == "balanced":
        counts = np.bincount(labels, minlength=len(task.classes))
        mean_count = counts.sum() / np.count_nonzero(counts)  # of classes that occur
        return mean_count / np.maximum(counts, 1)
    weight_of = dict(config.class_weight)  # pairs of a class and its weight
    return np.array([weight_of[name] for name in task.classes])
