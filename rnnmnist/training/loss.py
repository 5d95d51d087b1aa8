"""The training loss."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax

from rnnmnist.config.resolving import RunTrainConfig
from rnnmnist.config.tasks import Task
from rnnmnist.data.batches import Batch
from rnnmnist.models.classifier import SequenceClassifier
from rnnmnist.models.parameters import Params
from rnnmnist.models.recurrences import select_last
from rnnmnist.training.metrics import Metric, accuracy, apply_metrics


@dataclasses.dataclass(frozen=True)
class Objective:
    """The minimized loss, as a function of parameters and a batch.

    The fields are the static settings of the loss. To add a setting:

    1. Declare it in `TrainConfig` (`config/schema.py`), with `applies_to=GRADIENT`.
    2. Add a field with a default here, and set it in `Program.create`
       (`training/state.py`).
    """

    model: SequenceClassifier
    every_step: bool  # takes the mean of the losses after all time steps
    label_smoothing: float  # probability spread evenly over all classes
    metrics: tuple[Metric, ...] = ()  # beside the loss and the accuracy

    def __call__(
        self, params: Params, batch: Batch
    ) -> tuple[jax.Array, dict[str, jax.Array]]:
        """Returns the minimized loss, float32 [], and metrics, which are logged.

        The loss and the metrics are sums over examples: in training, over one device's
        shard of the batch. The training step adds up the shards, and divides by the
        size of the batch. The minimized loss is the sum of the losses of the examples,
        multiplied by their weights.

        - To add a term for each example, add it to `losses` where a comment says so. To
          take another loss, replace both calls of `optax.softmax_cross_entropy`.
          Weights apply, and the training loss in the log is that of `losses`.
        - To add a penalty on the parameters, which all examples share, add
          `len(batch.labels) * penalty` to the returned loss. The log does not contain
          it. A penalty leaves out the parameters that are not trained, whose names are
          in `NOT_TRAINED` (`models/parameters.py`).

        A validation does not call the objective. Its loss is the cross-entropy of the
        last logits (`score_logits` in `evaluation/scoring.py`), without label
        smoothing, weights, earlier time steps, or any term that is added here.
        `train.patience` compares this loss. The choice of the best checkpoint compares
        validation accuracies (`runs/selection.py`).

        References:
            Szegedy, Vanhoucke, Ioffe, Shlens, Wojna, "Rethinking the Inception
            Architecture for Computer Vision", CVPR 2016, for label smoothing.
        """
        labels, lengths = batch.labels, batch.lengths
        outputs = self.model.apply(
            {"params": params},
            batch.inputs,
            lengths,
            every_step=self.every_step,
            keys=batch.keys,
        )
        logits = jnp.asarray(outputs)  # for type checkers: `apply` can return a pair
        one_hot = jax.nn.one_hot(labels, logits.shape[-1])
        targets = optax.smooth_labels(one_hot, self.label_smoothing)
        if self.every_step:  # logits are [batch, time, classes]
            # The targets are the same at all time steps: [batch, 1, classes].
            over_time = optax.softmax_cross_entropy(logits, targets[:, None])
            losses = average_over_time(over_time, lengths)
            last_logits = select_last(logits.swapaxes(0, 1), lengths)
        else:  # logits are [batch, classes]
            losses = optax.softmax_cross_entropy(logits, targets)
            last_logits = logits
        # To add a term for each example, add it to `losses` here.
        metrics = apply_metrics((accuracy, *self.metrics), last_logits, labels)
        sums = {name: values.sum() for name, values in metrics.items()}
        sums["loss"] = losses.sum()  # without weights
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
