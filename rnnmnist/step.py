"""One compiled call from a state to the state some updates later, and to counts."""

import functools
from collections.abc import Callable
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
import optax
from flax.training.train_state import TrainState
from jax.flatten_util import ravel_pytree
from jax.sharding import Mesh, Sharding
from jax.sharding import PartitionSpec as P

from rnnmnist.batches import Batch, TrainingSplit
from rnnmnist.config import Config, TrainConfig
from rnnmnist.mesh import AXIS, replicated
from rnnmnist.model import CLASSES, Params, RowReader, init_params
from rnnmnist.streams import Stream, stream_key


@flax.struct.dataclass
class Metrics:
    """Sums over the updates that were finished, to be divided on the host.

    `fault_loss` and `fault_norm` are those of the update that was refused because
    one of them, or a parameter after it, was not finite; zeros where none was.
    """

    loss: jax.Array  # float32 [], each image's cross-entropy, in nats
    correct: jax.Array  # int32 []
    examples: jax.Array  # int32 []
    fault_loss: jax.Array  # float32 []
    fault_norm: jax.Array  # float32 []

    @classmethod
    def zeros(cls) -> "Metrics":
        """Sums over nothing."""
        real, whole = jnp.zeros((), jnp.float32), jnp.zeros((), jnp.int32)
        return cls(real, whole, whole, real, real)


@flax.struct.dataclass
class Counts:
    """Sums over images that were scored."""

    loss: jax.Array  # float32 [], each image's cross-entropy, in nats
    confusion: jax.Array  # int32 [classes, classes], true class by answer


@flax.struct.dataclass
class Loop:
    """What a chunk of training carries from update to update."""

    state: TrainState
    metrics: Metrics
    finite: jax.Array  # bool []

    def advance(
        self, grads: Params, loss: jax.Array, correct: jax.Array, examples: int
    ) -> "Loop":
        """Applies a gradient, or keeps the old state if a number is not finite.

        Args:
            grads: of the batch's mean loss.
            loss: sum over the batch, float32 [].
            correct: count over the batch, int32 [].
            examples: images in the batch.
        """
        norm = optax.tree.norm(grads)
        state = self.state.apply_gradients(grads=grads)
        finite = (
            jnp.isfinite(loss)
            & jnp.isfinite(norm)
            & jnp.stack(
                [jnp.isfinite(leaf).all() for leaf in jax.tree.leaves(state.params)]
            ).all()
        )

        def keep(new: Any, old: Any) -> jax.Array:
            return jnp.where(finite, new, old)

        metrics = Metrics(
            loss=self.metrics.loss + keep(loss, 0.0),
            correct=self.metrics.correct + keep(correct, 0),
            examples=self.metrics.examples + keep(examples, 0),
            fault_loss=keep(0.0, loss / examples),
            fault_norm=keep(0.0, norm),
        )
        return Loop(jax.tree.map(keep, state, self.state), metrics, finite)


@functools.cache  # the same object again, so that jit knows it again
def make_optimizer(config: TrainConfig) -> optax.GradientTransformation:
    """Adam or AdamW on a schedule, behind clipping by global norm where asked."""
    schedule = make_schedule(config)
    optimizer = (
        optax.adamw(schedule, weight_decay=config.weight_decay)
        if config.weight_decay
        else optax.adam(schedule)
    )
    if config.clip_norm:
        optimizer = optax.chain(optax.clip_by_global_norm(config.clip_norm), optimizer)
    return optimizer


def make_schedule(config: TrainConfig) -> optax.Schedule:
    """The learning rate by step: a linear warm-up, then constant or a cosine to 0."""
    warmup = int(config.warmup_fraction * config.num_steps)
    rest = max(1, config.num_steps - warmup)
    after = (
        optax.cosine_decay_schedule(config.learning_rate, rest)
        if config.schedule == "cosine"
        else optax.constant_schedule(config.learning_rate)
    )
    if not warmup:
        return after
    # From one step's worth up, so that the first update is not a wasted one.
    rise = optax.linear_schedule(
        config.learning_rate / (warmup + 1), config.learning_rate, warmup
    )
    return optax.join_schedules([rise, after], [warmup])


def create_state(config: Config, model: RowReader, mesh: Mesh) -> TrainState:
    """The state before the first update, the same on every device.

    Returns:
        Flax's `TrainState`, whose arrays (`step`, `params`, `opt_state`) are what
        a resume needs and nothing else: batches follow from the seed and step.
    """
    create = _state_maker(config, model)
    return jax.jit(create, out_shardings=replicated(mesh))()


def abstract_state(config: Config, model: RowReader, sharding: Sharding) -> TrainState:
    """The shapes and types of a run's state, to be restored onto devices."""
    shapes = jax.eval_shape(_state_maker(config, model))
    return jax.tree.map(lambda leaf: leaf.update(sharding=sharding), shapes)


def _state_maker(config: Config, model: RowReader) -> Callable[[], TrainState]:
    tx = make_optimizer(config.train)

    def create() -> TrainState:
        key = stream_key(config.seed, Stream.WEIGHTS)
        params = init_params(model, key, config.model.forget_bias)
        state = TrainState.create(apply_fn=model.apply, params=params, tx=tx)
        # An array from the start: a Python number would compile everything twice.
        return state.replace(step=jnp.zeros((), jnp.int32))

    return create


