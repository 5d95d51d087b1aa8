"""The training loss."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax

from rnnmnist.config.functions import Function
from rnnmnist.config.resolving import RunTrainConfig
from rnnmnist.config.tasks import Task
from rnnmnist.data.batches import Batch
from rnnmnist.models.classifier import Classifier
from rnnmnist.models.networks import LOSSES
from rnnmnist.models.parameters import Params
from rnnmnist.models.recurrent_layer import select_last
from rnnmnist.training.metric_functions import accuracy, apply_metrics


def cross_entropy(
    logits: jax.Array, labels: jax.Array, *, label_smoothing: float
) -> jax.Array:
    """Returns the cross-entropy of each example, in nats.

    Args:
        logits: float32 [..., classes].
        labels: int32 [...], which is broadcast to the leading axes of the logits.
        label_smoothing: the probability that is spread evenly over all classes.

    References:
        Szegedy, Vanhoucke, Ioffe, Shlens, Wojna, "Rethinking the Inception
        Architecture for Computer Vision", CVPR 2016, for label smoothing.
    """
    one_hot = jax.nn.one_hot(labels, logits.shape[-1])
    targets = optax.smooth_labels(one_hot, label_smoothing)
    return optax.softmax_cross_entropy(logits, targets)


# The losses of the package, by the values of `train.loss`. Of `every_step`, the
# objective takes the mean over all time steps.
LOSS_FUNCTIONS = {"last": cross_entropy, "every_step": cross_entropy}


@dataclasses.dataclass(frozen=True)
class Objective:
    """The minimized loss, as a function of parameters and a batch.

    The fields are static arguments of the compiled training step.
    """

    model: Classifier
    loss: Function  # of logits and labels; returns [batch]
    every_step: bool = False  # takes the mean of the losses after all time steps
    metrics: tuple[Function, ...] = ()  # beside the loss and the accuracy

    def __call__(
        self, params: Params, batch: Batch
    ) -> tuple[jax.Array, dict[str, jax.Array]]:
        """Returns the minimized loss, float32 [], and metrics, which are logged.

        The loss and the metrics are sums over examples: in training, over one device's
        shard of the batch. The training step adds up the shards, and divides by the
        size of the batch. The minimized loss is the sum of the losses of the examples,
        multiplied by their weights.

        - The penalties that a user's cell or network sows are added to the minimized
          loss. The log and weights of examples leave them out.
        - To add a penalty on the parameters, which all examples share, add
          `len(batch.labels) * penalty` to the returned loss. The log does not contain
          it. A penalty leaves out the parameters that are not trained, whose names are
          in `NOT_TRAINED` (`models/parameters.py`).

        A validation does not call the objective. Its loss is the user's loss, or the
        cross-entropy of the last logits without label smoothing. Weights, earlier time
        steps and penalties are left out. `train.patience` compares this loss. The
        choice of the best checkpoint compares validation accuracies
        (`runs/selection.py`).
        """
        labels, lengths = batch.labels, batch.lengths
        penalty: jax.Array | float = 0.0
        is_network = self.model.config.network is not None
        if not is_network:
            logits, sown = self.model.apply(
                {"params": params},
                batch.inputs,
                lengths,
                every_step=self.every_step,
                keys=batch.keys,
                mutable=[LOSSES],
            )
        if is_network or sown:
            logits, penalty = self.apply_by_example(params, batch)
        if self.every_step:  # logits are [batch, time, classes]
            # The label is the same at all time steps: [batch, 1].
            losses = average_over_time(self.loss(logits, labels[:, None]), lengths)
            last_logits = select_last(logits.swapaxes(0, 1), lengths)
        else:  # logits are [batch, classes]
            with jax.numpy_dtype_promotion("standard"):  # a process can have another
                losses = self.loss(logits, labels)
            last_logits = logits
        sums = apply_metrics(self.metrics, last_logits, labels)
        sums["accuracy"] = accuracy(last_logits, labels)
        sums["loss"] = losses  # without weights
        sums = {name: values.sum() for name, values in sums.items()}
        if batch.weights is not None:
            losses *= batch.weights
        return losses.sum() + penalty, sums

    def apply_by_example(
        self, params: Params, batch: Batch
    ) -> tuple[jax.Array, jax.Array]:
        """Computes the logits of a user's network, or of a cell that sows penalties.

        The model is mapped over examples, each of which has its own key. So the random
        numbers and penalties of an example do not depend on the other examples of a
        device. Returns the logits and the sum of all penalties.
        """
        model = self.model

        def apply(
            inputs: jax.Array, length: jax.Array | None, key: jax.Array | None
        ) -> tuple[jax.Array, jax.Array]:
            outputs, sown = model.apply(
                {"params": params},
                inputs[None],
                None if length is None else length[None],
                every_step=self.every_step,
                keys=None if key is None else key[None],
                rngs=None if key is None else {"dropout": key},
                mutable=[LOSSES],
            )
            penalties = jax.tree.leaves(sown)
            if length is not None and model.config.network is None:
                # A cell also sows penalties in the padding, which do not count.
                end = -(-length // model.config.stride)  # time steps of the cell
                penalties = [
                    jnp.where(jnp.arange(len(each)) < end, each.T, 0)
                    for each in penalties
                ]
            return outputs[0], sum(map(jnp.sum, penalties), jnp.zeros(()))

        logits, penalties = jax.vmap(apply)(batch.inputs, batch.lengths, batch.keys)
        return logits, penalties.sum()


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
