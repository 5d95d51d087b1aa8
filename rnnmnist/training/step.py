"""The training step: one compiled call for all updates up to the next event."""

import dataclasses
import functools
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
import optax
from flax.training.train_state import TrainState
from jax.flatten_util import ravel_pytree
from jax.sharding import Mesh
from jax.sharding import PartitionSpec as P

from rnnmnist.data.batches import Batch, TrainingSplit
from rnnmnist.models.classifier import Params, ensemble_size
from rnnmnist.runtime.ensemble import gather_ensemble, map_ensemble
from rnnmnist.runtime.mesh import BATCH, SEEDS, ensemble_spec
from rnnmnist.training.optimizer import trained_weights
from rnnmnist.training.state import state_specs


@flax.struct.dataclass
class Metrics:
    """Sums over the applied updates, to be divided on the host.

    An update whose loss, gradient or new parameters are not finite is rejected. Then
    `rejected_loss` and `rejected_norm` describe it; otherwise they are zero. For an
    ensemble, every field but `examples` has shape [seeds].
    """

    loss: jax.Array  # float32 [], cross-entropy in nats, summed over images
    correct: jax.Array  # int32 []
    examples: jax.Array  # int32 [], images per network
    nonfinite: jax.Array  # bool [], whether this network caused the rejection
    rejected_loss: jax.Array  # float32 [], mean over the batch
    rejected_norm: jax.Array  # float32 [], global norm of the gradient

    @classmethod
    def zeros(cls, shape: tuple[int, ...] = ()) -> "Metrics":
        """Returns empty sums: of shape [] for one network, [seeds] for an ensemble."""
        real, whole = jnp.zeros(shape, jnp.float32), jnp.zeros(shape, jnp.int32)
        examples = jnp.zeros((), jnp.int32)
        return cls(real, whole, examples, jnp.zeros(shape, bool), real, real)


@flax.struct.dataclass
class LoopState:
    """The carry of the loop over updates."""

    state: TrainState
    metrics: Metrics
    finite: jax.Array  # bool [], whether all networks are finite


@functools.partial(jax.jit, static_argnames="mesh", donate_argnames="state")
def train_steps(
    state: TrainState, split: TrainingSplit, num_steps: jax.Array, *, mesh: Mesh
) -> tuple[TrainState, Metrics]:
    """Runs up to `num_steps` updates without returning to the host.

    `num_steps` is traced, so one compiled program serves every length. The loop stops
    before the first update whose loss, gradient or new parameters are not finite;
    `state.step` counts the applied updates.

    Every device draws and differentiates its own shard of the batch. The sums over
    shards are one `psum` of one flat vector. (With automatic partitioning, by a
    sharding constraint on the batch, two CPU devices are slower than one.)

    Args:
        state: donated; use the returned one.
        split: from `TrainingSplit.device_put`.
        num_steps: int32 [].
        mesh: splits the networks over `seeds` and each batch over `batch`.

    Returns:
        The new state, and metrics summed over the applied updates, on every device.
    """

    def train_shard(
        state: TrainState, split: TrainingSplit, num_steps: jax.Array
    ) -> tuple[TrainState, Metrics]:
        last = state.step + num_steps
        size = ensemble_size(state.params)  # of this device's shard of the ensemble

        def cond(loop: LoopState) -> jax.Array:
            return (loop.state.step < last) & loop.finite

        def body(loop: LoopState) -> LoopState:
            loss, correct, grads = batch_gradients(loop.state, split, mesh)
            return apply_update(loop, loss, correct, grads, split.batch_size, mesh)

        metrics = Metrics.zeros(() if size is None else (size,))
        start = LoopState(state, metrics, jnp.array(True))
        loop = jax.lax.while_loop(cond, body, start)
        return loop.state, gather_ensemble(loop.metrics, mesh)

    run = jax.shard_map(
        train_shard,
        mesh=mesh,
        in_specs=(state_specs(state), _split_specs(split), P()),
        out_specs=(state_specs(state), P()),
        check_vma=False,  # gradients differ between devices until their psum
    )
    return run(state, split, num_steps)


