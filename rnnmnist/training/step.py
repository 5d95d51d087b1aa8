"""The training step: one compiled call for all updates of a chunk of batches.

In each update of a network:

1. Every device makes the inputs of its shard of the batch (`BatchTransform`).
2. It computes the loss and the gradients of the shard (`Objective`).
3. The devices add up their sums (`jax.lax.psum`).
4. The optimizer updates the weights, unless a number is not finite (`apply_update`).

Everywhere else, the weights of a network are a tree of arrays. In the loop over updates
they are one vector, because one operation on a vector is faster than one for each array
of a tree.
"""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax

from rnnmnist.data.batches import Chunk, StoredExamples, chunk_specs
from rnnmnist.models.classifier import Params, abstract_params
from rnnmnist.runtime.mesh import BATCH, SEEDS, Specs, map_ensemble, replicated_sharding
from rnnmnist.training.loss import BatchScores
from rnnmnist.training.optimizer import decay_mask, update_average
from rnnmnist.training.state import Program, TrainState, state_specs
from rnnmnist.training.vectors import (
    flatten,
    flatten_state,
    unflatten,
    unflatten_state,
)


class UpdateStats(NamedTuple):
    """Sums over the applied updates of each network, and what the last one was.

    An update whose loss, gradient or new parameters are not finite is rejected. The
    last three fields describe the last update, applied or rejected. Every field but
    `updates` has the shape [ensemble].
    """

    updates: jax.Array  # int32 []
    loss: jax.Array  # float32, cross-entropy in nats, summed over examples
    correct: jax.Array  # int32
    finite: jax.Array  # bool, whether the update of this network is finite
    last_loss: jax.Array  # float32, mean over the batch
    last_norm: jax.Array  # float32, global norm of the gradient

    @classmethod
    def zeros(cls, networks: int) -> "UpdateStats":
        """Returns the statistics before the first update."""
        zeros = jnp.zeros(networks, jnp.float32)
        return cls(
            updates=jnp.zeros((), jnp.int32),
            loss=zeros,
            correct=jnp.zeros(networks, jnp.int32),
            finite=jnp.ones(networks, bool),
            last_loss=zeros,
            last_norm=zeros,
        )

    def add(self, later: "UpdateStats") -> "UpdateStats":
        """Adds the statistics of later updates."""
        return later._replace(
            updates=self.updates + later.updates,
            loss=self.loss + later.loss,
            correct=self.correct + later.correct,
        )


def stats_specs(stats: UpdateStats) -> Specs:
    """Returns how statistics are partitioned over a mesh."""
    specs: Specs = jax.tree.map(lambda _: jax.P(SEEDS), stats)
    return specs._replace(updates=jax.P())


class Loop(NamedTuple):
    """What an update changes."""

    state: TrainState[jax.Array]  # with weights as vectors
    stats: UpdateStats
    all_finite: jax.Array  # bool [], whether the last update was applied


class BatchSums(NamedTuple):
    """Sums over the examples of a batch, for each network."""

    loss: jax.Array  # float32 [ensemble]
    correct: jax.Array  # int32 [ensemble]
    grads: jax.Array  # float32 [ensemble, parameters], of the loss that is minimized


@functools.partial(jax.jit, static_argnames="program", donate_argnames="state")
def train_steps(
    state: TrainState[Params],
    chunk: Chunk,
    rates: jax.Array,
    num_steps: jax.Array,
    class_weights: jax.Array | None = None,
    *,
    program: Program,
) -> tuple[TrainState[Params], UpdateStats]:
    """Runs up to `num_steps` updates without returning to the host.

    The loop stops before the first update that is rejected.

    Args:
        state: is donated: its memory is used for the new one.
        chunk: has the examples of these updates.
        rates: the learning rates of the chunk's updates, float32 [updates].
        num_steps: int32 []. Like the rates and the class weights, it is traced, so that
            one compiled program serves all.
        class_weights: float32 [classes]; None: all are 1.
        program: is compiled.

    Returns:
        The new state, and the statistics of the updates.
    """
    stats = UpdateStats.zeros(len(chunk.seeds))

    # Every device computes the gradients of its own shard of the batch. With automatic
    # partitioning, by a sharding constraint, two CPU devices are slower than one.
    @functools.partial(
        jax.shard_map,
        mesh=program.mesh,
        in_specs=(
            state_specs(state),
            stats_specs(stats),
            chunk_specs(chunk),
            jax.P(),  # every device has the whole of the other arrays
            jax.P(),
            jax.P(),
        ),
        out_specs=(state_specs(state), stats_specs(stats)),
        check_vma=False,  # gradients differ between devices until their sum
    )
    def train_shard(
        state: TrainState[Params],
        stats: UpdateStats,
        chunk: Chunk,
        rates: jax.Array,
        num_steps: jax.Array,
        class_weights: jax.Array | None,
    ) -> tuple[TrainState[Params], UpdateStats]:
        def has_next_update(loop: Loop) -> jax.Array:
            return (loop.stats.updates < num_steps) & loop.all_finite

        def update(loop: Loop) -> Loop:
            step = loop.state.step
            sums = differentiate_batch(
                loop.state.params, chunk, step, class_weights, program=program
            )
            rate = rates[step - chunk.first]
            return apply_update(loop.state, loop.stats, sums, rate, program=program)

        vectors = flatten_state(state)
        start = Loop(vectors, stats, all_finite=jnp.array(True))
        end = jax.lax.while_loop(has_next_update, update, start)
        return unflatten_state(end.state, like=state), end.stats

    state, stats = train_shard(state, stats, chunk, rates, num_steps, class_weights)
    return state, jax.lax.with_sharding_constraint(
        stats, replicated_sharding(program.mesh)
    )


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
        """Returns the scores and the gradients of one network, in one vector."""
        with jax.named_scope("batch"):
            shard = jax.lax.axis_index(BATCH)
            batch = program.transform(examples, seed, step, shard)
        tree = unflatten(params, abstract_params(program.model))
        (_, scores), grads = differentiate(tree, batch, class_weights)
        return jnp.concatenate([stack_scores(scores), flatten(grads)])

    # Maps the function over the ensemble axis of its arguments.
    sum_shards = map_ensemble(sum_shard, program.model.execution.vectorize_seeds)
    sums = sum_shards(params, chunk.seeds, chunk.examples_at(step))
    sums = jax.lax.psum(sums, BATCH)  # of one vector: one exchange between devices
    loss, correct, grads = sums[:, 0], sums[:, 1], sums[:, 2:]
    return BatchSums(loss, correct.astype(jnp.int32), grads)


