"""Writes the StableHLO program: a network as one function, with its parameters."""

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
    """Writes `compute_logits` of the network of a run.

    It takes any number of examples and, of sequences, of time steps. On every platform,
    matrix products have the precision of `execution.precision`, by default float32.
    """
    task = run.task
    # A symbolic time can be divided into blocks of one time step only. Without blocks,
    # the arrays of linear recurrences would not stay in cache.
    usual = Execution.create(run.config, "cpu")
    execution = usual._replace(unroll=1, parallel_scan=False, remat_time_steps=1)
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
    """Returns the calibrated logits of a network or ensemble, float32 [n, classes].

    An ONNX model has the same steps. `Network.logits` takes them with the same
    functions, but not in one program: it reads sequences in float64 and memory maps in
    parts, so the host normalizes them. If the inputs of an example are not finite after
    missing values are filled, all its logits are NaN here.

    Args:
        run: the run, with the parameters of the network.
        model: the network.
        examples: images, uint8 [n, rows, columns]; or sequences, float32 [n, time,
            features], whose missing values are NaN.
        lengths: int32 [n], the time steps of each sequence before its padding; None for
            images.
    """
    if lengths is None:
        inputs = run.view(examples)
    else:
        with double_precision():
            standardized = run.normalization.standardize(examples)
        inputs = run.normalization.fill(standardized, lengths)

    def predict_member(params: Params) -> Any:  # Flax's type of `apply` is wider
        return model.apply({"params": params}, inputs, lengths)

    predict_members = map_ensemble(predict_member, vectorize=False)
    members: jax.Array = predict_members(run.params)
    logits = combine_members(members) / run.temperature
    # Gates would hide an input that is NaN or infinite.
    is_finite = jnp.isfinite(inputs).all((1, 2))
    return jnp.where(is_finite[:, None], logits, jnp.nan)
