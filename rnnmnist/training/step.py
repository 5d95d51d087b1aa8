"""Runs several training steps, one per batch of a chunk, in one compiled call.

Three functions, each called by the one before:

- `train_chunk` shards the ensemble and the batches of a chunk over the devices;
- `train_member` runs the updates of one ensemble member, and transforms each batch into
  network inputs (`BatchTransform`);
- `update` computes a single update from one batch. It calls the objective (`Objective`)
  and the optimizer (`make_optimizer` in `training/optimizer.py`).

`train_member` and `update` run on every device, on the device's shard of each batch,
without an ensemble axis. Only devices that share a batch communicate: `update` sums
gradients and metrics over these devices (`jax.lax.psum`).
"""

import functools

import jax
import jax.numpy as jnp
import optax
from jax.flatten_util import ravel_pytree

from rnnmnist.data.batches import BATCHES_SPEC, Batch, Chunk
from rnnmnist.runtime.mesh import (
    BATCH,
    ENSEMBLE_SPEC,
    map_ensemble,
    replicated_sharding,
)
from rnnmnist.training.optimizer import update_ema
from rnnmnist.training.state import Program, TrainState

# Metrics by name, float32: [] for an update, [updates] for a chunk, and
# [ensemble, updates] for a chunk of an ensemble.
UpdateMetrics = dict[str, jax.Array]


@functools.partial(jax.jit, static_argnames="program", donate_argnames="state")
def train_chunk(
    state: TrainState,
    chunk: Chunk,
    learning_rates: jax.Array,
    first: jax.Array,
    end: jax.Array,
    *,
    program: Program,
) -> tuple[TrainState, UpdateMetrics]:
    """Runs updates on the batches of a chunk without returning to the host.

    If a log line or a validation is due within a chunk, the chunk takes several calls.
    For example, if log lines are due after 43 and 86 updates, the calls for the first
    100 updates have (first, end) = (0, 43), (43, 86) and (86, 100). `first` and `end`
    are arrays, so that the same compiled program can run any number of updates.

    Args:
        state: state of all members. The buffers are donated.
        chunk: batches of consecutive updates.
        learning_rates: learning rate of each update of the chunk, float32 [updates].
        first: position in the chunk of the first update to run, int32 [].
        end: position after the last update to run, int32 [].
        program: static arguments.

    Returns:
        The new state, and the metrics, [ensemble, updates], with an entry for each
        update of the chunk. Entries outside `first` to `end - 1` are 0.
    """
    # All devices and members share the arguments that `partial` binds: neither
    # `shard_map` nor `map_ensemble` splits these arguments.
    train = functools.partial(
        train_member,
        start=chunk.start,
        learning_rates=learning_rates,
        first=first,
        end=end,
        program=program,
    )
    # With automatic partitioning, two CPU devices are slower than one device. With
    # `shard_map`, each device trains its own members on its shard of each batch.
    train_on_devices = jax.shard_map(
        # Maps over the ensemble axis: with `jax.vmap` on accelerators, and with a loop
        # on CPUs, where a loop is faster. For a single member, the axis is removed.
        map_ensemble(train, program.model.execution.vectorize_ensemble),
        mesh=program.mesh,
        in_specs=(ENSEMBLE_SPEC, BATCHES_SPEC, ENSEMBLE_SPEC),
        # Devices along the mesh axis `batch` must compute equal results. JAX does not
        # check this, but the `psum` in `update` ensures it.
        out_specs=ENSEMBLE_SPEC,
        # With `check_vma=True`, JAX tracks which arrays vary over devices. JAX would
        # then sum the gradients automatically, array by array, which is slower. JAX
        # would also reject the loop over time steps, because the initial carry (zeros)
        # is replicated, but later carries vary over devices.
        check_vma=False,
    )
    state, metrics = train_on_devices(state, chunk.batches, chunk.seeds)
    # Replicate the metrics, since every process reads the metrics of all members.
    metrics = jax.lax.with_sharding_constraint(
        metrics, replicated_sharding(program.mesh)
    )
    return state, metrics


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
    """Runs consecutive updates of one ensemble member, on one device.

    A non-finite update does not stop the loop. The host detects it in the metrics, and
    ends the run (`training/loop.py`).

    Args:
        state: state before the first update.
        batches: this device's shards of the batches of a chunk, [updates, shard, ...].
        seed: seed of the member, uint32 [].
        start: number of completed updates before the chunk, int32 [].
        learning_rates: see `train_chunk`.
        first: see `train_chunk`.
        end: see `train_chunk`.
        program: static arguments.

    Returns:
        The new state, and the metrics, [updates].
    """

    def update_at(
        position: jax.Array, state: TrainState
    ) -> tuple[TrainState, UpdateMetrics]:
        step = start + position
        stored_batch = jax.tree.map(lambda array: array[position], batches)
        with jax.named_scope("batch"):  # a label in profiles
            shard = jax.lax.axis_index(BATCH)
            batch = program.transform(stored_batch, seed, step, shard)
        return update(state, batch, step, learning_rates[position], program=program)

    def run_update(
        position: jax.Array, carry: tuple[TrainState, UpdateMetrics]
    ) -> tuple[TrainState, UpdateMetrics]:
        state, metrics = carry
        state, values = update_at(position, state)
        metrics = jax.tree.map(
            lambda array, value: array.at[position].set(value), metrics, values
        )
        return state, metrics

    # `eval_shape` returns the names of the metrics without computing their values.
    _, metrics = jax.eval_shape(update_at, first, state)
    zeros = {name: jnp.zeros(len(learning_rates)) for name in metrics}
    return jax.lax.fori_loop(first, end, run_update, (state, zeros))


