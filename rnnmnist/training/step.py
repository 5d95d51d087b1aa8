"""The training step: one compiled call for all updates up to the next event."""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax.training.train_state import TrainState
from jax.flatten_util import ravel_pytree
from jax.sharding import Mesh
from jax.sharding import PartitionSpec as P

from rnnmnist.config.schema import Config
from rnnmnist.data.batches import Batch, TrainingSplit
from rnnmnist.models.classifier import (
    Params,
    ensemble_size,
)
from rnnmnist.runtime.ensemble import gather_ensemble, map_ensemble
from rnnmnist.runtime.mesh import BATCH, SEEDS, ensemble_spec
from rnnmnist.training.optimizer import trained_weights
from rnnmnist.training.state import state_specs


@flax.struct.dataclass
class Metrics:
    """Sums over the updates that were finished, to be divided on the host.

    `fault_loss` and `fault_norm` are those of the update that was refused because
    one of them, or a parameter after it, was not finite; zeros where none was. A
    stack of networks has every field but `examples` for each member, [members].
    """

    loss: jax.Array  # float32 [], each image's cross-entropy, in nats
    correct: jax.Array  # int32 []
    examples: jax.Array  # int32 [], of each member
    fault: jax.Array  # bool [], whether it was this network's numbers
    fault_loss: jax.Array  # float32 []
    fault_norm: jax.Array  # float32 []

    @classmethod
    def zeros(cls, stack: tuple[int, ...] = ()) -> "Metrics":
        """Sums over nothing, for each member of a stack."""
        real, whole = jnp.zeros(stack, jnp.float32), jnp.zeros(stack, jnp.int32)
        examples = jnp.zeros((), jnp.int32)
        return cls(real, whole, examples, jnp.zeros(stack, bool), real, real)


def describe_fault(metrics: Metrics, config: Config) -> str:
    """Describes the update that was refused: whose it was, its loss and its gradient.

    Args:
        metrics: on the host, of one network or an ensemble.
        config: of the run.
    """
    first = int(np.argmax(metrics.fault))  # of an ensemble; 0 for one network
    loss, norm = (
        float(np.reshape(value, -1)[first])
        for value in (metrics.fault_loss, metrics.fault_norm)
    )
    return (
        f"{config.seed_suffix(first)} was not applied: its loss is {loss}, the norm of "
        f"its gradient {norm}"
    )


@flax.struct.dataclass
class Loop:
    """What a chunk of training carries from update to update."""

    state: TrainState
    metrics: Metrics
    finite: jax.Array  # bool [], of all networks

    @property
    def weights(self) -> Params:
        """What is trained: the parameters, or where they are an average, its newest."""
        return trained_weights(self.state.params, self.state.opt_state)

    def advance(
        self,
        grads: Params,
        loss: jax.Array,
        correct: jax.Array,
        examples: int,
        everywhere: Callable[[jax.Array], jax.Array],
    ) -> "Loop":
        """Applies a gradient, or keeps the old state if a number is not finite.

        One network that is not finite stops all: a stack has one step.

        Args:
            grads: of the batch's mean loss; of each member, as the rest.
            loss: sum over the batch, float32 [].
            correct: count over the batch, int32 [].
            examples: images in the batch.
            everywhere: whether all of this device's networks are finite, bool [], to
                whether all of all devices are.
        """
        update = map_ensemble(functools.partial(_update, self.state.tx), loss.ndim > 0)
        params, opt_state, norm, finite = update(
            self.state.params, self.state.opt_state, grads, loss
        )
        state = self.state.replace(
            step=self.state.step + 1, params=params, opt_state=opt_state
        )
        all_finite = everywhere(finite.all())

        def keep(new: Any, old: Any) -> jax.Array:
            return jnp.where(all_finite, new, old)

        zeros = jnp.zeros_like(loss)
        metrics = Metrics(
            loss=self.metrics.loss + keep(loss, zeros),
            correct=self.metrics.correct + keep(correct, jnp.zeros_like(correct)),
            examples=self.metrics.examples + keep(examples, 0),
            fault=~finite,
            fault_loss=keep(zeros, loss / examples),
            fault_norm=keep(zeros, norm),
        )
        return Loop(jax.tree.map(keep, state, self.state), metrics, all_finite)


@jax.named_scope("update")  # as a profile shows it
def _update(
    tx: optax.GradientTransformation,
    params: Params,
    opt_state: Any,
    grads: Params,
    loss: jax.Array,
) -> tuple[Params, Any, jax.Array, jax.Array]:
    """An update of one network, its gradient's norm, and whether all is finite."""
    norm = optax.tree.norm(grads)
    updates, opt_state = tx.update(grads, opt_state, params)
    params = optax.apply_updates(params, updates)
    finite = (
        jnp.isfinite(loss)
        & jnp.isfinite(norm)
        & jnp.stack(
            [jnp.isfinite(leaf).all() for leaf in jax.tree.leaves(params)]
        ).all()
    )
    return params, opt_state, norm, finite


