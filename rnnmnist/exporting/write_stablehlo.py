"""Writes the StableHLO program: a `DeployedNetwork` with its parameters."""

from pathlib import Path

import jax.export
import numpy as np

from rnnmnist.evaluation.deployed import DeployedNetwork
from rnnmnist.evaluation.network import TrainedNetwork
from rnnmnist.runtime.jax_defaults import jax_defaults

PLATFORMS = ("cpu", "cuda", "tpu")


@jax_defaults()
def write(network: TrainedNetwork, path: Path) -> None:
    """Writes a `DeployedNetwork`.

    It takes any number of examples and, of sequences, of time steps. On every platform,
    matrix products have the precision of `execution.precision`, by default float32.
    """
    task = network.task
    # A symbolic time can be divided into blocks of one time step only. Without blocks,
    # the arrays of linear recurrences would not stay in cache.
    usual = network.model.execution
    model = network.model.clone(
        execution=usual._replace(unroll=1, parallel_scan=False, remat_steps=1)
    )
    params = jax.device_get(network.params)
    deployed = DeployedNetwork(
        model, params, network.multiplier, network.view, network.normalization
    )
    count, time = jax.export.symbolic_shape("examples, time")
    if task.image_shape:
        specs = [jax.ShapeDtypeStruct((count, *task.image_shape), np.uint8)]
    else:
        specs = [
            jax.ShapeDtypeStruct((count, time, task.features), np.float32),
            jax.ShapeDtypeStruct((count,), np.int32),
        ]
    exported = jax.export.export(jax.jit(deployed), platforms=PLATFORMS)(*specs)
    path.write_bytes(exported.serialize())
