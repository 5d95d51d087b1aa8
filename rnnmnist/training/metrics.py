"""Metrics of training and validation, beside the loss and the accuracy.

To add a metric, write a function here and name it in `METRICS`. Its mean over examples
is then in the lines of training and of validation in `metrics.jsonl`, under the name
of the function. The probability of the predicted class, as an example:

```python
def confidence(logits, labels):
    return jax.nn.softmax(logits).max(axis=-1)


METRICS = (confidence,)
```
"""

import functools
from collections.abc import Callable, Iterable

import jax
import jax.numpy as jnp
import numpy as np

# Takes logits, float32 [examples, classes], of which an example has one row, and
# labels, int32 [examples]. Returns one number for each example, float32 [examples].
Metric = Callable[[jax.Array, jax.Array], jax.Array]

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
            name: tuple(np.mean(rows, axis=1, dtype=float).tolist())
            for name, rows in values.items()
        }
