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
from rnnmnist.training.metrics import Metric, apply_metrics


class BatchMetrics(NamedTuple):
    """Metrics of a batch, float32 [].

    The objective returns sums over the examples of a shard. The training step adds up
    the sums of all shards and divides them by the size of the batch. To log another
    metric, add a function to `training/metrics.py`.
    """

    loss: jax.Array  # the unweighted cross-entropy in nats, without penalties
    accuracy: jax.Array
    others: dict[str, jax.Array]  # the values of `METRICS`, by their names


@dataclasses.dataclass(frozen=True)
class Objective:
    """The minimized loss, as a function of parameters and a batch.

    The fields are the static settings of the loss. To add a setting, declare it in
    `TrainConfig` (`config/schema.py`), add a field here, and set the field in
    `Program.create` (`training/state.py`).
    """

    model: SequenceClassifier
    every_step: bool  # takes the mean of the losses after all time steps
    label_smoothing: float  # probability spread evenly over all classes
    metrics: tuple[Metric, ...] = ()  # beside the loss and the accuracy

    def __call__(self, params: Params, batch: Batch) -> tuple[jax.Array, BatchMetrics]:
        """Returns the minimized loss of a batch, float32 [], and sums of its metrics.

        The minimized loss is the cross-entropy of each example, multiplied by the
        example's weight, and summed over the examples.

        In training, each device calls the objective with its shard of the batch. The
        training step adds up the gradients of all shards, and divides them by the size
        of the batch. So every term of the loss must be a sum over the examples of the
        shard. To add a term for each example, add it to `losses`: weights apply to it,
        and training lines of the log contain it. To add a penalty on the parameters,
        which all examples share, add it to the returned loss, multiplied by the number
        of examples, `len(batch.labels)`: the log does not contain it. A penalty must
        leave out the parameters that are not trained (`NOT_TRAINED`).

        A validation does not call the objective. Its loss is the cross-entropy of the
        last logits (`score_logits` in `evaluation/scoring.py`), without label
        smoothing, weights, earlier time steps, or any term that is added here.
        Patience compares this loss, and the best checkpoint has the highest validation
        accuracy.

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
        metrics = apply_metrics(self.metrics, last_logits, labels)
        sums = BatchMetrics(
            loss=losses.sum(),
            accuracy=jnp.sum(is_correct, dtype=jnp.float32),
            others=jax.tree.map(jnp.sum, metrics),
        )
        if batch.weights is not None:
            losses *= batch.weights
        return losses.sum(), sums


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


def weigh_examples(
    config: RunTrainConfig, task: Task, labels: np.ndarray
) -> np.ndarray:
    """Returns the weights of training examples in the loss, float64 [examples].

    The weight of an example is the weight of its class. Balanced weights are inversely
    proportional to the number of training examples of a class, and their mean over all
    examples is 1, as in scikit-learn.

    Args:
        config: has the setting `class_weight`.
        task: has the names of the classes.
        labels: the labels of the training split, int [examples].
    """
    if config.class_weight == "none":
        return np.ones(len(labels))
    if config.class_weight == "balanced":
        counts = np.bincount(labels)
        mean_count = len(labels) / np.count_nonzero(counts)  # of classes that occur
        return mean_count / counts[labels]
    weight_of = dict(config.class_weight)  # pairs of a class and its weight
    return np.array([weight_of[name] for name in task.classes])[labels]
