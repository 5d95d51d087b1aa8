"""The training step: the updates of a chunk of batches in one compiled call.

`update` is one update of one network on one batch:

1. Each device differentiates the loss of its shard of the batch (`Objective`).
2. The devices add up their gradients and metrics (`jax.lax.psum`).
3. The optimizer changes the parameters (`make_optimizer` in `training/optimizer.py`).

`train_chunk` runs `update` for consecutive batches. The ensemble axis and the mesh of
devices occur only there.
"""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.flatten_util import ravel_pytree

from rnnmnist.data.batches import BATCHES_SPEC, Batch, Chunk
from rnnmnist.runtime.mesh import (
    BATCH,
    OVER_SEEDS,
    map_ensemble,
    replicated_sharding,
)
from rnnmnist.training.loss import BatchMetrics
from rnnmnist.training.optimizer import update_average
from rnnmnist.training.state import Program, TrainState


class UpdateMetrics(NamedTuple):
    """Metrics of one update of one network, float32 [].

    `train_chunk` returns the metrics of all updates of a chunk and of all networks,
    float32 [ensemble, updates]. A training line of `metrics.jsonl` has their means over
    the updates since the line before.
    """

    means: BatchMetrics  # over the batch
    grad_norm: jax.Array  # of the gradient of the mean loss, before clipping
    param_norm: jax.Array  # of the updated parameters

    @property
    def is_finite(self) -> np.ndarray:
        """Whether an update and its result are finite, bool [ensemble, updates].

        The arrays must be NumPy arrays.
        """
        values = (self.means.loss, self.grad_norm, self.param_norm)
        return np.isfinite(values).all(axis=0)


Updated = tuple[TrainState, UpdateMetrics]


@functools.partial(jax.jit, static_argnames="program", donate_argnames="state")
def train_chunk(
    state: TrainState,
    chunk: Chunk,
    rates: jax.Array,
    first: jax.Array,
    end: jax.Array,
    *,
    program: Program,
) -> Updated:
    """Runs updates on the batches of a chunk without returning to the host.

    An event, such as a log line, can be due within a chunk. Then one call runs the
    updates before the event, and another call runs the updates after it. `first` and
    `end` are arrays, so that one compiled program serves calls with any number of
    updates.

    An update that is not finite does not stop the loop. The host finds such an update
    in the metrics, and ends the run (`training/loop.py`).

    Args:
        state: the state of the ensemble. Its memory is reused for the new state.
        chunk: the batches of consecutive updates.
        rates: the learning rate of each update of the chunk, float32 [updates].
        first: the position in the chunk of the first update of this call, int32 [].
        end: the position after the last update of this call, int32 [].
        program: the static arguments.

    Returns:
        The new state, and the metrics of all updates of the chunk, [ensemble,
        updates]. The metrics of updates outside of this call are 0.
    """

    def train_network(state: TrainState, batches: Batch, seed: jax.Array) -> Updated:
        """Trains one network on the shards of one device; there is no ensemble axis."""

        def run_update(position: jax.Array, carry: Updated) -> Updated:
            state, all_metrics = carry
            step = chunk.start + position
            stored = jax.tree.map(lambda array: array[position], batches)
            with jax.named_scope("batch"):
                shard = jax.lax.axis_index(BATCH)
                batch = program.transform(stored, seed, step, shard)
            state, metrics = update(
                state, batch, step, rates[position], program=program
            )
            all_metrics = jax.tree.map(
                lambda row, value: row.at[position].set(value), all_metrics, metrics
            )
            return state, all_metrics

        zeros = jnp.zeros(len(rates))
        means = BatchMetrics(
            loss=zeros,
            accuracy=zeros,
            others={metric.__name__: zeros for metric in program.objective.metrics},
        )
        no_metrics = UpdateMetrics(means=means, grad_norm=zeros, param_norm=zeros)
        return jax.lax.fori_loop(first, end, run_update, (state, no_metrics))

    # Each device runs the updates on its own shards. With automatic partitioning, two
    # CPU devices are slower than one.
    train_on_devices = jax.shard_map(
        map_ensemble(train_network, program.model.execution.vectorize_seeds),
        mesh=program.mesh,
        in_specs=(OVER_SEEDS, BATCHES_SPEC, OVER_SEEDS),
        out_specs=OVER_SEEDS,
        # With `check_vma=True`, jax tracks which arrays differ between devices. It then
        # adds up gradients by itself, one array at a time, which is slower. It would
        # also reject the loop of a recurrence, whose first carry, zeros, is the same on
        # all devices, while later carries differ.
        check_vma=False,
    )
    state, metrics = train_on_devices(state, chunk.batches, chunk.seeds)
    # Every process reads the metrics of all networks.
    metrics = jax.lax.with_sharding_constraint(
        metrics, replicated_sharding(program.mesh)
    )
    return state, metrics


def update(
    state: TrainState,
    batch: Batch,
    step: jax.Array,
    rate: jax.Array,
    *,
    program: Program,
) -> Updated:
    """Updates one network by the gradient of one batch.

    Args:
        state: the state of the network, without an ensemble axis.
        batch: this device's shard of the batch.
        step: the number of finished updates, int32 [].
        rate: the learning rate, float32 [].
        program: the static arguments.
    """
    # The gradients of the minimized loss, and the metrics, are sums over the shard.
    differentiate = jax.grad(program.objective, has_aux=True)
    sums = differentiate(state.params, batch)
    # All arrays are joined to one vector, because one exchange between the devices is
    # faster than one exchange for each array.
    vector, unravel = ravel_pytree(sums)
    total = jax.lax.psum(vector, BATCH)
    grads, means = unravel(total / program.transform.batch_size)
    with jax.named_scope("update"):
        optimizer = program.make_optimizer(rate)
        # optax adds integers to floats, which jax refuses in a process that has set
        # `jax_numpy_dtype_promotion` to "strict".
        with jax.numpy_dtype_promotion("standard"):
            updates, opt_state = optimizer.update(grads, state.opt_state, state.params)
        params = optax.apply_updates(state.params, updates)
        ema_params = state.ema_params
        if ema_params is not None:
            ema_params = update_average(ema_params, params, step, program.ema_decay)
        # The norm of one vector is faster than the norm of a tree.
        metrics = UpdateMetrics(
            means=means,
            grad_norm=optax.tree.norm(ravel_pytree(grads)[0]),
            param_norm=optax.tree.norm(ravel_pytree(params)[0]),
        )
    return TrainState(params, ema_params, opt_state), metrics
