"""Metrics of training and validation: functions of logits and labels.

The setting `train.metrics` names functions of the user. They map logits after the last
time step, float32 [examples, classes], and labels, int32 [examples], to one number for
each example, [examples]. The mean over examples is in the lines of training and of
validation in `metrics.jsonl`: in `means`, with a number for each network.
"""

import functools
from collections.abc import Iterable

import jax
import jax.numpy as jnp
import numpy as np

from rnnmnist.config.functions import Function, label


def accuracy(logits: jax.Array, labels: jax.Array) -> jax.Array:
    """Returns whether predictions are correct, float32 [examples]."""
    return jnp.asarray(logits.argmax(axis=-1) == labels, jnp.float32)


def apply_metrics(
    metrics: Iterable[Function], logits: jax.Array, labels: jax.Array
) -> dict[str, jax.Array]:
    """Returns the values of each metric, float32 [examples], by its name."""
    with jax.numpy_dtype_promotion("standard"):  # a process can have another one
        return {
            label(metric): jnp.asarray(metric(logits, labels), jnp.float32)
            for metric in metrics
        }


def average_metrics(
    metrics: Iterable[Function], logits: np.ndarray, labels: np.ndarray
) -> dict[str, tuple[float, ...]]:
    """Returns the mean of each metric over examples, for each network of an ensemble.

    Logits are float32 [ensemble, examples, classes], and labels int32 [examples].
    """
    with jax.transfer_guard("allow"):  # the training loop disallows implicit copies
        apply = functools.partial(apply_metrics, metrics, labels=jnp.asarray(labels))
        values = jax.vmap(apply)(jnp.asarray(logits))
        return {
            name: tuple(np.asarray(rows).mean(axis=1, dtype=float).tolist())
            for name, rows in values.items()
        }
