"""The training step: one compiled call for all updates of a chunk of batches.

In each update of a network:

1. Every device makes the inputs of its shard of the batch (`BatchTransform`).
2. It computes the loss and the gradients of the shard (`Objective`).
3. The devices add up their sums (`jax.lax.psum`).
4. `apply_update` subtracts from the weights what the optimizer returns, times the
   learning rate (see `training/optimizer.py` for both). If a number is not finite in
   any network, no network is changed.

Everywhere else, the weights of a network are a tree of arrays. In the loop over updates
they are one vector, because one operation on a vector is faster than one for each array
of a tree.
"""

import functools
import operator
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax

from rnnmnist.data.batches import CHUNK_SPECS, Chunk, StoredExamples
from rnnmnist.models.classifier import Params, abstract_params
from rnnmnist.runtime.mesh import (
    BATCH,
    OVER_SEEDS,
    REPLICATED,
    SEEDS,
    map_ensemble,
    replicated_sharding,
)
from rnnmnist.training.loss import ScoreSums
from rnnmnist.training.optimizer import decay_mask, update_average
from rnnmnist.training.state import STATE_SPECS, Program, TrainState
from rnnmnist.training.vectors import (
    flatten,
    flatten_mask,
    flatten_state,
    unflatten,
    unflatten_state,
)


class UpdateStats(NamedTuple):
    """The scores of all applied updates, and the last update, applied or not.

    An update is rejected if its loss, its gradient or a new parameter is not finite.
    """

    updates: jax.Array  # int32 [], the number of applied updates of each network
    scores: ScoreSums  # [ensemble], over the examples of these updates
    # These describe the last update, whether it was applied or rejected.
    last_finite: jax.Array  # bool [ensemble]
    last_loss: jax.Array  # float32 [ensemble], the mean over the batch
    last_norm: jax.Array  # float32 [ensemble], the global norm of the gradient

    @classmethod
    def zeros(cls, networks: int) -> "UpdateStats":
        """Returns the statistics before the first update."""
        zeros = jnp.zeros(networks, jnp.float32)
        return cls(
            updates=jnp.zeros((), jnp.int32),
            scores=ScoreSums(loss=zeros, correct=jnp.zeros(networks, jnp.int32)),
            last_finite=jnp.ones(networks, bool),
            last_loss=zeros,
            last_norm=zeros,
        )

    def add(self, later: "UpdateStats") -> "UpdateStats":
        """Adds the statistics of later updates."""
        return UpdateStats(
            updates=self.updates + later.updates,
            scores=jax.tree.map(operator.add, self.scores, later.scores),
            last_finite=later.last_finite,
            last_loss=later.last_loss,
            last_norm=later.last_norm,
        )


STATS_SPECS = UpdateStats(
    updates=REPLICATED,
    scores=OVER_SEEDS,
    last_finite=OVER_SEEDS,
    last_loss=OVER_SEEDS,
    last_norm=OVER_SEEDS,
)


class LoopCarry(NamedTuple):
    """Holds what an update hands on to the next one."""

    state: TrainState[jax.Array]  # with weights as vectors
    stats: UpdateStats
    was_applied: jax.Array  # bool [], whether the last update was


