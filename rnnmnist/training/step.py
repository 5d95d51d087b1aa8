"""The training step: the updates of a chunk of batches in one compiled call.

The module has three functions, from the outside to the inside:

- `train_chunk` divides the ensemble and the batches of a chunk over the devices;
- `train_member` runs the updates of one network, and computes the inputs of each batch
  (`BatchTransform`);
- `update` is one update by one batch. It calls the loss (`Objective`) and the optimizer
  (`make_optimizer` in `training/optimizer.py`).

In `train_member` and `update`, no array has an ensemble axis. They run on each device,
on that device's shard of every batch. During the updates, only the devices that share a
batch communicate: in `update`, they add up gradients and metrics (`jax.lax.psum`).
"""

import functools

import jax
import jax.numpy as jnp
import optax
from jax.flatten_util import ravel_pytree

from rnnmnist.data.batches import BATCHES_SPEC, Batch, Chunk
from rnnmnist.runtime.mesh import (
    BATCH,
    OVER_ENSEMBLE,
    map_ensemble,
    replicated_sharding,
)
from rnnmnist.training.optimizer import update_ema
from rnnmnist.training.state import Program, TrainState

# Metrics of an update by their names, float32 []; of the updates of a chunk, [updates];
# of an ensemble, [ensemble, updates].
UpdateMetrics = dict[str, jax.Array]


@functools.partial(jax.jit, static_argnames="program", donate_argnames="ensemble")
def train_chunk(
    ensemble: TrainState,
    chunk: Chunk,
    learning_rates: jax.Array,
    first: jax.Array,
    end: jax.Array,
    *,
    program: Program,
) -> tuple[TrainState, UpdateMetrics]:
    """Runs updates on the batches of a chunk without returning to the host.

    An event, such as a log line, can be due within a chunk. Then one call runs the
    updates before the event, and another call runs the updates after it: with an event
    after step 43, the calls for the steps 0 to 99 are those with `first` and `end` at 0
    and 43, and at 43 and 100. Both are arrays, so that one compiled program serves
    calls with any number of updates.

    Args:
        ensemble: the state of all networks. Its memory is reused for the new state.
        chunk: the batches of consecutive updates.
        learning_rates: of each update of the chunk, float32 [updates].
        first: the position in the chunk of the first update of this call, int32 [].
        end: the position after the last update of this call, int32 [].
        program: the static arguments.

    Returns:
        The new state of all networks, and their metrics, [ensemble, updates], with an
        entry for each update of the chunk. Entries of updates outside of this call are
        0.
    """
    # `partial` binds the arguments that all devices and networks share, so that neither
    # `shard_map` nor `map_ensemble` divides them.
    train = functools.partial(
        train_member,
        start=chunk.start,
        learning_rates=learning_rates,
        first=first,
        end=end,
        program=program,
    )
    # With automatic partitioning, two CPU devices are slower than one. So each device
    # trains its own networks on its own shards of their batches.
    train_on_devices = jax.shard_map(
        # Maps over the ensemble axis: by `jax.vmap` on an accelerator, and by a loop on
        # a CPU, where it is faster. A single network loses the axis, and is not mapped.
        map_ensemble(train, program.model.execution.vectorize_ensemble),
        mesh=program.mesh,
        in_specs=(OVER_ENSEMBLE, BATCHES_SPEC, OVER_ENSEMBLE),  # of the three arguments
        # Devices along the mesh axis `batch` must have equal results, as the `psum` in
        # `update` ensures. Nothing checks that.
        out_specs=OVER_ENSEMBLE,
        # With `check_vma=True`, jax checks which arrays differ between devices. But it
        # adds up gradients by itself, one array at a time, which is slower. It also
        # rejects the loop of a recurrence, whose first carry, zeros, is the same on all
        # devices, while later carries differ.
        check_vma=False,
    )
    ensemble, metrics = train_on_devices(ensemble, chunk.batches, chunk.seeds)
    # On every device, since every process reads the metrics of all networks.
    metrics = jax.lax.with_sharding_constraint(
        metrics, replicated_sharding(program.mesh)
    )
    return ensemble, metrics