def _split_specs(split: TrainingSplit) -> TrainingSplit:
    seed = ensemble_spec(split.seed.size)
    specs: dict[str, Any] = {"images": P(), "labels": P(), "seed": seed}
    return dataclasses.replace(split, **specs)


@functools.partial(jax.jit, static_argnames="mesh", donate_argnames="state")
def train_steps(
    state: TrainState, split: TrainingSplit, num_steps: jax.Array, *, mesh: Mesh
) -> tuple[TrainState, Metrics]:
    """Runs up to `num_steps` updates without returning to the host.

    `num_steps` is traced, so one compiled program serves every length. Stops
    before the first update whose loss, gradient or result is not finite, with
    `state.step` at the updates that were finished.

    Every device draws and differentiates its own share of the batch, for each of
    its networks; the shares meet in one sum of one flat vector. (Left to the
    compiler, with the batch under a sharding constraint, two CPU devices are slower
    than one.)

    Args:
        state: donated; use the returned one.
        split: as `TrainingSplit.device_put` lays it out.
        num_steps: int32 [].
        mesh: whose `seeds` divide the networks, and whose `batch` the batch.

    Returns:
        The new state, and metrics summed over the finished updates, on every device.
    """

    def one_shard(
        state: TrainState, split: TrainingSplit, num_steps: jax.Array
    ) -> tuple[TrainState, Metrics]:
        last = state.step + num_steps
        size = ensemble_size(state.params)  # of this device's part of the stack
        sums = functools.partial(share_sums, split, state.apply_fn, mesh)

        def cond(loop: Loop) -> jax.Array:
            return (loop.state.step < last) & loop.finite

        def one_step(loop: Loop) -> Loop:
            member = map_ensemble(functools.partial(sums, loop.state.step), bool(size))
            flat, unflatten = ravel_pytree(member(loop.weights, split.seed))
            loss, correct, grads = unflatten(jax.lax.psum(flat, BATCH))
            grads = jax.tree.map(lambda grad: grad / split.batch_size, grads)
            correct = correct.astype(jnp.int32)  # exact: below 2**24
            return loop.advance(grads, loss, correct, split.batch_size, everywhere)

        def everywhere(finite: jax.Array) -> jax.Array:
            if mesh.shape[SEEDS] == 1:
                return finite
            return jax.lax.pmin(finite.astype(jnp.int32), SEEDS) == 1

        stack = () if size is None else (size,)
        start = Loop(state, Metrics.zeros(stack), jnp.array(True))
        loop = jax.lax.while_loop(cond, one_step, start)
        return loop.state, gather_ensemble(loop.metrics, mesh)

    run = jax.shard_map(
        one_shard,
        mesh=mesh,
        in_specs=(state_specs(state), _split_specs(split), P()),
        out_specs=(state_specs(state), P()),
        check_vma=False,  # gradients stay a device's own until the sum above
    )
    return run(state, split, num_steps)


def share_sums(
    split: TrainingSplit,
    objective: Callable[..., Any],
    mesh: Mesh,
    step: jax.Array,
    params: Params,
    seed: jax.Array,
) -> tuple[jax.Array, jax.Array, Params]:
    """What a device's share of a batch says to one network, inside of `shard_map`.

    Returns:
        Sums over the share: loss, float32 []; right answers, float32 []; gradients.
    """
    batch = _own_share(split, mesh, step, seed)
    (loss, correct), grads = jax.value_and_grad(objective, has_aux=True)(params, *batch)
    return loss, correct.astype(jnp.float32), grads


@jax.named_scope("batch")
def _own_share(
    split: TrainingSplit, mesh: Mesh, step: jax.Array | int, seed: jax.Array
) -> Batch:
    """A device's share of one network's batch, inside of `shard_map`."""
    own = dataclasses.replace(split, seed=seed)
    return own.batch(step, jax.lax.axis_index(BATCH), mesh.shape[BATCH])


@functools.partial(jax.jit, static_argnames="mesh")
def score_last_batch(state: TrainState, split: TrainingSplit, *, mesh: Mesh) -> Metrics:
    """Sums over the batch of the last finished update, with the parameters after it."""

    def one_shard(state: TrainState, split: TrainingSplit) -> Metrics:
        size = ensemble_size(state.params)

        def member(params: Params, seed: jax.Array) -> tuple[jax.Array, jax.Array]:
            batch = _own_share(split, mesh, state.step - 1, seed)
            return state.apply_fn(params, *batch)

        sums = map_ensemble(member, bool(size))(state.params, split.seed)
        loss, correct = jax.lax.psum(sums, BATCH)
        metrics = dataclasses.replace(
            Metrics.zeros(loss.shape),
            loss=loss,
            correct=correct,
            examples=jnp.asarray(split.batch_size, jnp.int32),
        )
        return gather_ensemble(metrics, mesh)

    run = jax.shard_map(
        one_shard,
        mesh=mesh,
        in_specs=(state_specs(state), _split_specs(split)),
        out_specs=P(),
        check_vma=False,
    )
    return run(state, split)
