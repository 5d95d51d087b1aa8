"""The training step: the updates of a chunk of batches in one compiled call.

In each update of a network:

1. Every device makes the inputs of its shard of the batch (`BatchTransform`).
2. It computes the loss and the gradients of the shard (`Objective`).
3. The devices add up their sums (`jax.lax.psum`).
4. `apply_update` calls the optimizer. To use another one, change only the function
   `make_optimizer` in `training/optimizer.py`.

If a loss, gradient or new parameter of any network is not finite, the update is
rejected: no network is changed, no other update follows, and the run ends with an error
(`training/loop.py`).
"""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.flatten_util import ravel_pytree

from rnnmnist.data.batches import CHUNK_SPECS, Chunk, StoredExamples
from rnnmnist.models.classifier import Params
from rnnmnist.runtime.mesh import (
    BATCH,
    REPLICATED,
    SEEDS,
    map_ensemble,
    replicated_sharding,
)
from rnnmnist.training.loss import ScoreSums
from rnnmnist.training.optimizer import make_optimizer, update_average
from rnnmnist.training.state import STATE_SPECS, Program, TrainState


class UpdateStats(NamedTuple):
    """What an update reports of each network. The arrays are [ensemble].

    `train_chunk` returns those of several updates, [updates, ensemble].

    The log has the mean of every field except `is_finite`. The scores are averaged over
    examples, the others over updates. To log another sum over examples, add a field to
    `ScoreSums`. For anything else, add one here, and compute it in `update_network`.
    """

    scores: ScoreSums  # sums over the examples of the batch
    grad_norm: jax.Array  # float32, of the gradient of the mean loss, before clipping
    is_finite: jax.Array  # bool, of the loss, the gradient and the new parameters

    @property
    def is_applied(self) -> np.ndarray:
        """Whether each of several updates was applied, bool [updates].

        This is for statistics of several updates, [updates, ensemble], on the host. An
        update is applied if its numbers are finite in all networks. Otherwise it is
        rejected, and the updates after it are not computed: their rows are 0, so they
        count as not applied, too.
        """
        return np.asarray(self.is_finite).all(axis=1)


class LoopCarry(NamedTuple):
    """What an update hands on to the next one."""

    state: TrainState
    stats: UpdateStats  # [updates, ensemble], 0 for updates that are not computed yet
    was_applied: jax.Array  # bool [], whether the update before was applied


@functools.partial(jax.jit, static_argnames="program", donate_argnames="state")
def train_chunk(
    state: TrainState,
    chunk: Chunk,
    rates: jax.Array,
    num_updates: jax.Array,
    class_weights: jax.Array | None = None,
    *,
    program: Program,
) -> tuple[TrainState, UpdateStats]:
    """Runs updates on the batches of a chunk without returning to the host.

    An update that is rejected leaves the state as it is, and is the last one.

    Args:
        state: the state before the first update. Its memory is used for the new one.
        chunk: the examples of a fixed number of consecutive updates. A call need not
            run all of them: if an event, such as a log line, is due within the chunk,
            one call runs the updates before the event, and another one the rest.
        rates: the learning rate of each update of the chunk, float32 [updates].
        num_updates: how many updates this call runs, int32 [], unless one is rejected.
            The first one has the index `state.step`. Like the rates and the class
            weights, the number is an array and not a static argument, so that one
            compiled program serves calls with any number of updates.
        class_weights: float32 [classes]; None: all are 1.
        program: the model, the loss and all other settings that are compiled.

    Returns:
        The new state, and the statistics, [updates, ensemble]. Row 0 is that of the
        first update of this call. There are as many rows as updates in the chunk; those
        after `num_updates` are 0.
    """

    # Every device computes the gradients of its own shard of the batch. With automatic
    # partitioning, by a sharding constraint, two CPU devices are slower than one.
    @functools.partial(
        jax.shard_map,
        mesh=program.mesh,
        in_specs=(STATE_SPECS, CHUNK_SPECS, REPLICATED, REPLICATED, REPLICATED),
        out_specs=(STATE_SPECS, jax.P(None, SEEDS)),
        # With `check_vma=True`, jax tracks which arrays differ between devices. Then it
        # adds up gradients by itself, one array at a time, which is slower. It would
        # also reject the loop of a recurrence, whose first carry, zeros, is the same on
        # all devices, while later ones differ.
        check_vma=False,
    )
    def train_shard(
        state: TrainState,
        chunk: Chunk,
        rates: jax.Array,
        num_updates: jax.Array,
        class_weights: jax.Array | None,
    ) -> tuple[TrainState, UpdateStats]:
        first_step = state.step

        # This call can begin within the chunk. So an update has two indices: `position`
        # among those of the chunk, and `row` among those of this call.

        def update(state: TrainState) -> tuple[TrainState, UpdateStats, jax.Array]:
            position = state.step - chunk.start
            scores, grads = differentiate_batch(
                state.params, chunk, state.step, class_weights, program=program
            )
            return apply_update(state, scores, grads, rates[position], program=program)

        def has_next_update(carry: LoopCarry) -> jax.Array:
            return (carry.state.step < first_step + num_updates) & carry.was_applied

        def run_update(carry: LoopCarry) -> LoopCarry:
            row = carry.state.step - first_step
            state, stats, was_applied = update(carry.state)
            all_stats = jax.tree.map(
                lambda rows, new: rows.at[row].set(new), carry.stats, stats
            )
            return LoopCarry(state, all_stats, was_applied)

        # Rows of zeros, with the shapes and types of what an update reports.
        _, shapes, _ = jax.eval_shape(update, state)
        no_stats = jax.tree.map(
            lambda leaf: jnp.zeros((len(rates), *leaf.shape), leaf.dtype), shapes
        )
        start = LoopCarry(state, no_stats, was_applied=jnp.array(True))
        end = jax.lax.while_loop(has_next_update, run_update, start)
        return end.state, end.stats

    state, stats = train_shard(state, chunk, rates, num_updates, class_weights)
    # Every process reads the statistics of all networks.
    return state, jax.lax.with_sharding_constraint(
        stats, replicated_sharding(program.mesh)
    )