def stack_scores(scores: BatchScores) -> jax.Array:
    """Returns scores as one vector, float32 [2], in which counts are still exact."""
    return jnp.stack([scores.loss, scores.correct.astype(jnp.float32)])


def apply_update(
    old: TrainState[jax.Array],
    stats: UpdateStats,
    sums: BatchSums,
    rate: jax.Array,
    *,
    program: Program,
) -> Loop:
    """Applies an update to all networks, or to none if a number is not finite.

    The rate is the learning rate, float32 [].
    """
    batch_size = program.transform.batch_size
    is_decayed = decay_mask(abstract_params(program.model))  # NumPy's, not traced

    def update_network(
        params: jax.Array,
        average: jax.Array | None,
        opt_state: optax.OptState,
        grads: jax.Array,
    ) -> tuple[jax.Array, jax.Array | None, optax.OptState, jax.Array, jax.Array]:
        norm = optax.tree.norm(grads)
        # AdamW uses the parameters only to decay them; 0 is not decayed.
        decayed = params if is_decayed.all() else jnp.where(is_decayed, params, 0)
        with jax.numpy_dtype_promotion("standard"):  # optax's step is an integer
            updates, opt_state = program.optimizer.update(grads, opt_state, decayed)
        params = params - rate * updates
        if average is not None:
            average = update_average(average, params, old.step, program.ema_decay)
        is_finite = jnp.isfinite(norm) & jnp.isfinite(params).all()
        return params, average, opt_state, norm, is_finite

    with jax.named_scope("update"):
        update_networks = map_ensemble(
            update_network, program.model.execution.vectorize_seeds
        )
        params, average, opt_state, norms, is_finite = update_networks(
            old.params, old.ema_params, old.opt_state, sums.grads / batch_size
        )
    new = TrainState(old.step + 1, params, average, opt_state)
    mean_loss = sums.loss / batch_size
    is_finite &= jnp.isfinite(mean_loss)
    all_finite = is_finite.all()
    if program.mesh.shape[SEEDS] > 1:  # other devices have other networks
        all_finite = jax.lax.pmin(all_finite.astype(jnp.int32), SEEDS) == 1

    def choose(applied: jax.Array | int, rejected: jax.Array | int) -> jax.Array:
        return jnp.where(all_finite, applied, rejected)

    this_update = UpdateStats(
        updates=choose(applied=1, rejected=0),
        loss=choose(applied=sums.loss, rejected=0),
        correct=choose(applied=sums.correct, rejected=0),
        finite=is_finite,
        last_loss=mean_loss,
        last_norm=norms,
    )
    state = jax.tree.map(choose, new, old)
    return Loop(state, stats.add(this_update), all_finite)


@functools.partial(jax.jit, static_argnames="program")
def score_last_batch(
    state: TrainState[Params], chunk: Chunk, *, program: Program
) -> BatchScores:
    """Scores the evaluated parameters on the batch of the last update, after it.

    The scores are [ensemble], summed over the batch.
    """

    @functools.partial(
        jax.shard_map,
        mesh=program.mesh,
        in_specs=(state_specs(state), chunk_specs(chunk)),
        out_specs=jax.P(SEEDS),
        check_vma=False,  # scores differ between devices until their sum
    )
    def score_shards(state: TrainState[Params], chunk: Chunk) -> jax.Array:
        step = state.step - 1

        def score_shard(
            params: Params, seed: jax.Array, examples: StoredExamples
        ) -> jax.Array:
            shard = jax.lax.axis_index(BATCH)
            batch = program.transform(examples, seed, step, shard)
            _, scores = program.objective(params, batch)
            return stack_scores(scores)

        score_networks = map_ensemble(
            score_shard, program.model.execution.vectorize_seeds
        )
        sums = score_networks(
            state.evaluated_params, chunk.seeds, chunk.examples_at(step)
        )
        return jax.lax.psum(sums, BATCH)

    sums = score_shards(state, chunk)
    sums = jax.lax.with_sharding_constraint(sums, replicated_sharding(program.mesh))
    return BatchScores(loss=sums[:, 0], correct=sums[:, 1].astype(jnp.int32))
