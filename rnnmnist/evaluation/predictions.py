"""The logits of networks for any number of examples, and what follows from them.

The trainer and all commands but `predict --stream` obtain their logits here.
"""

import functools
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding

from rnnmnist.arithmetic import ceil_div
from rnnmnist.config.platforms import CPU_STOPPING_BLOCK
from rnnmnist.data.examples import Examples, Inputs, View, find_padding
from rnnmnist.errors import RunError
from rnnmnist.models.classifier import Params, SequenceClassifier
from rnnmnist.runtime.jax_defaults import jax_defaults
from rnnmnist.runtime.mesh import (
    BATCH,
    SEEDS,
    device_put,
    map_ensemble,
    platform_of,
    replicated_sharding,
)

GROUP_BYTES = 1 << 28  # a group of a split; at most two are on the devices at a time
SHORTEST_PADDED = 64  # time steps


class NonFiniteLogitsError(RunError):
    """Logits are infinite or NaN, so that they predict nothing.

    `network` is the index of the first network of the ensemble that has such logits.
    """

    def __init__(self, subject: str, network: int) -> None:
        super().__init__(
            f"the network has no prediction for {subject}, since its logits are not "
            "finite; correct values that are too large, or train with a lower "
            "train.learning_rate"
        )
        self.network = network


@jax_defaults()
def predict_logits(
    model: SequenceClassifier,
    params: Params,
    inputs: Inputs,
    view: View,
    mesh: Mesh,
    *,
    every_step: bool = False,
) -> np.ndarray:
    """Returns the logits of each network for every example, on every process.

    They are float32 [ensemble, examples, classes] after the last time step, or with
    `every_step` [ensemble, examples, time, classes]. The examples are copied to the
    devices in groups of batches, each of which is sharded over the mesh's axis `batch`.
    Counts do not depend on the size of a device's batch, the loss only by rounding.

    A program is compiled for each shape of a group, which takes seconds. A split has
    one of its own, which each validation repeats. Other inputs, whose number and length
    can differ in each call, are padded so that few programs serve all calls:
    `choose_batch_size` and `choose_time_steps` say to which shapes.

    Raises:
        NonFiniteLogitsError: if logits are not finite, with the first such example.
    """
    shards = mesh.shape[BATCH]
    per_shard = ceil_div(len(inputs), shards)
    most = model.execution.eval_batch_size
    padded_time = None  # sequences are not padded further
    if isinstance(inputs, Examples):
        size = min(most, 1 << (per_shard - 1).bit_length()) * shards
        batches = ceil_div(len(inputs), size)
        example_bytes = inputs.take(np.arange(1)).nbytes
        groups = ceil_div(batches * size * example_bytes, GROUP_BYTES)
        count = ceil_div(batches, groups)  # the batches in a group
    else:
        size = choose_batch_size(per_shard, most) * shards
        count = 1
        if inputs.are_sequences:
            padded_time = choose_time_steps(inputs.time_steps, model.input_shape[0])
            model = stop_at_longest(model, platform_of(mesh))

    def to_batches(array: np.ndarray) -> jax.Array:
        # Repeats the examples up to the end of the last batch.
        stored = np.resize(array, (count, size, *array.shape[1:]))
        return device_put(stored, NamedSharding(mesh, jax.P(None, BATCH)))

    by_group = []
    for start in range(0, len(inputs), count * size):
        part = slice(start, start + count * size)
        values = inputs.take(part)
        lengths = None if inputs.lengths is None else inputs.lengths[part]
        if padded_time is not None:
            values, lengths = pad_time(values, lengths, padded_time)
        logits = predict_batches(
            params,
            (to_batches(values), None if lengths is None else to_batches(lengths)),
            model=model,
            view=view,
            mesh=mesh,
            every_step=every_step,
        )
        by_group.append(logits)
        if start > 0:
            # The devices compute this group while the host waits for the one before,
            # so that at most two groups are on the devices.
            by_group[-2] = jax.device_get(by_group[-2])
    whole = np.concatenate(jax.device_get(by_group), axis=1)
    logits = whole.reshape(len(whole), -1, *whole.shape[3:])[:, : len(inputs)]
    if every_step and padded_time is not None:
        logits = logits[:, :, : inputs.time_steps]
    is_finite = np.isfinite(logits).all(axis=-1)
    if every_step:
        if inputs.lengths is not None:
            is_finite |= find_padding(logits.shape[2], inputs.lengths)
        is_finite = is_finite.all(axis=-1)
    refuse_non_finite(is_finite, lambda position: f"example {inputs.name(position)}")
    return logits


