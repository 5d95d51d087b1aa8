"""One compiled call from a state to the state some updates later, and to counts."""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
import optax
from flax.training.train_state import TrainState
from jax.flatten_util import ravel_pytree
from jax.sharding import Mesh, NamedSharding, Sharding
from jax.sharding import PartitionSpec as P

from rnnmnist.config.schema import Config
from rnnmnist.data.batches import Batch, TrainingSplit
from rnnmnist.models.classifier import (
    CLASSES,
    Params,
    RowReader,
    init_params,
    stack_size,
)
from rnnmnist.runtime.mesh import BATCH, SEEDS, by_member
from rnnmnist.runtime.rng import Stream, stream_key
from rnnmnist.training.loss import Objective
from rnnmnist.training.optimizer import make_optimizer, trained_weights


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


@flax.struct.dataclass
class Counts:
    """Sums over images that were scored; of a stack, with a leading axis of members."""

    loss: jax.Array  # float32 [], each image's cross-entropy, in nats
    confusion: jax.Array  # int32 [classes, classes], true class by answer


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
        update = each_member(functools.partial(_update, self.state.tx), loss.ndim > 0)
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


def each_member(function: Callable[..., Any], stacked: bool) -> Callable[..., Any]:
    """A function of one network's arrays, for every member of a stack of them.

    All members at once where that fills an accelerator, by `vmap`; one after the
    other on a CPU, whose cores a single network fills already: there the products
    of a batch of networks are slower.

    Args:
        function: of trees of arrays.
        stacked: whether its arguments and results have a leading axis of members;
            without one it is the function itself.
    """
    if not stacked:
        return function
    return jax.vmap(function) if at_once() else _one_by_one(function)


def at_once() -> bool:
    """Whether the devices compute all members of a stack at the same time."""
    return jax.default_backend() != "cpu"


def _one_by_one(function: Callable[..., Any]) -> Callable[..., Any]:
    def every(*stacked: Any) -> Any:
        return jax.lax.map(lambda member: function(*member), stacked)

    return every


def create_state(config: Config, model: RowReader, mesh: Mesh) -> TrainState:
    """The state before the first update, laid out over a mesh.

    Returns:
        Flax's `TrainState`, whose arrays (`step`, `params`, `opt_state`) are what
        a resume needs and nothing else: batches follow from the seed and step.
        `params` are what is evaluated; `apply_fn` is the objective. With
        several seeds, `params` and `opt_state` have a leading axis of members, which
        lies over the mesh's `seeds`; otherwise every device has the same.
    """
    create = _state_maker(config, model)
    specs = _state_specs(jax.eval_shape(create))
    shardings = jax.tree.map(functools.partial(NamedSharding, mesh), specs)
    return jax.jit(create, out_shardings=shardings)()


def abstract_state(config: Config, model: RowReader, sharding: Sharding) -> TrainState:
    """The shapes and types of a run's state, to be restored onto devices."""
    shapes = jax.eval_shape(_state_maker(config, model))
    return jax.tree.map(lambda leaf: leaf.update(sharding=sharding), shapes)


def _state_maker(config: Config, model: RowReader) -> Callable[[], TrainState]:
    tx = make_optimizer(config.train)

    def member(seed: int | jax.Array) -> tuple[Any, Any]:
        key = stream_key(seed, Stream.WEIGHTS)
        params = init_params(model, key, config.model.forget_bias)
        return params, tx.init(params)

    def create() -> TrainState:
        if config.num_seeds == 1:
            params, opt_state = member(config.seed)
        else:
            params, opt_state = jax.vmap(member)(jnp.asarray(config.seeds, jnp.uint32))
        return TrainState(
            # An array from the start: a Python number would compile everything twice.
            step=jnp.zeros((), jnp.int32),
            apply_fn=Objective.of(config.train, model),
            params=params,
            tx=tx,
            opt_state=opt_state,
        )

    return create


def _state_specs(state: TrainState) -> TrainState:
    """How a state lies over a mesh: members over its seeds, the step everywhere."""
    spec = by_member(stack_size(state.params) or 1)
    return state.replace(step=P(), params=spec, opt_state=spec)