@functools.partial(jax.jit, static_argnames="program", donate_argnames="state")
def train_steps(
    state: TrainState[Params],
    chunk: Chunk,
    rates: jax.Array,
    num_updates: jax.Array,
    class_weights: jax.Array | None = None,
    *,
    program: Program,
) -> tuple[TrainState[Params], UpdateStats]:
    """Runs updates without returning to the host.

    An update that is rejected leaves the state as it is, and is the last one.

    Args:
        state: the state before the first update. Its memory is used for the new one.
        chunk: the examples of these updates, and maybe of earlier and later ones.
        rates: the learning rate of each update of the chunk, float32 [updates].
        num_updates: int32 []. As the rates and the class weights, this is an array, so
            that one compiled program serves all numbers.
        class_weights: float32 [classes]; None: all are 1.
        program: the model, the loss and all other settings that are compiled.

    Returns:
        The new state, and the statistics of the updates.
    """

    # Every device computes the gradients of its own shard of the batch. With automatic
    # partitioning, by a sharding constraint, two CPU devices are slower than one.
    @functools.partial(
        jax.shard_map,
        mesh=program.mesh,
        in_specs=(STATE_SPECS, CHUNK_SPECS, REPLICATED, REPLICATED, REPLICATED),
        out_specs=(STATE_SPECS, STATS_SPECS),
        # With this check, jax would add up the gradients itself. It would also refuse
        # the scan of the model, whose carry is the same zeros on all devices at first,
        # and differs then.
        check_vma=False,
    )
    def train_shard(
        state: TrainState[Params],
        chunk: Chunk,
        rates: jax.Array,
        num_updates: jax.Array,
        class_weights: jax.Array | None,
    ) -> tuple[TrainState[Params], UpdateStats]:
        def has_next_update(carry: LoopCarry) -> jax.Array:
            return (carry.stats.updates < num_updates) & carry.was_applied

        def update(carry: LoopCarry) -> LoopCarry:
            step = carry.state.step
            sums = differentiate_batch(
                carry.state.params, chunk, step, class_weights, program=program
            )
            rate = rates[step - chunk.first]
            return apply_update(carry.state, carry.stats, sums, rate, program=program)

        start = LoopCarry(
            state=flatten_state(state),
            stats=UpdateStats.zeros(len(chunk.seeds)),
            was_applied=jnp.array(True),
        )
        end = jax.lax.while_loop(has_next_update, update, start)
        return unflatten_state(end.state, like=state), end.stats

    state, stats = train_shard(state, chunk, rates, num_updates, class_weights)
    return state, jax.lax.with_sharding_constraint(
        stats, replicated_sharding(program.mesh)
    )


class BatchSums(NamedTuple):
    """Sums over the examples of a batch, for each network."""

    scores: ScoreSums  # [ensemble]
    grads: jax.Array  # float32 [ensemble, parameters]


def differentiate_batch(
    params: jax.Array,
    chunk: Chunk,
    step: jax.Array,
    class_weights: jax.Array | None,
    *,
    program: Program,
) -> BatchSums:
    """Differentiates the loss of the update after `step`, inside of `shard_map`.

    The parameters are float32 [ensemble, parameters].
    """
    differentiate = jax.value_and_grad(program.objective, has_aux=True)

    def sum_shard(
        params: jax.Array, seed: jax.Array, examples: StoredExamples
    ) -> jax.Array:
        """Returns the sums of one network over one shard, in one vector."""
        with jax.named_scope("batch"):
            shard = jax.lax.axis_index(BATCH)
            batch = program.transform(examples, seed, step, shard)
        tree = unflatten(params, abstract_params(program.model))
        # The loss that is differentiated is not used otherwise: the scores have the one
        # that is logged.
        (_, scores), grads = differentiate(tree, batch, class_weights)
        return pack_sums(scores, flatten(grads))

    # Maps the function over the ensemble axis of its arguments.
    sum_shards = map_ensemble(sum_shard, program.model.execution.vectorize_seeds)
    sums = sum_shards(params, chunk.seeds, chunk.examples_at(step))
    return unpack_sums(jax.lax.psum(sums, BATCH))


def pack_sums(scores: ScoreSums, grads: jax.Array) -> jax.Array:
    """Returns sums as one vector, which the devices exchange at once.

    The number of correct predictions in a batch is exact in float32.
    """
    correct = scores.correct.astype(jnp.float32)
    return jnp.concatenate([jnp.stack([scores.loss, correct]), grads])


def unpack_sums(sums: jax.Array) -> BatchSums:
    """Returns the sums in vectors from `pack_sums`, [ensemble, ...]."""
    loss, correct, grads = sums[:, 0], sums[:, 1], sums[:, 2:]
    scores = ScoreSums(loss=loss, correct=correct.astype(jnp.int32))
    return BatchSums(scores, grads)


