"""Computes logits for any number of examples, in chunks of fixed shapes.

Validation and all commands except `predict --stream` use this module.
"""

import functools
import math
from collections.abc import Iterator
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding

from rnnmnist.data.examples import Inputs, View, padding_mask
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

# Upper limits on the size of a chunk. A chunk contains at least one batch.
MAX_CHUNK_BYTES = 1 << 20
MAX_CHUNK_BATCHES = 8
MIN_PADDED_TIME_STEPS = 64
# Upper limit on the hidden states of a batch over all time steps. A batch contains at
# least one example. The limit applies only to random filters, which have thousands of
# hidden units.
MAX_EVERY_STEP_BYTES = 1 << 28
# A chunk of batches: values from `Inputs.take`, [batches, batch, ...], and lengths,
# int32 [batches, batch]. Lengths are None for images.
Batches = tuple[jax.Array, jax.Array | None]


def nonfinite_logits_error(subject: str) -> RunError:
    """Returns the error for infinite or NaN logits."""
    return RunError(
        f"the network has no prediction for {subject} because the logits are not "
        "finite; check for very large input values, or train with a lower "
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
    """Computes logits for all examples, on every process.

    The logits are float32 [ensemble, examples, classes] after the last time step. If
    `every_step` is True, they are [ensemble, examples, time, classes]. The batch size
    per device does not affect the number of correct predictions, and affects the loss
    only through rounding.

    Raises:
        RunError: if a logit is not finite. The message contains the first affected
            example.
    """
    chunks = compute_chunks(model, params, inputs, view, mesh, every_step=every_step)
    logits = np.concatenate(list(chunks), axis=1)
    if every_step and inputs.are_sequences:
        logits = logits[:, :, : inputs.time_steps]  # remove padding
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
    method: Literal["compute_hidden"] | None = None,
) -> Iterator[np.ndarray]:
    """Yields logits in chunks; the inputs of the head if `method` is `hidden`.

    Each item is float32 [ensemble, examples in the chunk, ...]. Chunks of batches are
    copied to the devices; each batch is sharded over the mesh axis `batch`.

    Compiling a program for a new chunk shape takes seconds. Since the number and length
    of inputs vary between calls, inputs are padded to a small set of shapes
    (`choose_time_steps` and `choose_chunk`).
    """
    time_steps = inputs.time_steps  # rows of images
    if inputs.are_sequences:
        time_steps = choose_time_steps(time_steps, model.input_shape[0])
    shape = choose_chunk(
        inputs, time_steps, model, mesh.shape[BATCH], every_step=every_step
    )
    chunk_size = math.prod(shape)
    for start in range(0, len(inputs), chunk_size):
        part = slice(start, start + chunk_size)
        batches, num_batches = make_chunk(inputs, part, shape, time_steps, mesh)
        outputs = predict_batches(
            params,
            batches,
            num_batches,
            model=model,
            view=view,
            mesh=mesh,
            every_step=every_step,
            method=method,
        )
        ensemble, _, _, *rest = outputs.shape
        chunk = jax.device_get(outputs).reshape(ensemble, chunk_size, *rest)
        yield chunk[:, : len(inputs) - start]  # remove padding examples


