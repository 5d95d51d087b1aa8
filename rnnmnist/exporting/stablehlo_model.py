"""Serializes trained networks as StableHLO programs, and loads the programs."""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.export
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
def serialize(network: Network) -> bytes:
    """Returns the StableHLO program of a network, the content of `model.stablehlo`.

    The program computes `compute_logits` for any number of examples. Sequences can have
    any number of time steps. Matrix products use
    `execution.precision` on all platforms, by default float32.
    """
    task = network.task
    # A symbolic number of time steps can only be divided into blocks of one time step,
    # although larger blocks would keep the arrays of linear recurrences in cache.
    cpu_execution = Execution.create(network.config, "cpu")
    execution = cpu_execution._replace(
        unroll=1, parallel_scan=False, remat_time_steps=1
    )
    model = make_model(network.config.model, task, execution)
    num_examples, time_steps = jax.export.symbolic_shape("examples, time")
    if task.image_shape:
        input_specs = [
            jax.ShapeDtypeStruct((num_examples, *task.image_shape), np.uint8)
        ]
    else:
        input_specs = [
            jax.ShapeDtypeStruct((num_examples, time_steps, task.features), np.float32),
            jax.ShapeDtypeStruct((num_examples,), np.int32),
        ]
    program = jax.jit(functools.partial(compute_logits, network, model))
    exported = jax.export.export(program, platforms=PLATFORMS)(*input_specs)
    return bytes(exported.serialize())


def deserialize(content: bytes) -> Callable[..., jax.Array]:
    """Loads a StableHLO program as a function that maps inputs to logits."""
    exported = jax.export.deserialize(bytearray(content))
    return jax.jit(exported.call)


def compute_logits(
    network: Network,
    model: Classifier,
    examples: jax.Array,
    lengths: jax.Array | None = None,
) -> jax.Array:
    """Computes the calibrated logits of a network or ensemble, float32 [n, classes].

    The ONNX model performs the same operations. `Network.logits` calls the same
    functions, but normalizes sequences on the host, because sequences can be float64
    and memory-mapped.

    Args:
        network: the network, with parameters, normalization and temperature.
        model: the Flax module of the network.
        examples: images, uint8 [n, rows, columns], or sequences, float32 [n, time,
            features], with missing values as NaN.
        lengths: int32 [n], the number of time steps in each sequence, excluding
            padding. None for images.
    """
    if lengths is None:
        inputs = network.view(examples)
    else:
        with double_precision():
            standardized = network.normalization.standardize(examples)
        inputs = network.normalization.fill(standardized, lengths)

    def predict_member(params: Params) -> Any:  # as annotated by Flax
        return model.apply({"params": params}, inputs, lengths)

    predict_members = map_ensemble(predict_member, vectorize=False)
    member_logits: jax.Array = predict_members(network.params)
    return combine_members(member_logits) / network.temperature