def apply_update(
    old: TrainState[jax.Array],
    stats: UpdateStats,
    sums: BatchSums,
    rate: jax.Array,
    *,
    program: Program,
) -> LoopCarry:
    """Updates all networks, or none of them if a number is not finite.

    The rate is the learning rate, float32 [].
    """
    batch_size = program.transform.batch_size
    network = abstract_params(program.model)
    is_decayed = flatten_mask(decay_mask(network), network)

    def update_network(
        params: jax.Array,
        average: jax.Array | None,
        opt_state: optax.OptState,
        grads: jax.Array,
    ) -> tuple[jax.Array, jax.Array | None, optax.OptState, jax.Array, jax.Array]:
        norm = optax.tree.norm(grads)
        # As optax's `scale_by_...`, the optimizer has neither a learning rate nor a
        # sign: its result is subtracted.
        # optax mixes integers and floats, and a process can forbid that promotion.
        with jax.numpy_dtype_promotion("standard"):
            direction, opt_state = program.optimizer.update(grads, opt_state)
        if program.weight_decay:  # that of AdamW, which is not part of the gradient
            decayed = params
            if not is_decayed.all():  # known while tracing; see `decay_mask`
                decayed = jnp.where(is_decayed, params, 0)
            direction += program.weight_decay * decayed
        params = params - rate * direction
        if average is not None:
            average = update_average(average, params, old.step, program.ema_decay)
        is_finite = jnp.isfinite(norm) & jnp.isfinite(params).all()
        return params, average, opt_state, norm, is_finite

    with jax.named_scope("update"):
        update_networks = map_ensemble(
            update_network, program.model.execution.vectorize_seeds
        )
        mean_grads = sums.grads / batch_size
        params, average, opt_state, norms, is_finite = update_networks(
            old.params, old.ema_params, old.opt_state, mean_grads
        )
    new = TrainState(
        step=old.step + 1, params=params, ema_params=average, opt_state=opt_state
    )
    mean_loss = sums.scores.loss / batch_size
    is_finite &= jnp.isfinite(mean_loss)
    is_applied = is_finite.all()
    if program.mesh.shape[SEEDS] > 1:  # other devices have other networks
        is_applied = jax.lax.pmin(is_applied.astype(jnp.int32), SEEDS) == 1

    def choose(applied: jax.Array | int, rejected: jax.Array | int) -> jax.Array:
        return jnp.where(is_applied, applied, rejected)

    this_update = UpdateStats(
        updates=choose(applied=1, rejected=0),
        scores=jax.tree.map(lambda total: choose(total, 0), sums.scores),
        last_finite=is_finite,
        last_loss=mean_loss,
        last_norm=norms,
    )
    state = jax.tree.map(choose, new, old)
    return LoopCarry(state, stats.add(this_update), is_applied)


@functools.partial(jax.jit, static_argnames="program")
def score_last_batch(
    state: TrainState[Params], chunk: Chunk, *, program: Program
) -> ScoreSums:
    """Scores a state on the batch of its last update.

    The weights are those that validation uses: the average, if there is one. Returns
    sums over the batch, [ensemble].
    """

    @functools.partial(
        jax.shard_map,
        mesh=program.mesh,
        in_specs=(STATE_SPECS, CHUNK_SPECS),
        out_specs=OVER_SEEDS,
        check_vma=False,  # which would refuse the scan of the model
    )
    def score_shards(state: TrainState[Params], chunk: Chunk) -> ScoreSums:
        step = state.step - 1

        def score_shard(
            params: Params, seed: jax.Array, examples: StoredExamples
        ) -> ScoreSums:
            shard = jax.lax.axis_index(BATCH)
            batch = program.transform(examples, seed, step, shard)
            _, scores = program.objective(params, batch)
            return scores

        score_networks = map_ensemble(
            score_shard, program.model.execution.vectorize_seeds
        )
        scores = score_networks(
            state.evaluated_params, chunk.seeds, chunk.examples_at(step)
        )
        return jax.lax.psum(scores, BATCH)

    scores = score_shards(state, chunk)
    return jax.lax.with_sharding_constraint(scores, replicated_sharding(program.mesh))
