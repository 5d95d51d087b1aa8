"""Computes logits for any number of examples, in batches of a few fixed shapes.

Validation and all commands except `predict --stream` use this module.
"""

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
# Upper limit on the hidden states of a batch over all time steps. A batch contains at
# least one example. The limit applies only to random filters, which have thousands of
# hidden units.
MAX_EVERY_STEP_BYTES = 1 << 28


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
    logits = compute_outputs(model, params, inputs, view, mesh, every_step=every_step)
    if every_step and inputs.are_sequences:
        logits = logits[:, :, : inputs.time_steps]  # remove padding
    check_finite(logits, inputs)
    return logits


def compute_outputs(
    model: Classifier,
    params: Params,
    inputs: Inputs,
    view: View,
    mesh: Mesh,
    *,
    every_step: bool = False,
    method: Literal["compute_hidden"] | None = None,
) -> np.ndarray:
    """Computes the outputs of the head, or its inputs if `method` is `compute_hidden`.

    Returns float32 [ensemble, examples, ...]. Batches are computed one after another;
    each batch is sharded over the mesh axis `batch`.

    Compiling a program for a new batch shape takes seconds. Since the number and length
    of inputs vary between calls, inputs are padded to a small set of shapes
    (`choose_time_steps` and `choose_batch_size`).
    """
    time_steps = inputs.time_steps  # rows of images
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
        # Copy the previous outputs to the host while the devices compute these.
        outputs[-2:-1] = jax.device_get(outputs[-2:-1])
    return np.concatenate(jax.device_get(outputs), axis=1)[:, : len(inputs)]


def choose_batch_size(
    num_inputs: int,
    time_steps: int,
    model: Classifier,
    shards: int,
    *,
    every_step: bool,
) -> int:
    """Returns the number of examples per batch.

    The batch size per device is 1, a quarter of `eval_batch_size`, or the full
    `eval_batch_size`.
    """
    max_batch_size = model.execution.eval_batch_size
    if every_step and model.config.is_closed_form:
        # Filters have thousands of hidden units.
        state_bytes = 4 * (THRESHOLDS + 1) * model.config.hidden_size
        sequence_bytes = state_bytes * max(time_steps, model.input_shape[0])
        max_batch_size = max(
            1, min(max_batch_size, MAX_EVERY_STEP_BYTES // sequence_bytes)
        )
    num_examples = math.ceil(num_inputs / shards)  # per device
    small_batch_size = max(1, max_batch_size // 4)
    if num_examples == 1:
        return shards
    if num_examples <= 2 * small_batch_size:  # faster than one large batch
        return shards * small_batch_size
    return shards * max_batch_size


def choose_time_steps(max_length: int, max_training_length: int) -> int:
    """Returns the padded length of sequences with at most `max_length` time steps.

    The padded length is the next power of two, at least 64, so that few programs are
    compiled. If the length of the longest training sequence is smaller and sufficient,
    it is used instead.
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

    The batch consists of values from `Inputs.take`, [batch, ...], and lengths, int32
    [batch], which are None for images. Members are sharded over the mesh axis
    `ensemble`, and the batch over the mesh axis `batch`. The outputs, float32
    [ensemble, batch, ...], are replicated.
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
    """Returns the time step, counted from 1, after which a prediction is final.

    `predicted` contains the predicted class after each time step, int [examples, time].
    Returns int [examples].
    """
    is_final = predicted[:, ::-1] == predicted[:, -1:]
    return predicted.shape[1] - np.cumprod(is_final, axis=1).sum(axis=1) + 1