def differentiate_batch(
    params: Params,
    chunk: Chunk,
    step: jax.Array,
    class_weights: jax.Array | None,
    *,
    program: Program,
) -> tuple[ScoreSums, Params]:
    """Returns the scores and the gradients of the batch of update `step`.

    The scores are sums over the batch, [ensemble], and the gradients those of the mean
    loss, [ensemble, ...]. This is called within `shard_map`, so the chunk has the
    shards of one device.
    """
    differentiate = jax.grad(program.objective, has_aux=True)

    def sum_shard(
        params: Params, seed: jax.Array, examples: StoredExamples
    ) -> tuple[ScoreSums, Params]:
        """Returns the sums of one network over one shard."""
        with jax.named_scope("batch"):
            shard = jax.lax.axis_index(BATCH)
            batch = program.transform(examples, seed, step, shard)
        grads, scores = differentiate(params, batch, class_weights)
        return scores, grads

    # Maps the function over the ensemble axis of its arguments: by `jax.vmap` on an
    # accelerator, and on a CPU by a loop, which is faster there.
    sum_shards = map_ensemble(sum_shard, program.model.execution.vectorize_seeds)
    sums = sum_shards(params, chunk.seeds, chunk.examples_at(step))
    # Scores and gradients are concatenated into one vector, because one exchange
    # between the devices is faster than one for each array, and so is one division.
    vector, unravel = ravel_pytree(sums)
    total = jax.lax.psum(vector, BATCH)
    mean = total / program.transform.batch_size
    # The log needs the sums of the scores, the optimizer the mean of the gradients.
    score_sums, _ = unravel(total)
    _, mean_grads = unravel(mean)
    return score_sums, mean_grads


def apply_update(
    old: TrainState,
    scores: ScoreSums,
    grads: Params,
    rate: jax.Array,
    *,
    program: Program,
) -> tuple[TrainState, UpdateStats, jax.Array]:
    """Updates all networks, or none of them if a number is not finite.

    Scores and gradients are those of `differentiate_batch`, and the rate is the
    learning rate, float32 []. Returns the new state, which is the old one if the update
    is rejected, the statistics of the update, and whether it was applied, bool [].
    """
    # The learning rate is a traced array, so the optimizer is made in the trace. Its
    # state, which is handed on from one update to the next, does not contain the rate.
    optimizer = make_optimizer(rate, program.clip_norm, program.weight_decay)

    def update_network(
        params: Params,
        average: Params | None,
        opt_state: optax.OptState,
        scores: ScoreSums,
        grads: Params,
    ) -> tuple[Params, Params | None, optax.OptState, UpdateStats]:
        # optax adds integers to floats, which jax refuses in a process that has set
        # `jax_numpy_dtype_promotion` to "strict".
        with jax.numpy_dtype_promotion("standard"):
            updates, opt_state = optimizer.update(grads, opt_state, params)
        params = optax.apply_updates(params, updates)
        if average is not None:  # with the setting `train.ema_decay`
            average = update_average(average, params, old.step, program.ema_decay)
        # Operations on one vector are faster than on each array.
        all_grads, _ = ravel_pytree(grads)
        all_params, _ = ravel_pytree(params)
        grad_norm = optax.tree.norm(all_grads)
        is_finite = jnp.isfinite(scores.loss) & jnp.isfinite(grad_norm)
        stats = UpdateStats(
            scores=scores,
            grad_norm=grad_norm,
            is_finite=is_finite & jnp.isfinite(all_params).all(),
        )
        return params, average, opt_state, stats

    with jax.named_scope("update"):
        update_networks = map_ensemble(
            update_network, program.model.execution.vectorize_seeds
        )
        params, average, opt_state, stats = update_networks(
            old.params, old.ema_params, old.opt_state, scores, grads
        )
    all_finite = stats.is_finite.all()  # of the networks of this device
    # Devices along the mesh axis `batch` have the same networks and the same sums, so
    # they agree. Devices along the axis `seeds` have other networks. An update is
    # applied only if the minimum over them is 1, "finite on all devices".
    if program.mesh.shape[SEEDS] > 1:
        all_finite = jax.lax.pmin(all_finite.astype(jnp.int32), SEEDS) == 1
    new = TrainState(
        step=old.step + 1, params=params, ema_params=average, opt_state=opt_state
    )
    # A rejected update does not count, so `step` keeps its value, too.
    state: TrainState = jax.tree.map(functools.partial(jnp.where, all_finite), new, old)
    return state, stats, all_finite
