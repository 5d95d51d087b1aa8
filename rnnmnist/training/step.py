"""The training step: one compiled call for all updates of a chunk of batches."""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from rnnmnist.data.batches import CHUNK_SPECS, Batch, Chunk
from rnnmnist.models.classifier import Params, flatten_params, unflatten_params
from rnnmnist.runtime.mesh import BATCH, SEEDS, map_ensemble, replicated
from rnnmnist.training.optimizer import average, decay_mask
from rnnmnist.training.state import STATE_SPECS, Program, TrainState


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
    def zeros(cls, seeds: int) -> "UpdateStats":
        """Returns the statistics before the first update."""
        zeros = jnp.zeros(seeds, jnp.float32)
        return cls(
            updates=jnp.zeros((), jnp.int32),
            loss=zeros,
            correct=jnp.zeros(seeds, jnp.int32),
            finite=jnp.ones(seeds, bool),
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


# The partition of statistics over a mesh, one spec for each field.
STATS_SPECS: Any = UpdateStats(jax.P(), *[jax.P(SEEDS)] * 5)  # type: ignore[arg-type]
Loop = tuple[TrainState, UpdateStats, jax.Array]  # bool []: all networks are finite


@functools.partial(jax.jit, static_argnames="program", donate_argnames="state")
def train_steps(
    state: TrainState,
    chunk: Chunk,
    rates: jax.Array,
    num_steps: jax.Array,
    class_weights: jax.Array | None = None,
    *,
    program: Program,
) -> tuple[TrainState, UpdateStats]:
    """Runs up to `num_steps` updates without returning to the host.

    `rates` are the learning rates of the chunk's updates, float32 [updates]. Like the
    number of steps and the class weights, float32 [classes], they are traced, so that
    one compiled program serves all. The loop stops before the first update whose loss,
    gradient or new parameters are not finite.

    Every device differentiates its own shard of the batch. The sums over shards are one
    `psum` of one flat vector. (With automatic partitioning, by a sharding constraint on
    the batch, two CPU devices are slower than one.)

    The state is donated. Returns the new one, and the statistics of the updates.
    """

    @functools.partial(
        jax.shard_map,
        mesh=program.mesh,
        in_specs=(STATE_SPECS, CHUNK_SPECS, jax.P(), jax.P(), jax.P()),
        out_specs=(STATE_SPECS, STATS_SPECS),
        check_vma=False,  # gradients differ between devices until their psum
    )
    def train_shard(
        state: TrainState,
        chunk: Chunk,
        rates: jax.Array,
        num_steps: jax.Array,
        class_weights: jax.Array | None,
    ) -> tuple[TrainState, UpdateStats]:
        def cond(loop: Loop) -> jax.Array:
            _, stats, finite = loop
            return (stats.updates < num_steps) & finite

        def body(loop: Loop) -> Loop:
            state, stats, _ = loop
            batch_sums = sum_batch(state, chunk, class_weights, program=program)
            rate = rates[state.step - chunk.first]
            return apply_update(state, stats, rate, *batch_sums, program=program)

        loop = (state, UpdateStats.zeros(len(chunk.seed)), jnp.array(True))
        state, stats, _ = jax.lax.while_loop(cond, body, loop)
        return state, stats

    state, stats = train_shard(state, chunk, rates, num_steps, class_weights)
    return state, jax.lax.with_sharding_constraint(stats, replicated(program.mesh))


def sum_batch(
    state: TrainState,
    chunk: Chunk,
    class_weights: jax.Array | None = None,
    *,
    program: Program,
    gradients: bool = True,
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Evaluates, and differentiates, the loss of the next batch, inside `shard_map`.

    Returns sums over the batch: the loss, float32 [ensemble], the correct predictions,
    int32 [ensemble], and the weighted gradients, float32 [ensemble, parameters or 0].
    """

    def shard_sums(params: jax.Array, seed: jax.Array, stored: Batch) -> jax.Array:
        with jax.named_scope("batch"):
            shard = jax.lax.axis_index(BATCH)
            inputs = program.transform(stored.inputs, seed, state.step, shard)
        batch = stored._replace(inputs=inputs)
        tree = unflatten_params(params, program.model)
        grads: Params = {}
        if gradients:
            differentiate = jax.value_and_grad(program.objective, has_aux=True)
            (_, (loss, correct)), grads = differentiate(tree, batch, class_weights)
        else:
            _, (loss, correct) = program.objective(tree, batch)
        sums = jnp.stack([loss, correct.astype(jnp.float32)])  # exact: below 2**24
        return jnp.concatenate([sums, flatten_params(grads)])

    sums = map_ensemble(shard_sums, program.model.execution.vectorize_seeds)(
        state.params, chunk.seed, chunk.batch(state.step)
    )
    sums = jax.lax.psum(sums, BATCH)
    return sums[:, 0], sums[:, 1].astype(jnp.int32), sums[:, 2:]


def apply_update(
    old: TrainState,
    stats: UpdateStats,
    rate: jax.Array,
    loss: jax.Array,
    correct: jax.Array,
    grads: jax.Array,
    *,
    program: Program,
) -> Loop:
    """Applies an update to all networks, or to none if a number is not finite.

    Loss, correct predictions and gradients are sums over the batch.
    """
    decayed = decay_mask(program.model)
    examples = program.transform.batch_size
    mean_loss = loss / examples

    def update(
        params: jax.Array, ema_params: Any, opt_state: Any, grads: jax.Array
    ) -> tuple[Any, ...]:
        norm = optax.tree.norm(grads)
        # AdamW reads the parameters only to decay them.
        to_decay = params if decayed.all() else jnp.where(decayed, params, 0)
        with jax.numpy_dtype_promotion("standard"):  # optax's step is an integer
            updates, opt_state = program.optimizer.update(grads, opt_state, to_decay)
        params = params - rate * updates
        if ema_params is not None:
            ema_params = average(ema_params, params, old.step, program.ema_decay)
        finite = jnp.isfinite(norm) & jnp.isfinite(params).all()
        return params, ema_params, opt_state, norm, finite

    with jax.named_scope("update"):
        params, ema_params, opt_state, norm, finite = map_ensemble(
            update, program.model.execution.vectorize_seeds
        )(old.params, old.ema_params, old.opt_state, grads / examples)
    new = TrainState(old.step + 1, params, ema_params, opt_state)
    finite &= jnp.isfinite(mean_loss)
    all_finite = finite.all()
    if program.mesh.shape[SEEDS] > 1:
        all_finite = jax.lax.pmin(all_finite.astype(jnp.int32), SEEDS) == 1

    def where_finite(new: Any, old: Any) -> jax.Array:
        return jnp.where(all_finite, new, old)

    sums = where_finite(1, 0), where_finite(loss, 0), where_finite(correct, 0)
    stats = stats.add(UpdateStats(*sums, finite, mean_loss, norm))
    return jax.tree.map(where_finite, new, old), stats, all_finite


@functools.partial(jax.jit, static_argnames="program")
def score_last_batch(
    state: TrainState, chunk: Chunk, *, program: Program
) -> tuple[jax.Array, jax.Array]:
    """Scores the evaluated parameters on the batch of the last update.

    Returns the loss and the correct predictions, as `sum_batch` does.
    """

    @functools.partial(
        jax.shard_map,
        mesh=program.mesh,
        in_specs=(STATE_SPECS, CHUNK_SPECS),
        out_specs=jax.P(SEEDS),
        check_vma=False,
    )
    def score_shard(state: TrainState, chunk: Chunk) -> Any:
        last = state._replace(step=state.step - 1, params=state.evaluated_params)
        return sum_batch(last, chunk, program=program, gradients=False)[:2]

    scores = score_shard(state, chunk)
    return jax.lax.with_sharding_constraint(scores, replicated(program.mesh))