def _split_specs(split: TrainingSplit) -> TrainingSplit:
    seed = by_member(split.seed.size)
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
        split: as `TrainingSplit.put` lays it out.
        num_steps: int32 [].
        mesh: whose `seeds` divide the networks, and whose `batch` the batch.

    Returns:
        The new state, and metrics summed over the finished updates, on every device.
    """

    def one_shard(
        state: TrainState, split: TrainingSplit, num_steps: jax.Array
    ) -> tuple[TrainState, Metrics]:
        last = state.step + num_steps
        size = stack_size(state.params)  # of this device's part of the stack
        sums = functools.partial(share_sums, split, state.apply_fn, mesh)

        def going_on(loop: Loop) -> jax.Array:
            return (loop.state.step < last) & loop.finite

        def one_step(loop: Loop) -> Loop:
            member = each_member(functools.partial(sums, loop.state.step), bool(size))
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
        loop = jax.lax.while_loop(going_on, one_step, start)
        return loop.state, whole_stack(loop.metrics, mesh)

    run = jax.shard_map(
        one_shard,
        mesh=mesh,
        in_specs=(_state_specs(state), _split_specs(split), P()),
        out_specs=(_state_specs(state), P()),
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


def whole_stack(tree: Any, mesh: Mesh) -> Any:
    """A device's part of a stack's sums, as the whole stack's; `[]` stays as it is."""
    if mesh.shape[SEEDS] == 1:
        return tree  # which is the whole already
    return jax.tree.map(
        lambda leaf: jax.lax.all_gather(leaf, SEEDS, tiled=True) if leaf.ndim else leaf,
        tree,
    )


@functools.partial(jax.jit, static_argnames="mesh")
def score_last_batch(state: TrainState, split: TrainingSplit, *, mesh: Mesh) -> Metrics:
    """Sums over the batch of the last finished update, with the parameters after it."""

    def one_shard(state: TrainState, split: TrainingSplit) -> Metrics:
        size = stack_size(state.params)

        def member(params: Params, seed: jax.Array) -> tuple[jax.Array, jax.Array]:
            batch = _own_share(split, mesh, state.step - 1, seed)
            return state.apply_fn(params, *batch)

        sums = each_member(member, bool(size))(state.params, split.seed)
        loss, correct = jax.lax.psum(sums, BATCH)
        metrics = dataclasses.replace(
            Metrics.zeros(loss.shape),
            loss=loss,
            correct=correct,
            examples=jnp.asarray(split.batch_size, jnp.int32),
        )
        return whole_stack(metrics, mesh)

    run = jax.shard_map(
        one_shard,
        mesh=mesh,
        in_specs=(_state_specs(state), _split_specs(split)),
        out_specs=P(),
        check_vma=False,
    )
    return run(state, split)


@functools.partial(jax.jit, static_argnames=("model", "mesh"))
def count_batches(
    params: Params,
    images: jax.Array,
    labels: jax.Array,
    *,
    model: RowReader,
    mesh: Mesh,
) -> Counts:
    """Scores images in one call, batch after batch, each device its own share.

    Args:
        params: of the model, or of a stack of them.
        images: uint8 [batches, batch, rows, columns].
        labels: int32 [batches, batch]; a negative label marks padding, which
            counts for nothing.
        model: static.
        mesh: whose `batch` divides the batch, and whose `seeds` the stack.

    Returns:
        Sums over all images that are not padding.
    """

    def one_shard(params: Params, images: jax.Array, labels: jax.Array) -> Counts:
        size = stack_size(params)

        def member(params: Params) -> Counts:
            score = functools.partial(_count_batch, model, params)
            start = Counts(
                jnp.zeros((), jnp.float32), jnp.zeros((CLASSES, CLASSES), jnp.int32)
            )
            return jax.lax.scan(score, start, Batch(images, labels))[0]

        counts = jax.lax.psum(each_member(member, bool(size))(params), BATCH)
        return whole_stack(counts, mesh)

    spec = by_member(stack_size(params) or 1)
    run = jax.shard_map(
        one_shard,
        mesh=mesh,
        in_specs=(spec, P(None, BATCH), P(None, BATCH)),
        out_specs=P(),
        check_vma=False,
    )
    return run(params, images, labels)


def _count_batch(
    model: RowReader, params: Params, counts: Counts, batch: Batch
) -> tuple[Counts, None]:
    logits = jnp.asarray(model.apply({"params": params}, batch.images))
    real = batch.labels >= 0
    labels = jnp.where(real, batch.labels, 0)
    losses = optax.softmax_cross_entropy_with_integer_labels(logits, labels)
    confusion = counts.confusion.at[labels, logits.argmax(-1)].add(
        real.astype(jnp.int32)
    )
    return Counts(counts.loss + jnp.sum(losses, where=real), confusion), None
