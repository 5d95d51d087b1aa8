"""Accuracy, and custom metrics of training and validation.

The setting `train.metrics` names custom metrics. A custom metric maps logits after the
last time step, float32 [examples, classes], and labels, int32 [examples], to one value
per example, [examples]. Training and validation lines of `metrics.jsonl` contain the
mean over examples, with one value per ensemble member, under the key `metrics`.
"""

import functools
from collections.abc import Iterable

import jax
import jax.numpy as jnp
import numpy as np

from rnnmnist.config.functions import Function, short_name


def accuracy(logits: jax.Array, labels: jax.Array) -> jax.Array:
    """Returns 1 for each correct prediction and 0 otherwise, float32 [examples]."""
    return jnp.asarray(logits.argmax(axis=-1) == labels, jnp.float32)


def apply_metrics(
    metrics: Iterable[Function], logits: jax.Array, labels: jax.Array
) -> dict[str, jax.Array]:
    """Returns the values of each metric by name, float32 [examples]."""
    # The user may have set strict dtype promotion for the process.
    with jax.numpy_dtype_promotion("standard"):
        return {
            short_name(metric): jnp.asarray(metric(logits, labels), jnp.float32)
            for metric in metrics
        }


def average_metrics(
    metrics: Iterable[Function], logits: np.ndarray, labels: np.ndarray
) -> dict[str, tuple[float, ...]]:
    """Averages each metric over examples, separately for each ensemble member.

    Logits are float32 [ensemble, examples, classes]; labels are int32 [examples].
    """
    with jax.transfer_guard("allow"):  # implicit copies, disallowed by the loop
        apply = functools.partial(apply_metrics, metrics, labels=jnp.asarray(labels))
        values = jax.vmap(apply)(jnp.asarray(logits))
        return {
            name: tuple(np.asarray(rows).mean(axis=1, dtype=float).tolist())
            for name, rows in values.items()
        }