def batch_gradients(
    state: TrainState, split: TrainingSplit, mesh: Mesh
) -> tuple[jax.Array, jax.Array, Params]:
    """Differentiates the loss over the next batch, inside `shard_map`.

    Returns:
        The summed loss, float32 []; the number of correct predictions, int32 []; the
        gradient of the mean loss. For an ensemble, all have an ensemble axis.
    """

    def shard_sums(
        params: Params, seed: jax.Array
    ) -> tuple[jax.Array, jax.Array, Params]:
        batch = _batch_shard(split, mesh, state.step, seed)
        value_and_grad = jax.value_and_grad(state.apply_fn, has_aux=True)
        (loss, correct), grads = value_and_grad(params, *batch)
        return loss, correct.astype(jnp.float32), grads

    sums = map_ensemble(shard_sums, ensemble_size(state.params) is not None)
    weights = trained_weights(state.params, state.opt_state)
    flat, unflatten = ravel_pytree(sums(weights, split.seed))
    loss, correct, grads = unflatten(jax.lax.psum(flat, BATCH))
    grads = jax.tree.map(lambda grad: grad / split.batch_size, grads)
    return loss, correct.astype(jnp.int32), grads  # exact: below 2**24


def apply_update(
    loop: LoopState,
    loss: jax.Array,
    correct: jax.Array,
    grads: Params,
    examples: int,
    mesh: Mesh,
) -> LoopState:
    """Applies a gradient to all networks, or to none if a number is not finite.

    `loss`, `correct` and `grads` are those of `batch_gradients`, for a batch of
    `examples` images.
    """
    update = map_ensemble(functools.partial(_update, loop.state.tx), loss.ndim > 0)
    params, opt_state, norm, finite = update(
        loop.state.params, loop.state.opt_state, grads, loss
    )
    state = loop.state.replace(
        step=loop.state.step + 1, params=params, opt_state=opt_state
    )
    all_finite = finite.all()
    if mesh.shape[SEEDS] > 1:
        all_finite = jax.lax.pmin(all_finite.astype(jnp.int32), SEEDS) == 1

    def where_finite(new: Any, old: Any) -> jax.Array:
        return jnp.where(all_finite, new, old)

    zeros = jnp.zeros_like(loss)
    metrics = Metrics(
        loss=loop.metrics.loss + where_finite(loss, zeros),
        correct=loop.metrics.correct + where_finite(correct, jnp.zeros_like(correct)),
        examples=loop.metrics.examples + where_finite(examples, 0),
        nonfinite=~finite,
        rejected_loss=where_finite(zeros, loss / examples),
        rejected_norm=where_finite(zeros, norm),
    )
    state = jax.tree.map(where_finite, state, loop.state)
    return LoopState(state, metrics, all_finite)


@jax.named_scope("update")
def _update(
    tx: optax.GradientTransformation,
    params: Params,
    opt_state: Any,
    grads: Params,
    loss: jax.Array,
) -> tuple[Params, Any, jax.Array, jax.Array]:
    """Updates one network; returns also the gradient norm and whether all is finite."""
    norm = optax.tree.norm(grads)
    updates, opt_state = tx.update(grads, opt_state, params)
    params = optax.apply_updates(params, updates)
    leaves = [jnp.isfinite(leaf).all() for leaf in jax.tree.leaves(params)]
    finite = jnp.isfinite(loss) & jnp.isfinite(norm) & jnp.stack(leaves).all()
    return params, opt_state, norm, finite


@jax.named_scope("batch")
def _batch_shard(
    split: TrainingSplit, mesh: Mesh, step: jax.Array | int, seed: jax.Array
) -> Batch:
    """Draws this device's shard of one network's batch, inside `shard_map`."""
    own = dataclasses.replace(split, seed=seed)
    return own.batch(step, jax.lax.axis_index(BATCH), mesh.shape[BATCH])


def _split_specs(split: TrainingSplit) -> TrainingSplit:
    seed = ensemble_spec(split.seed.size)
    return split.replace(images=P(), labels=P(), seed=seed)  # type: ignore[attr-defined]


@functools.partial(jax.jit, static_argnames="mesh")
def score_last_batch(state: TrainState, split: TrainingSplit, *, mesh: Mesh) -> Metrics:
    """Evaluates the current parameters on the batch of the last update."""

    def score_shard(state: TrainState, split: TrainingSplit) -> Metrics:
        def shard_sums(params: Params, seed: jax.Array) -> tuple[jax.Array, jax.Array]:
            batch = _batch_shard(split, mesh, state.step - 1, seed)
            return state.apply_fn(params, *batch)

        sums = map_ensemble(shard_sums, ensemble_size(state.params) is not None)
        loss, correct = jax.lax.psum(sums(state.params, split.seed), BATCH)
        metrics = dataclasses.replace(
            Metrics.zeros(loss.shape),
            loss=loss,
            correct=correct,
            examples=jnp.asarray(split.batch_size, jnp.int32),
        )
        return gather_ensemble(metrics, mesh)

    run = jax.shard_map(
        score_shard,
        mesh=mesh,
        in_specs=(state_specs(state), _split_specs(split)),
        out_specs=P(),
        check_vma=False,
    )
    return run(state, split)
