"""Metrics of training and validation: functions of logits and labels.

To add a metric, write a function like `accuracy` here, and name it in `METRICS`. Its
mean over examples is then in the lines of training and of validation in
`metrics.jsonl`: in `means`, under the name of the function, with a number for each
network. Random filters have it for a validation split only.
"""

import functools
from collections.abc import Callable, Iterable

import jax
import jax.numpy as jnp
import numpy as np

# A function with a unique name; `loss`, `accuracy`, `grad_norm` and `param_norm` are
# taken. It maps logits after the last time step, float32 [examples, classes], and
# labels, int32 [examples], to one number for each example, [examples].
Metric = Callable[[jax.Array, jax.Array], jax.Array]


def accuracy(logits: jax.Array, labels: jax.Array) -> jax.Array:
    """Returns whether predictions are correct, bool [examples]."""
    return logits.argmax(axis=-1) == labels


# The metrics that are logged in addition to the loss and the accuracy.
METRICS: tuple[Metric, ...] = ()


def apply_metrics(
    metrics: Iterable[Metric], logits: jax.Array, labels: jax.Array
) -> dict[str, jax.Array]:
    """Returns the values of each metric, float32 [examples], by its name."""
    with jax.numpy_dtype_promotion("standard"):  # a process can have another one
        return {
            metric.__name__: jnp.asarray(metric(logits, labels), jnp.float32)
            for metric in metrics
        }


def average_metrics(
    metrics: Iterable[Metric], logits: np.ndarray, labels: np.ndarray
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
