"""The logits of networks for any number of examples, and what follows from them.

The trainer and all commands but `predict --stream` obtain their logits here.
"""

import functools
import math
from collections.abc import Iterator
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding

from rnnmnist.data.examples import Inputs, View, find_padding
from rnnmnist.errors import RunError
from rnnmnist.models.classifier import Classifier
from rnnmnist.models.filters import THRESHOLDS
from rnnmnist.models.parameters import Params
from rnnmnist.runtime.jax_defaults import jax_defaults
from rnnmnist.runtime.mesh import (
    BATCH,
    ENSEMBLE,
    map_ensemble,
    put_global,
    replicated_sharding,
)

# The bytes and the batches of a chunk, at most, unless a single batch is larger.
CHUNK_BYTES = 1 << 20
CHUNK_BATCHES = 8
SHORTEST_PADDED = 64  # time steps
# The bytes of hidden states after all time steps of a batch, at most, unless a single
# example has more. This is for recurrences with thousands of hidden states.
EVERY_STEP_BYTES = 1 << 28
# A chunk of batches: values as `Inputs.take` returns them, [batches, batch, ...], and
# lengths, int32 [batches, batch]; None: no padding.
Batches = tuple[jax.Array, jax.Array | None]


def nonfinite_logits_error(subject: str) -> RunError:
    """Returns the error that a sequence has logits which are infinite or NaN."""
    return RunError(
        f"the network has no prediction for {subject}, because the logits are not "
        "finite; correct values that are too large, or train with a lower "
        "train.learning_rate"
    )


@jax_defaults()
def predict_logits(
    model: Classifier,
    params: Params,
    inputs: Inputs,
    view: View,
    mesh: Mesh,
    *,
    every_step: bool = False,
) -> np.ndarray:
    """Returns the logits of each network for every example, on every process.

    They are float32 [ensemble, examples, classes] after the last time step, or with
    `every_step` [ensemble, examples, time, classes]. Counts do not depend on the size
    of a device's batch, the loss only by rounding.

    Raises:
        RunError: if logits are not finite; it names the first such example.
    """
    chunks = compute_chunks(model, params, inputs, view, mesh, every_step=every_step)
    logits = np.concatenate(list(chunks), axis=1)
    if every_step and inputs.are_sequences:
        logits = logits[:, :, : inputs.time_steps]  # not those of further padding
    check_finite(logits, inputs)
    return logits


def compute_chunks(
    model: Classifier,
    params: Params,
    inputs: Inputs,
    view: View,
    mesh: Mesh,
    *,
    every_step: bool = False,
    method: Literal["hidden"] | None = None,
) -> Iterator[np.ndarray]:
    """Yields logits, or with the method `hidden` what the head reads, chunk by chunk.

    An item is float32 [ensemble, part of the examples, ...]. The examples are copied to
    the devices in chunks of batches, each of which is sharded over the mesh's axis
    `batch`.

    A program is compiled for each shape of a chunk, which takes seconds. Inputs, whose
    number and length can differ in each call, are padded so that few programs serve all
    calls: `choose_time_steps` and `choose_chunk` say to which shapes.
    """
    time_steps = inputs.time_steps  # of images, their rows
    if inputs.are_sequences:
        time_steps = choose_time_steps(time_steps, model.input_shape[0])
    shape = choose_chunk(
        inputs, time_steps, model, mesh.shape[BATCH], every_step=every_step
    )
    chunk_size = math.prod(shape)
    for start in range(0, len(inputs), chunk_size):
        part = slice(start, start + chunk_size)
        batches, used = make_chunk(inputs, part, shape, time_steps, mesh)
        outputs = predict_batches(
            params,
            batches,
            used,
            model=model,
            view=view,
            mesh=mesh,
            every_step=every_step,
            method=method,
        )
        ensemble, _, _, *rest = outputs.shape
        joined = jax.device_get(outputs).reshape(ensemble, chunk_size, *rest)
        yield joined[:, : len(inputs) - start]  # not those of the zeros at the end


