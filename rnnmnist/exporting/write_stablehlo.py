"""Writes a StableHLO program: a network and its parameters as one function."""

import functools
from pathlib import Path
from typing import Any

import jax
import jax.export
import jax.numpy as jnp
import numpy as np

from rnnmnist.config.platforms import Execution
from rnnmnist.evaluation.network import Network
from rnnmnist.evaluation.probabilities import combine_members
from rnnmnist.models.classifier import Classifier, make_model
from rnnmnist.models.parameters import Params
from rnnmnist.runtime.jax_defaults import double_precision, jax_defaults
from rnnmnist.runtime.mesh import map_ensemble

PLATFORMS = ("cpu", "cuda", "tpu")


@jax_defaults()
def write(run: Network, path: Path) -> None:
    """Writes `compute_logits` for the network of a run.

    The program accepts any number of examples and, for sequences, of time steps. Its
    matrix products use `execution.precision` on all platforms, by default float32.
    """
    task = run.task
    # Blocks keep the arrays of linear recurrences in cache. A symbolic number of time
    # steps is divisible only into blocks of one time step.
    default = Execution.create(run.config, "cpu")
    execution = default._replace(unroll=1, parallel_scan=False, remat_time_steps=1)
    model = make_model(run.config.model, task, execution)
    count, time = jax.export.symbolic_shape("examples, time")
    if task.image_shape:
        specs = [jax.ShapeDtypeStruct((count, *task.image_shape), np.uint8)]
    else:
        specs = [
            jax.ShapeDtypeStruct((count, time, task.features), np.float32),
            jax.ShapeDtypeStruct((count,), np.int32),
        ]
    program = jax.jit(functools.partial(compute_logits, run, model))
    exported = jax.export.export(program, platforms=PLATFORMS)(*specs)
    path.write_bytes(exported.serialize())


def compute_logits(
    run: Network,
    model: Classifier,
    examples: jax.Array,
    lengths: jax.Array | None = None,
) -> jax.Array:
    """Computes the calibrated logits of a network or ensemble, float32 [n, classes].

    The ONNX model performs the same operations. `Network.logits` calls the same
    functions, but normalizes sequences on the host, because sequences can be float64
    and memory-mapped. If an example contains NaN or infinite inputs after missing
    values are filled, all its logits are NaN.

    Args:
        run: the run, with the parameters of the network.
        model: the network.
        examples: images, uint8 [n, rows, columns], or sequences, float32 [n, time,
            features], with missing values as NaN.
        lengths: int32 [n], the time steps of each sequence before its padding; None for
            images.
    """
    if lengths is None:
        inputs = run.view(examples)
    else:
        with double_precision():
            standardized = run.normalization.standardize(examples)
        inputs = run.normalization.fill(standardized, lengths)

    def predict_member(params: Params) -> Any:  # Flax returns `Any` or a tuple
        return model.apply({"params": params}, inputs, lengths)

    predict_members = map_ensemble(predict_member, vectorize=False)
    members: jax.Array = predict_members(run.params)
    logits = combine_members(members) / run.temperature
    # Gates would hide NaN and infinite inputs.
    is_finite = jnp.isfinite(inputs).all((1, 2))
    return jnp.where(is_finite[:, None], logits, jnp.nan)
