"""Computes the accuracy and custom metrics during training and validation.

The setting `train.metrics` specifies the custom metrics. A custom metric maps the final
logits, float32 [examples, classes], and labels, int32 [examples], to one value per
example, [examples]. In the training and validation lines of `metrics.jsonl`, the key
`metrics` contains the mean over examples for each ensemble member.
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
    """Computes the values of each metric, by name, float32 [examples]."""
    # The user's process may have enabled strict dtype promotion.
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
    with jax.transfer_guard("allow"):  # the loop disallows implicit copies
        apply = functools.partial(apply_metrics, metrics, labels=jnp.asarray(labels))
        values = jax.vmap(apply)(jnp.asarray(logits))
        return {
            name: tuple(np.asarray(array).mean(axis=1, dtype=float).tolist())
            for name, array in values.items()
        }