def update(
    state: TrainState,
    batch: Batch,
    step: jax.Array,
    learning_rate: jax.Array,
    *,
    program: Program,
) -> tuple[TrainState, UpdateMetrics]:
    """Updates one ensemble member with the gradient of one batch.

    To log another metric, add it to `metrics` at the end of this function, and its name
    to `BUILT_IN_METRICS` (`training/custom_functions.py`). The metric must be a scalar
    that is equal on all devices, for example a function of `grads`, `updates` or
    `params`. The log contains the mean of the metric over all steps since the previous
    line. To log a per-example quantity, set `train.metrics`, or add the sum over
    examples to the metrics of `Objective`. The training loop reads all metrics that are
    now logged, so do not remove any.

    Args:
        state: state of the member.
        batch: this device's shard of the batch.
        step: number of completed updates, int32 [].
        learning_rate: float32 [].
        program: static arguments.

    Returns:
        The new state, and the metrics, float32 [].
    """
    # Gradients and metrics are sums over the examples of the shard. `jax.grad` discards
    # the value of the objective; the metrics contain the loss to log.
    grad_fn = jax.grad(program.objective, has_aux=True)
    sums = grad_fn(state.params, batch)
    # One all-reduce of the concatenated arrays is faster than one per array.
    vector, unravel = ravel_pytree(sums)
    total = jax.lax.psum(vector, BATCH)
    mean = total / program.transform.batch_size  # global batch size
    grads, metrics = unravel(mean)
    with jax.named_scope("update"):
        # The learning rate is traced, so the optimizer is created here. The optimizer
        # consists of functions only; `opt_state` holds the arrays.
        optimizer = program.optimizer(learning_rate)
        updates, opt_state = optimizer.update(grads, state.opt_state, state.params)
        params = optax.apply_updates(state.params, updates)
        ema_params = state.ema_params
        if ema_params is not None:
            ema_params = update_ema(ema_params, params, step, program.ema_decay)
        # Computing the norm of one vector is faster than the norm of a tree. The
        # gradients are concatenated again, since `mean` also contains the metrics.
        metrics |= {
            # before clipping
            "grad_norm": optax.tree.norm(ravel_pytree(grads)[0]),
            # after the update
            "param_norm": optax.tree.norm(ravel_pytree(params)[0]),
            "learning_rate": learning_rate,
        }
    state = TrainState(params=params, ema_params=ema_params, opt_state=opt_state)
    return state, metrics