def choose_chunk(
    inputs: Inputs,
    time_steps: int,
    model: Classifier,
    shards: int,
    *,
    every_step: bool,
) -> tuple[int, int]:
    """Returns the number of batches per chunk, and the number of examples per batch.

    Each chunk is copied to the devices and processed in one call to a compiled program.
    The batch size per device is 1, a quarter of `eval_batch_size`, or the full
    `eval_batch_size`. The last batches of a chunk may be empty. Empty batches are
    copied, but their logits are not computed. To limit the copying time, a chunk has
    fewer batches if the examples are large.
    """
    max_batch_size = model.execution.eval_batch_size
    if every_step and model.config.is_closed_form:
        # Filters have thousands of hidden units.
        state_bytes = 4 * (THRESHOLDS + 1) * model.config.hidden_size
        sequence_bytes = state_bytes * max(time_steps, model.input_shape[0])
        max_batch_size = max(
            1, min(max_batch_size, MAX_EVERY_STEP_BYTES // sequence_bytes)
        )
    num_examples = math.ceil(len(inputs) / shards)  # per device
    small_batch_size = max(1, max_batch_size // 4)
    if num_examples == 1:
        batch_size = shards
    elif num_examples <= 2 * small_batch_size:  # faster than one large batch
        batch_size = shards * small_batch_size
    else:
        batch_size = shards * max_batch_size
    time_step_bytes = inputs.take(np.arange(1)).nbytes // inputs.time_steps
    batches = MAX_CHUNK_BYTES // (batch_size * time_step_bytes * time_steps)
    return min(max(1, batches), MAX_CHUNK_BATCHES), batch_size


def choose_time_steps(max_length: int, max_training_length: int) -> int:
    """Returns the padded length of sequences with at most `max_length` time steps.

    The padded length is the next power of two, at least 64, so that few programs are
    compiled. If the length of the longest training sequence is smaller and sufficient,
    it is used instead.
    """
    length = max(MIN_PADDED_TIME_STEPS, 1 << (max_length - 1).bit_length())
    return (
        min(length, max_training_length)
        if max_length <= max_training_length
        else length
    )


def make_chunk(
    inputs: Inputs, part: slice, shape: tuple[int, int], time_steps: int, mesh: Mesh
) -> tuple[Batches, jax.Array]:
    """Copies a chunk of inputs to the devices, padded with zeros.

    `shape` is the result of `choose_chunk`. Returns the chunk, and the number of
    batches that contain examples.
    """
    values = inputs.take(part)
    count = len(values)
    pad_examples = (0, math.prod(shape) - count)
    pad_time = (0, time_steps - inputs.time_steps)
    lengths = None
    if inputs.are_sequences:
        lengths = find_lengths(inputs, inputs.time_steps)[part]
        lengths = np.pad(lengths, pad_examples, constant_values=1)

    def put_batches(array: np.ndarray) -> jax.Array:
        batches = array.reshape(*shape, *array.shape[1:])
        return put_global(batches, NamedSharding(mesh, jax.P(None, BATCH)))

    values = np.pad(values, (pad_examples, pad_time, (0, 0)))
    batches = jax.tree.map(put_batches, (values, lengths))
    _, batch_size = shape
    num_batches = np.int32(math.ceil(count / batch_size))
    return batches, put_global(num_batches, replicated_sharding(mesh))


def find_lengths(inputs: Inputs, time_steps: int) -> np.ndarray:
    """Returns the length of each example without padding, int32 [examples].

    If the inputs have no lengths, all examples have length `time_steps`.
    """
    if inputs.lengths is None:
        return np.full(len(inputs), time_steps, np.int32)
    return inputs.lengths


def check_finite(logits: np.ndarray, inputs: Inputs) -> None:
    """Raises a `RunError` if a logit outside the padding is not finite.

    Logits are [ensemble, examples, classes] or [ensemble, examples, time, classes].
    """
    is_finite = np.isfinite(logits).all(axis=-1)
    if is_finite.ndim == 3:
        time_steps = logits.shape[2]
        is_finite |= padding_mask(time_steps, find_lengths(inputs, time_steps))
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
    num_batches: jax.Array,
    *,
    model: Classifier,
    view: View,
    mesh: Mesh,
    every_step: bool,
    method: Literal["compute_hidden"] | None = None,
) -> jax.Array:
    """Computes the logits of a chunk in a compiled program.

    The logits are float32 [ensemble, batches, batch, (time,) classes]. If `method` is
    `hidden`, the inputs of the head are computed instead.

    Only the first `num_batches` (int32 []) batches are computed; the logits of the
    other batches are 0. Members are sharded over the mesh axis `ensemble`, and each
    batch over the mesh axis `batch`. The logits are replicated.
    """

    def predict_shard(params: Params, batches: Batches) -> jax.Array:
        def predict_one_batch(params: Params, index: jax.Array | int) -> jax.Array:
            values, lengths = jax.tree.map(lambda leaf: leaf[index], batches)
            variables = {"params": params}
            logits = model.apply(
                variables, view(values), lengths, every_step=every_step, method=method
            )
            return jnp.asarray(logits)

        def predict_member(params: Params) -> jax.Array:
            def add_batch(index: jax.Array, logits: jax.Array) -> jax.Array:
                return logits.at[index].set(predict_one_batch(params, index))

            shape = jax.eval_shape(predict_one_batch, params, 0).shape
            values, _ = batches
            zeros = jnp.zeros((len(values), *shape))
            return jax.lax.fori_loop(0, num_batches, add_batch, zeros)

        map_members = map_ensemble(predict_member, model.execution.vectorize_ensemble)
        logits: jax.Array = map_members(params)
        return logits

    predict_on_devices = jax.shard_map(
        predict_shard,
        mesh=mesh,
        in_specs=(jax.P(ENSEMBLE), jax.P(None, BATCH)),
        out_specs=jax.P(ENSEMBLE, None, BATCH),
        check_vma=False,
    )
    logits = predict_on_devices(params, batches)
    return jax.lax.with_sharding_constraint(logits, replicated_sharding(mesh))


def decision_times(predicted: np.ndarray) -> np.ndarray:
    """Returns the time step, counted from 1, after which a prediction is final.

    `predicted` contains the predicted class after each time step, int [examples, time].
    Returns int [examples].
    """
    is_final = predicted[:, ::-1] == predicted[:, -1:]
    return predicted.shape[1] - np.cumprod(is_final, axis=1).sum(axis=1) + 1
