"""Computes logits for any number of examples, in batches of a few fixed shapes."""

import functools
import math
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

MIN_PADDED_TIME_STEPS = 64
# The maximum size of a batch's hidden states at all time steps, in bytes. A batch
# always contains at least one example. The maximum applies only to random filters,
# because they have thousands of hidden units.
MAX_EVERY_STEP_BYTES = 1 << 28


def nonfinite_logits_error(subject: str) -> RunError:
    """Returns the error for infinite or NaN logits."""
    return RunError(
        f"the network cannot classify {subject} because the logits are not finite; "
        "look for very large input values, or train with a lower train.learning_rate"
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

    The batch size per device does not affect the number of correct predictions, and
    affects the loss only through rounding.

    Returns:
        Logits after the last time step, float32 [ensemble, examples, classes]. If
        `every_step` is True, logits after every time step, [ensemble, examples, time,
        classes].

    Raises:
        RunError: if a logit is not finite. The message names the first affected
            example.
    """
    logits = apply_in_batches(model, params, inputs, view, mesh, every_step=every_step)
    if every_step and inputs.are_sequences:
        logits = logits[:, :, : inputs.time_steps]  # remove padding
    check_finite(logits, inputs)
    return logits


def apply_in_batches(
    model: Classifier,
    params: Params,
    inputs: Inputs,
    view: View,
    mesh: Mesh,
    *,
    every_step: bool = False,
    method: Literal["compute_hidden"] | None = None,
) -> np.ndarray:
    """Applies a network to any number of examples, one batch after another.

    Each batch is sharded over the mesh axis `batch`. Compiling a program for a new
    batch shape takes seconds, and the number and length of inputs vary between calls.
    Inputs are therefore padded to one of a few shapes, which `choose_time_steps` and
    `choose_batch_size` determine.

    Returns:
        The logits or, if `method` is `compute_hidden`, the inputs of the head, float32
        [ensemble, examples, ...]. If `every_step` is True, padded time steps are
        included.
    """
    time_steps = inputs.time_steps  # for images, the number of rows
    lengths = None
    if inputs.are_sequences:
        lengths = find_lengths(inputs, time_steps)
        time_steps = choose_time_steps(time_steps, model.input_shape[0])
    batch_size = choose_batch_size(
        len(inputs), time_steps, model, mesh.shape[BATCH], every_step=every_step
    )
    pad_time = (0, time_steps - inputs.time_steps)
    sharding = NamedSharding(mesh, jax.P(BATCH))
    outputs: list[jax.Array | np.ndarray] = []
    for start in range(0, len(inputs), batch_size):
        part = slice(start, start + batch_size)
        values = inputs.take(part)
        pad_examples = (0, batch_size - len(values))
        values = np.pad(values, (pad_examples, pad_time, (0, 0)))
        batch_lengths = None
        if lengths is not None:
            padded_lengths = np.pad(lengths[part], pad_examples, constant_values=1)
            batch_lengths = put_global(padded_lengths, sharding)
        batch_outputs = predict_batch(
            params,
            put_global(values, sharding),
            batch_lengths,
            model=model,
            view=view,
            mesh=mesh,
            every_step=every_step,
            method=method,
        )
        outputs.append(batch_outputs)
        # Copy the outputs of the previous batch to the host during this batch.
        outputs[-2:-1] = jax.device_get(outputs[-2:-1])
    return np.concatenate(jax.device_get(outputs), axis=1)[:, : len(inputs)]


def choose_batch_size(
    num_inputs: int,
    time_steps: int,
    model: Classifier,
    num_shards: int,
    *,
    every_step: bool,
) -> int:
    """Returns the total batch size over all devices.

    The batch size per device is 1, a quarter of the maximum, or the maximum, which is
    `eval_batch_size` unless the hidden states would exceed `MAX_EVERY_STEP_BYTES`.
    """
    max_batch_size = model.execution.eval_batch_size
    if every_step and model.config.is_closed_form:
        state_bytes = 4 * (THRESHOLDS + 1) * model.config.hidden_size
        sequence_bytes = state_bytes * max(time_steps, model.input_shape[0])
        max_batch_size = max(
            1, min(max_batch_size, MAX_EVERY_STEP_BYTES // sequence_bytes)
        )
    inputs_per_device = math.ceil(num_inputs / num_shards)
    small_batch_size = max(1, max_batch_size // 4)
    if inputs_per_device == 1:
        return num_shards
    if inputs_per_device <= 2 * small_batch_size:  # faster than one large batch
        return num_shards * small_batch_size
    return num_shards * max_batch_size


def choose_time_steps(max_length: int, max_training_length: int) -> int:
    """Returns the padded length of sequences with at most `max_length` time steps.

    The padded length is the next power of two, at least 64, so that few programs are
    compiled. If no sequence is longer than the longest training sequence, the padded
    length is at most `max_training_length`.
    """
    length = max(MIN_PADDED_TIME_STEPS, 1 << (max_length - 1).bit_length())
    if max_length <= max_training_length:
        return min(length, max_training_length)
    return length


def find_lengths(inputs: Inputs, time_steps: int) -> np.ndarray:
    """Returns the length of each example without padding, int32 [examples].

    If the inputs have no lengths, all examples have length `time_steps`.
    """
    if inputs.lengths is None:
        return np.full(len(inputs), time_steps, np.int32)
    return inputs.lengths


def check_finite(logits: np.ndarray, inputs: Inputs) -> None:
    """Raises a `RunError` if a logit outside the padding is not finite.

    `logits` is [ensemble, examples, classes] or [ensemble, examples, time, classes].
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
def predict_batch(
    params: Params,
    values: jax.Array,
    lengths: jax.Array | None,
    *,
    model: Classifier,
    view: View,
    mesh: Mesh,
    every_step: bool,
    method: Literal["compute_hidden"] | None = None,
) -> jax.Array:
    """Computes the outputs for one batch in a compiled program.

    Members are sharded over the mesh axis `ensemble`, and examples over the mesh axis
    `batch`.

    Args:
        params: the parameters of all members.
        values: the result of `Inputs.take`, [batch, ...].
        lengths: int32 [batch]; None for images.
        model: the Flax module.
        view: the transform that converts images to sequences.
        mesh: the device mesh.
        every_step: whether to compute outputs after every time step.
        method: the method of `model` to apply; None means `__call__`.

    Returns:
        The outputs, float32 [ensemble, batch, ...], replicated over all devices.
    """

    def predict_shard(
        params: Params, values: jax.Array, lengths: jax.Array | None
    ) -> jax.Array:
        def predict_member(params: Params) -> jax.Array:
            outputs = model.apply(
                {"params": params},
                view(values),
                lengths,
                every_step=every_step,
                method=method,
            )
            return jnp.asarray(outputs)

        map_members = map_ensemble(predict_member, model.execution.vectorize_ensemble)
        outputs: jax.Array = map_members(params)
        return outputs

    predict_on_devices = jax.shard_map(
        predict_shard,
        mesh=mesh,
        in_specs=(jax.P(ENSEMBLE), jax.P(BATCH), jax.P(BATCH)),
        out_specs=jax.P(ENSEMBLE, BATCH),
        check_vma=False,
    )
    outputs = predict_on_devices(params, values, lengths)
    return jax.lax.with_sharding_constraint(outputs, replicated_sharding(mesh))


def decision_times(predicted: np.ndarray) -> np.ndarray:
    """Returns the time step after which each prediction no longer changes.

    `predicted` contains the predicted class after each time step, int [examples, time].
    Returns int [examples], counted from 1.
    """
    is_final = predicted[:, ::-1] == predicted[:, -1:]
    return predicted.shape[1] - np.cumprod(is_final, axis=1).sum(axis=1) + 1