@functools.partial(jax.jit, static_argnames="mesh", donate_argnames="state")
def train_steps(
    state: TrainState, split: TrainingSplit, num_steps: jax.Array, *, mesh: Mesh
) -> tuple[TrainState, Metrics]:
    """Runs up to `num_steps` updates without returning to the host.

    `num_steps` is traced, so one compiled program serves every length. Stops
    before the first update whose loss, gradient or result is not finite, with
    `state.step` at the updates that were finished.

    Every device draws and differentiates its own share of the batch; the shares
    meet in one sum of one flat vector. (Left to the compiler, with the batch
    under a sharding constraint, two CPU devices are slower than one.)

    Args:
        state: donated; use the returned one.
        split: replicated over the mesh.
        num_steps: int32 [].
        mesh: of one axis, whose size divides the batch.

    Returns:
        The new state, and metrics summed over the finished updates.
    """
    num_shards = mesh.size

    def one_shard(
        state: TrainState, split: TrainingSplit, num_steps: jax.Array
    ) -> tuple[TrainState, Metrics]:
        last = state.step + num_steps
        shard = jax.lax.axis_index(AXIS)

        def going_on(loop: Loop) -> jax.Array:
            return (loop.state.step < last) & loop.finite

        def one_step(loop: Loop) -> Loop:
            batch = split.batch(loop.state.step, shard, num_shards)
            (loss, correct), grads = jax.value_and_grad(total_loss, has_aux=True)(
                loop.state.params, loop.state.apply_fn, batch
            )
            flat, unflatten = ravel_pytree((loss, correct.astype(jnp.float32), grads))
            loss, correct, grads = unflatten(jax.lax.psum(flat, AXIS))
            grads = jax.tree.map(lambda grad: grad / split.batch_size, grads)
            correct = correct.astype(jnp.int32)  # exact: below 2**24
            return loop.advance(grads, loss, correct, split.batch_size)

        start = Loop(state, Metrics.zeros(), jnp.array(True))
        loop = jax.lax.while_loop(going_on, one_step, start)
        return loop.state, loop.metrics

    run = jax.shard_map(
        one_shard,
        mesh=mesh,
        in_specs=P(),
        out_specs=P(),
        check_vma=False,  # gradients stay a device's own until the sum above
    )
    return run(state, split, num_steps)


@functools.partial(jax.jit, static_argnames="mesh")
def score_last_batch(state: TrainState, split: TrainingSplit, *, mesh: Mesh) -> Metrics:
    """Sums over the batch of the last finished update, with the parameters after it."""

    def one_shard(state: TrainState, split: TrainingSplit) -> Metrics:
        batch = split.batch(state.step - 1, jax.lax.axis_index(AXIS), mesh.size)
        sums = total_loss(state.params, state.apply_fn, batch)
        loss, correct = jax.lax.psum(sums, AXIS)
        examples = jnp.asarray(split.batch_size, jnp.int32)
        zero = jnp.zeros((), jnp.float32)
        return Metrics(loss, correct, examples, zero, zero)

    run = jax.shard_map(
        one_shard, mesh=mesh, in_specs=P(), out_specs=P(), check_vma=False
    )
    return run(state, split)


def total_loss(
    params: Params, apply_fn: Any, batch: Batch
) -> tuple[jax.Array, jax.Array]:
    """The summed cross-entropy of a batch, in nats, and how many answers are right."""
    logits = apply_fn({"params": params}, batch.images)  # [batch, classes]
    losses = optax.softmax_cross_entropy_with_integer_labels(logits, batch.labels)
    return losses.sum(), jnp.sum(logits.argmax(-1) == batch.labels)


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
        params: of the model.
        images: uint8 [batches, batch, rows, columns].
        labels: int32 [batches, batch]; a negative label marks padding, which
            counts for nothing.
        model: static.
        mesh: of one axis, whose size divides the batch.

    Returns:
        Sums over all images that are not padding.
    """

    def one_shard(params: Params, images: jax.Array, labels: jax.Array) -> Counts:
        def one_batch(counts: Counts, batch: Batch) -> tuple[Counts, None]:
            logits = jnp.asarray(model.apply({"params": params}, batch.images))
            real = batch.labels >= 0
            labels = jnp.where(real, batch.labels, 0)
            losses = optax.softmax_cross_entropy_with_integer_labels(logits, labels)
            confusion = counts.confusion.at[labels, logits.argmax(-1)].add(
                real.astype(jnp.int32)
            )
            loss = counts.loss + jnp.sum(losses, where=real)
            return Counts(loss, confusion), None

        start = Counts(
            jnp.zeros((), jnp.float32), jnp.zeros((CLASSES, CLASSES), jnp.int32)
        )
        counts, _ = jax.lax.scan(one_batch, start, Batch(images, labels))
        return jax.lax.psum(counts, AXIS)

    run = jax.shard_map(
        one_shard,
        mesh=mesh,
        in_specs=(P(), P(None, AXIS), P(None, AXIS)),
        out_specs=P(),
        check_vma=False,
    )
    return run(params, images, labels)
