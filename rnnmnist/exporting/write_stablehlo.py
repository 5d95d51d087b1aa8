"""Writes the StableHLO program: the network as jax compiles it, with its parameters."""

from pathlib import Path
from typing import Any

import jax.export
import jax.numpy as jnp
import numpy as np

from rnnmnist.data.examples import Normalization
from rnnmnist.evaluation.network import TrainedNetwork
from rnnmnist.runtime.jax_defaults import jax_defaults
from rnnmnist.runtime.mesh import split_ensemble

PLATFORMS = ("cpu", "cuda", "tpu")


@jax_defaults()
def write(network: TrainedNetwork, path: Path) -> None:
    """Writes the function from `exported_inputs` to logits.

    It takes any number of examples and, of sequences, of time steps. On every platform,
    matrix products have the precision of `execution.precision`, by default float32.
    """
    task = network.task
    members = split_ensemble(jax.device_get(network.params))
    # A symbolic time can be divided into blocks of one time step only. Without blocks,
    # the arrays of linear recurrences would not stay in cache.
    usual = network.model.execution
    model = network.model.clone(
        execution=usual._replace(unroll=1, parallel_scan=False, remat_steps=1)
    )

    def logits(examples: jax.Array, *lengths: jax.Array) -> jax.Array:
        if task.image_shape:
            inputs = network.view(examples)
        else:
            inputs = normalize(network.normalization, examples, *lengths)
        # Flax's type of `apply` includes state that it could change.
        results: Any = [
            model.apply({"params": params}, inputs, *lengths) for params in members
        ]
        result = results[0]
        if len(results) > 1:  # the logits are those that `combine` returns
            sums = jax.nn.logsumexp(jax.nn.log_softmax(jnp.stack(results)), axis=0)
            result = sums - np.log(len(results))
        # Gates would hide an input that is NaN or infinite.
        finite = jnp.isfinite(inputs).all((1, 2))[:, None]
        return jnp.where(finite, result, jnp.nan)

    count, time = jax.export.symbolic_shape("examples, time")
    if task.image_shape:
        specs = [jax.ShapeDtypeStruct((count, *task.image_shape), np.uint8)]
    else:
        specs = [
            jax.ShapeDtypeStruct((count, time, task.features), np.float32),
            jax.ShapeDtypeStruct((count,), np.int32),
        ]
    exported = jax.export.export(jax.jit(logits), platforms=PLATFORMS)(*specs)
    path.write_bytes(exported.serialize())


def normalize(
    normalization: Normalization, values: jax.Array, lengths: jax.Array
) -> jax.Array:
    """Standardizes sequences and fills missing values, as `Normalization` does."""
    exact = normalization.mean[None, None]
    std = normalization.std[None, None]
    mean = exact.astype(np.float32)
    # The program has no float64, so that the mean is the sum of two float32 numbers.
    error = (mean - exact).astype(np.float32)
    # Without the barrier, XLA folds the two constants into one.
    deviations = jax.lax.optimization_barrier(values - mean) + error
    inputs = deviations / std.astype(np.float32)
    times = jnp.arange(inputs.shape[1])[None, :, None]
    if normalization.missing == "forward_fill":
        valid = jnp.where(jnp.isnan(inputs), 0, times)
        last = jax.lax.cummax(valid, axis=1)
        inputs = jnp.take_along_axis(inputs, last, axis=1)
    if normalization.missing != "error":
        inputs = jnp.where(jnp.isnan(inputs), 0, inputs)
    return jnp.where(times < lengths[:, None, None], inputs, 0)