def refuse_non_finite(is_finite: np.ndarray, name: Callable[[int], str]) -> None:
    """Raises a `NonFiniteLogitsError` unless all logits are finite.

    `is_finite`, bool [ensemble, examples], says which are. `name` returns how the error
    calls the example at a position.
    """
    if not is_finite.all():
        position, network = np.argwhere(~is_finite.T)[0].tolist()
        raise NonFiniteLogitsError(name(position), network)


def choose_batch_size(count: int, most: int) -> int:
    """Returns the number of examples in a batch of a device that classifies `count`.

    It is 1, a quarter of `most` or `most`, so that three programs serve all counts. A
    larger count has several batches.
    """
    sizes = (1, max(1, most // 4), most)
    return next((size for size in sizes if count <= size), sizes[-1])


def choose_time_steps(longest: int, trained: int) -> int:
    """Returns to how many time steps sequences are padded, of which `longest` has most.

    They are 64, 256, 1,024 and so on, so that few programs serve all lengths; or those
    of the longest sequence of the training, `trained`, if these are fewer and suffice.
    """
    padded = SHORTEST_PADDED
    while padded < longest:
        padded *= 4
    return min(padded, trained) if longest <= trained else padded


def pad_time(
    values: np.ndarray, lengths: np.ndarray | None, time_steps: int
) -> tuple[np.ndarray, np.ndarray]:
    """Pads sequences [n, time, features] with zeros; returns also their lengths."""
    count, stored_time, features = values.shape
    padded = np.zeros((count, time_steps, features), values.dtype)
    padded[:, :stored_time] = values
    if lengths is None:
        lengths = np.full(count, stored_time, np.int32)
    return padded, lengths


def stop_at_longest(model: SequenceClassifier, platform: str) -> SequenceClassifier:
    """Returns the model whose loops over time stop with a batch's longest sequence.

    So padding takes little time. This is for a CPU: on accelerators, loops over a fixed
    number of time steps are unrolled, and are faster.
    """
    if platform != "cpu":
        return model
    execution = model.execution._replace(stopping_block=CPU_STOPPING_BLOCK)
    return model.clone(execution=execution)


@functools.partial(jax.jit, static_argnames=("model", "view", "mesh", "every_step"))
def predict_batches(
    params: Params,
    batches: tuple[jax.Array, jax.Array | None],
    *,
    model: SequenceClassifier,
    view: View,
    mesh: Mesh,
    every_step: bool,
) -> jax.Array:
    """Computes float32 logits [ensemble, batches, batch, (time,) classes] in one call.

    The batches are what `Inputs.take` returns, [batches, batch, ...], and the lengths,
    int32 [batches, batch]. The axis `seeds` of the mesh divides the ensemble, the axis
    `batch` the second axis of the batches. The logits are replicated.
    """

    def one_shard(params: Params, batches: Any) -> Any:
        def one_network(params: Params) -> jax.Array:
            def one_batch(batch: Any) -> Any:
                stored, lengths = batch
                return model.apply(
                    {"params": params}, view(stored), lengths, every_step=every_step
                )

            return jax.lax.map(one_batch, batches)

        return map_ensemble(one_network, model.execution.vectorize_seeds)(params)

    run = jax.shard_map(
        one_shard,
        mesh=mesh,
        in_specs=(jax.P(SEEDS), jax.P(None, BATCH)),
        out_specs=jax.P(SEEDS, None, BATCH),
        check_vma=False,
    )
    return jax.lax.with_sharding_constraint(
        run(params, batches), replicated_sharding(mesh)
    )


def softmax(logits: np.ndarray) -> np.ndarray:
    """Returns the probabilities over the last axis."""
    weights = np.exp(logits - logits.max(-1, keepdims=True))
    return weights / weights.sum(-1, keepdims=True)


def log_probabilities(logits: np.ndarray) -> np.ndarray:
    """Returns the logarithms of the networks' mean probabilities, [n, classes].

    The logits are those of each network, float32 [networks, n, classes].
    """
    logs = logits - np.logaddexp.reduce(logits, axis=-1, keepdims=True)
    total: np.ndarray = np.logaddexp.reduce(logs, axis=0)
    return total - np.float32(np.log(len(logits)))


def decision_times(predicted: np.ndarray) -> np.ndarray:
    """Returns the time step, from 1, after which a prediction no longer changes.

    Predictions are classes after each time step, int [examples, time].
    """
    same = predicted[:, ::-1] == predicted[:, -1:]
    return predicted.shape[1] - np.cumprod(same, axis=1).sum(axis=1) + 1
