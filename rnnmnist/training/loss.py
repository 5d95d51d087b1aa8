"""The training objective: loss functions, example weights and penalties."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from rnnmnist.config.functions import Function, short_name
from rnnmnist.config.resolving import RunTrainConfig
from rnnmnist.config.tasks import Task
from rnnmnist.data.batches import Batch
from rnnmnist.models.classifier import Classifier
from rnnmnist.models.networks import LOSSES
from rnnmnist.models.parameters import Params
from rnnmnist.models.recurrent_layer import select_last


def cross_entropy(
    logits: jax.Array, labels: jax.Array, *, label_smoothing: float
) -> jax.Array:
    """Computes the cross-entropy of each example, in nats.

    Args:
        logits: float32 [..., classes].
        labels: int32 [...], broadcast to the leading axes of the logits.
        label_smoothing: share of the label probability that is spread evenly over all
            classes.

    References:
        For label smoothing: Szegedy, Vanhoucke, Ioffe, Shlens, Wojna, "Rethinking the
        Inception Architecture for Computer Vision", CVPR 2016.
    """
    one_hot = jax.nn.one_hot(labels, logits.shape[-1])
    targets = optax.smooth_labels(one_hot, label_smoothing)
    return optax.softmax_cross_entropy(logits, targets)


# Built-in values of `train.loss`. For `every_step`, the objective averages the loss
# over time.
LOSS_FUNCTIONS = {"last": cross_entropy, "every_step": cross_entropy}


@dataclasses.dataclass(frozen=True)
class Objective:
    """The training objective, a function of parameters and a batch.

    The fields are static arguments of the compiled training step.
    """

    model: Classifier
    # Maps logits and labels to losses, [batch] or, for `every_step`, [batch, time].
    loss: Function
    every_step: bool = False  # whether to average the losses over time
    metrics: tuple[Function, ...] = ()  # custom metrics, besides loss and accuracy

    def __call__(
        self, params: Params, batch: Batch
    ) -> tuple[jax.Array, dict[str, jax.Array]]:
        """Returns the objective, float32 [], and the metrics to log.

        The objective and the metrics are sums over the examples of one device's shard
        of the batch. The training step sums over the shards and divides by the batch
        size. The objective is the weighted sum of the example losses, plus penalties.
        The logged loss is unweighted and excludes penalties.

        - Penalties sown by a custom cell or network are added to the objective.
        - To add a penalty on the parameters, add `len(batch.labels) * penalty` to the
          returned objective. Exclude parameters that are not trained: `NOT_TRAINED` in
          `models/parameters.py` lists their names.

        Validation does not use the objective: `training/validation.py` computes the
        validation loss from the final logits, without weights and penalties.
        """
        labels, lengths = batch.labels, batch.lengths
        penalty: jax.Array | float = 0.0
        if not self.model.config.custom_functions:
            logits: Any = self.model.apply(  # Flax does not annotate the return type
                {"params": params},
                batch.inputs,
                lengths,
                every_step=self.every_step,
                keys=batch.keys,
            )
        else:
            logits, penalty = self.apply_per_example(params, batch)
        if self.every_step:  # logits are [batch, time, classes]
            # All time steps have the same label, so labels are [batch, 1].
            losses = average_over_time(self.loss(logits, labels[:, None]), lengths)
            final_logits = select_last(logits.swapaxes(0, 1), lengths)
        else:  # logits are [batch, classes]
            losses = self.loss(logits, labels)
            final_logits = logits
        values = {
            "loss": losses,  # unweighted
            "accuracy": final_logits.argmax(axis=-1) == labels,
            **{short_name(f): f(final_logits, labels) for f in self.metrics},
        }
        sums = {
            name: jnp.asarray(array, jnp.float32).sum()
            for name, array in values.items()
        }
        if batch.weights is not None:
            losses *= batch.weights
        return losses.sum() + penalty, sums

    def apply_per_example(
        self, params: Params, batch: Batch
    ) -> tuple[jax.Array, jax.Array]:
        """Applies the model separately to each example of the batch (`jax.vmap`).

        Used for custom cells and networks. The random numbers and penalties of an
        example therefore do not depend on the other examples on the device. Returns the
        logits, and the sum of all penalties.
        """
        model = self.model

        def apply(
            inputs: jax.Array, length: jax.Array | None, key: jax.Array | None
        ) -> tuple[jax.Array, jax.Array]:
            outputs, sown_penalties = model.apply(
                {"params": params},
                inputs[None],
                None if length is None else length[None],
                every_step=self.every_step,
                keys=None if key is None else key[None],
                rngs=None if key is None else {"dropout": key},
                mutable=[LOSSES],
            )
            penalties = jax.tree.leaves(sown_penalties)
            if length is not None and model.config.network is None:
                # Ignore penalties sown at padding time steps. The first axis of a
                # penalty is time; `.T` moves this axis to the end.
                end = -(-length // model.config.stride)  # the stride shortens sequences
                penalties = [
                    jnp.where(jnp.arange(len(penalty)) < end, penalty.T, 0)
                    for penalty in penalties
                ]
            return outputs[0], sum(map(jnp.sum, penalties), jnp.zeros(()))

        logits, penalties = jax.vmap(apply)(batch.inputs, batch.lengths, batch.keys)
        return logits, penalties.sum()


def average_over_time(losses: jax.Array, lengths: jax.Array | None) -> jax.Array:
    """Averages losses, [batch, time], over time, weighted by `time_weights`.

    Ignores losses in the padding. Returns the weighted means, [batch].
    """
    time_steps = losses.shape[1]
    if lengths is None:  # the weights are the same for all sequences
        weights = time_weights(time_steps)
        # The default precision of matrix products is lower on accelerators.
        return jnp.matmul(losses, weights, precision="float32")
    weights = jax.vmap(lambda length: time_weights(time_steps, length))(lengths)
    return (losses * weights).sum(axis=1)


def time_weights(time_steps: int, length: jax.Array | None = None) -> jax.Array:
    """Returns weights for the losses at all time steps, float32 [time].

    The weights increase quadratically over time, since the logits after the first time
    steps are based on little information. The weights sum to 1. In the padding, after
    `length` time steps, the weights are 0.
    """
    squares = jnp.arange(1, time_steps + 1, dtype=jnp.float32) ** 2
    if length is not None:
        squares = jnp.where(jnp.arange(time_steps) < length, squares, 0)
    return squares / squares.sum()


def compute_example_weights(
    config: RunTrainConfig, task: Task, labels: np.ndarray
) -> np.ndarray:
    """Returns the loss weights of training examples, float64 [examples].

    The weight of an example is the weight of its class. As in scikit-learn, balanced
    weights are inversely proportional to class frequencies, and their mean over all
    examples is 1. `labels` are the labels of the training split, int [examples].
    """
    if config.class_weight == "none":
        return np.ones(len(labels))
    if config.class_weight == "balanced":
        counts = np.bincount(labels)
        mean_count = len(labels) / np.count_nonzero(counts)  # per class that occurs
        return mean_count / counts[labels]
    class_weights = dict(config.class_weight)  # (class, weight) pairs
    return np.array([class_weights[name] for name in task.classes])[labels]