def train_member(
    state: TrainState,
    batches: Batch,
    seed: jax.Array,
    *,
    start: jax.Array,
    learning_rates: jax.Array,
    first: jax.Array,
    end: jax.Array,
    program: Program,
) -> tuple[TrainState, UpdateMetrics]:
    """Runs consecutive updates of one network, on the shards of one device.

    An update that is not finite does not stop the loop. The host finds such an update
    in the metrics, and ends the run (`training/loop.py`).

    Args:
        state: the state of the network before the first update.
        batches: the shards of the batches of a chunk, [updates, shard, ...].
        seed: the seed of the network, uint32 [].
        start: the number of finished updates before the chunk, int32 [].
        learning_rates: as for `train_chunk`.
        first: as for `train_chunk`.
        end: as for `train_chunk`.
        program: the static arguments.

    Returns:
        The new state, and the metrics, [updates].
    """

    def update_at(
        position: jax.Array, state: TrainState
    ) -> tuple[TrainState, UpdateMetrics]:
        step = start + position
        stored = jax.tree.map(lambda array: array[position], batches)
        with jax.named_scope("batch"):  # a label in profiles
            shard = jax.lax.axis_index(BATCH)
            batch = program.transform(stored, seed, step, shard)
        return update(state, batch, step, learning_rates[position], program=program)

    def run_update(
        position: jax.Array, carry: tuple[TrainState, UpdateMetrics]
    ) -> tuple[TrainState, UpdateMetrics]:
        state, metrics = carry
        state, values = update_at(position, state)
        metrics = jax.tree.map(
            lambda row, value: row.at[position].set(value), metrics, values
        )
        return state, metrics

    # `eval_shape` finds the names of the metrics without computing them. Each metric
    # starts as zeros.
    _, metrics = jax.eval_shape(update_at, first, state)
    no_metrics = {name: jnp.zeros(len(learning_rates)) for name in metrics}
    return jax.lax.fori_loop(first, end, run_update, (state, no_metrics))


def update(
    state: TrainState,
    batch: Batch,
    step: jax.Array,
    learning_rate: jax.Array,
    *,
    program: Program,
) -> tuple[TrainState, UpdateMetrics]:
    """Updates one network by the gradient of one batch.

    To log another number of each update, add it to `metrics` at the end: a scalar that
    is equal on all devices, such as a function of `grads`, `changes` or `params`. The
    log has its mean over the updates since the line before. For a function of examples,
    set `train.metrics`, or add a sum to those of `Objective`.

    Args:
        state: the state of the network.
        batch: this device's shard of the batch.
        step: the number of finished updates, int32 [].
        learning_rate: the learning rate, float32 [].
        program: the static arguments.

    Returns:
        The new state, and the metrics, float32 [].
    """
    # Gradients and metrics are sums over the examples of the shard. `jax.grad` drops
    # the minimized loss itself; the loss in the log is one of the metrics.
    differentiate = jax.grad(program.objective, has_aux=True)
    sums = differentiate(state.params, batch)
    # All arrays are joined to one vector, because one exchange between the devices is
    # faster than one exchange for each array.
    vector, unravel = ravel_pytree(sums)
    total = jax.lax.psum(vector, BATCH)
    mean = total / program.transform.batch_size  # of all devices together
    grads, metrics = unravel(mean)
    with jax.named_scope("update"):
        # The learning rate is traced, so the optimizer is made here. It consists of
        # functions; its numbers are in `opt_state`.
        optimizer = program.optimizer(learning_rate)
        # optax adds integers to floats, which jax refuses in a process that has set
        # `jax_numpy_dtype_promotion` to "strict".
        with jax.numpy_dtype_promotion("standard"):
            changes, opt_state = optimizer.update(grads, state.opt_state, state.params)
        params = optax.apply_updates(state.params, changes)
        ema_params = state.ema_params
        if ema_params is not None:
            ema_params = update_ema(ema_params, params, step, program.ema_decay)
        # The norm of one vector is faster than the norm of a tree. The gradients are
        # joined again, since the vector `mean` also contains the metrics.
        metrics |= {
            # of the gradient of the minimized loss, before clipping
            "grad_norm": optax.tree.norm(ravel_pytree(grads)[0]),
            # of the updated parameters
            "param_norm": optax.tree.norm(ravel_pytree(params)[0]),
            "learning_rate": learning_rate,
        }
    state = TrainState(params=params, ema_params=ema_params, opt_state=opt_state)
    return state, metrics