def choose_chunk(
    inputs: Inputs,
    time_steps: int,
    model: Classifier,
    shards: int,
    *,
    every_step: bool,
) -> tuple[int, int]:
    """Returns the number of batches in a chunk, and the examples of a batch.

    A chunk is what is copied to the devices and computed in one call of a program. For
    each device, a batch is of 1, of a quarter of `eval_batch_size` or of all of it. The
    last batches of a chunk can be empty. They take no time but that of a copy, for
    which chunks of large examples have fewer batches.
    """
    largest = model.execution.eval_batch_size
    if every_step and model.config.is_closed_form:
        # Filters have thousands of hidden states for each example and time step.
        state_bytes = 4 * (THRESHOLDS + 1) * model.config.hidden_size
        sequence_bytes = state_bytes * max(time_steps, model.input_shape[0])
        largest = max(1, min(largest, EVERY_STEP_BYTES // sequence_bytes))
    count = math.ceil(len(inputs) / shards)
    quarter = max(1, largest // 4)
    if count == 1:
        batch_size = shards
    elif count <= 2 * quarter:  # for which one batch of the largest would take longer
        batch_size = shards * quarter
    else:
        batch_size = shards * largest
    time_step_bytes = inputs.take(np.arange(1)).nbytes // inputs.time_steps
    batches = CHUNK_BYTES // (batch_size * time_step_bytes * time_steps)
    return min(max(1, batches), CHUNK_BATCHES), batch_size


def choose_time_steps(longest: int, trained: int) -> int:
    """Returns to how many time steps sequences are padded, of which `longest` has most.

    They are 64 or the next power of two, so that few programs serve all lengths; or
    those of the longest sequence of the training, `trained`, if these are fewer and
    suffice.
    """
    padded = max(SHORTEST_PADDED, 1 << (longest - 1).bit_length())
    return min(padded, trained) if longest <= trained else padded


def make_chunk(
    inputs: Inputs, part: slice, shape: tuple[int, int], time_steps: int, mesh: Mesh
) -> tuple[Batches, jax.Array]:
    """Returns a chunk of inputs on the devices, and how many of its batches are used.

    The last one of these is filled with examples of zeros. The shape is that of
    `choose_chunk`.
    """
    values = inputs.take(part)
    count = len(values)
    missing = (0, math.prod(shape) - count)
    further = (0, time_steps - inputs.time_steps)
    lengths = None
    if inputs.are_sequences:
        lengths = find_lengths(inputs, inputs.time_steps)[part]
        lengths = np.pad(lengths, missing, constant_values=1)

    def put_batches(array: np.ndarray) -> jax.Array:
        batches = array.reshape(*shape, *array.shape[1:])
        return put_global(batches, NamedSharding(mesh, jax.P(None, BATCH)))

    filled = np.pad(values, (missing, further, (0, 0)))
    batches = jax.tree.map(put_batches, (filled, lengths))
    _, batch_size = shape
    used = np.int32(math.ceil(count / batch_size))
    return batches, put_global(used, replicated_sharding(mesh))


def find_lengths(inputs: Inputs, time_steps: int) -> np.ndarray:
    """Returns the time steps of each example before its padding, int32 [examples].

    Examples without padding have all of `time_steps`.
    """
    if inputs.lengths is None:
        return np.full(len(inputs), time_steps, np.int32)
    return inputs.lengths


def check_finite(logits: np.ndarray, inputs: Inputs) -> None:
    """Raises a `RunError` unless all logits before padding are finite.

    They are [ensemble, examples, classes], or [ensemble, examples, time, classes].
    """
    is_finite = np.isfinite(logits).all(axis=-1)
    if is_finite.ndim == 3:
        time_steps = logits.shape[2]
        is_finite |= find_padding(time_steps, find_lengths(inputs, time_steps))
        is_finite = is_finite.all(axis=-1)
    if not is_finite.all():
        position = int(is_finite.all(axis=0).argmin())
        raise nonfinite_logits_error(f"example {inputs.name(position)}")


@functools.partial(
    jax.jit, static_argnames=("model", "view", "mesh", "every_step", "method")
)
def predict_batches(
    params: Params,
    batches: Batches,
    count: jax.Array,
    *,
    model: Classifier,
    view: View,
    mesh: Mesh,
    every_step: bool,
    method: Literal["hidden"] | None = None,
) -> jax.Array:
    """Computes float32 logits [ensemble, batches, batch, (time,) classes] in one call.

    With the method `hidden`, it computes what the head reads instead.

    The first `count` batches, int32, are computed; the logits of the others are 0. The
    mesh axis `ensemble` divides the ensemble, the mesh axis `batch` the second axis of
    the batches. The logits are replicated.
    """

    def predict_shard(params: Params, batches: Batches) -> jax.Array:
        def predict_one_batch(params: Params, index: jax.Array | int) -> jax.Array:
            stored, lengths = jax.tree.map(lambda leaf: leaf[index], batches)
            variables = {"params": params}
            logits = model.apply(
                variables, view(stored), lengths, every_step=every_step, method=method
            )
            return jnp.asarray(logits)

        def predict_member(params: Params) -> jax.Array:
            def add_batch(index: jax.Array, logits: jax.Array) -> jax.Array:
                return logits.at[index].set(predict_one_batch(params, index))

            shape = jax.eval_shape(predict_one_batch, params, 0).shape
            stored, _ = batches
            empty = jnp.zeros((len(stored), *shape))
            return jax.lax.fori_loop(0, count, add_batch, empty)

        map_members = map_ensemble(predict_member, model.execution.vectorize_ensemble)
        logits: jax.Array = map_members(params)
        return logits

    run = jax.shard_map(
        predict_shard,
        mesh=mesh,
        in_specs=(jax.P(ENSEMBLE), jax.P(None, BATCH)),
        out_specs=jax.P(ENSEMBLE, None, BATCH),
        check_vma=False,
    )
    logits = run(params, batches)
    return jax.lax.with_sharding_constraint(logits, replicated_sharding(mesh))


def decision_times(predicted: np.ndarray) -> np.ndarray:
    """Returns the time step, from 1, after which a prediction no longer changes.

    Predictions are classes after each time step, int [examples, time].
    """
    same = predicted[:, ::-1] == predicted[:, -1:]
    return predicted.shape[1] - np.cumprod(same, axis=1).sum(axis=1) + 1
