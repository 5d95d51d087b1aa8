"""The training step: one compiled call for all updates up to the next event."""

import dataclasses
import functools
from typing import Any, NamedTuple

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import Mesh
from jax.sharding import PartitionSpec as P

from rnnmnist.config.platforms import Execution, execution_of
from rnnmnist.config.schema import Config
from rnnmnist.config.tasks import Task
from rnnmnist.data.batches import Batch, TrainingSplit
from rnnmnist.data.host import Chunk, HostSplit
from rnnmnist.models.classifier import (
    Params,
    SequenceClassifier,
    abstract_params,
    make_model,
)
from rnnmnist.runtime.ensemble import gather_ensemble, map_ensemble
from rnnmnist.runtime.mesh import BATCH, SEEDS, device_put, platform_of, replicated
from rnnmnist.training.loss import Objective
from rnnmnist.training.optimizer import average, decay_mask, make_optimizer
from rnnmnist.training.packing import Packing
from rnnmnist.training.state import STATE_SPECS, TrainState


class Program(NamedTuple):
    """What the compiled training step depends on besides its arrays."""

    objective: Objective
    optimizer: optax.GradientTransformation
    ema_decay: float
    mesh: Mesh  # divides the ensemble over `seeds` and each batch over `batch`
    execution: Execution

    @classmethod
    def create(
        cls,
        config: Config,
        task: Task,
        mesh: Mesh,
        execution: Execution | None = None,
    ) -> "Program":
        """Returns the program of a run on a mesh; None takes its execution there."""
        execution = execution or execution_of(config, platform_of(mesh))
        model = make_model(config.model, task, execution)
        train = config.train
        objective = Objective(model, train.loss == "every_step", train.label_smoothing)
        optimizer = make_optimizer(train)
        return cls(objective, optimizer, train.ema_decay, mesh, execution)

    @property
    def model(self) -> SequenceClassifier:
        """The classifier that is trained."""
        return self.objective.model


@flax.struct.dataclass
class UpdateSums:
    """Sums over the applied updates, to be divided on the host.

    An update whose loss, gradient or new parameters are not finite is rejected. The
    last three fields describe the last update, applied or rejected. Every field but
    `examples` has the shape [ensemble].
    """

    loss: jax.Array  # float32, cross-entropy in nats, summed over examples
    correct: jax.Array  # int32
    examples: jax.Array  # int32 [], examples per network
    finite: jax.Array  # bool, whether the update of this network is finite
    last_loss: jax.Array  # float32, mean over the batch
    last_norm: jax.Array  # float32, global norm of the gradient

    @classmethod
    def zeros(cls, seeds: int) -> "UpdateSums":
        """Returns empty sums."""
        zeros = jnp.zeros(seeds, jnp.float32)
        return cls(
            loss=zeros,
            correct=jnp.zeros(seeds, jnp.int32),
            examples=jnp.zeros((), jnp.int32),
            finite=jnp.ones(seeds, bool),
            last_loss=zeros,
            last_norm=zeros,
        )

    def add(self, later: "UpdateSums") -> "UpdateSums":
        """Adds the sums over later updates."""
        return dataclasses.replace(
            later,
            loss=self.loss + later.loss,
            correct=self.correct + later.correct,
            examples=self.examples + later.examples,
        )


@flax.struct.dataclass
class LoopState:
    """The carry of the loop over updates."""

    state: TrainState  # packed: the parameters of each network are one vector
    sums: UpdateSums
    finite: jax.Array  # bool [], whether all networks are finite


class BatchSums(NamedTuple):
    """Sums over a batch, of every network."""

    loss: jax.Array  # float32 [ensemble]
    correct: jax.Array  # int32 [ensemble]
    grads: jax.Array  # float32 [ensemble, parameters], of the summed loss


@functools.partial(jax.jit, static_argnames="program", donate_argnames="state")
def train_steps(
    state: TrainState,
    split: TrainingSplit | Chunk,
    num_steps: jax.Array,
    *,
    program: Program,
) -> tuple[TrainState, UpdateSums]:
    """Runs up to `num_steps` updates without returning to the host.

    `num_steps` is traced, so one compiled program serves every length. The loop stops
    before the first update whose loss, gradient or new parameters are not finite;
    `state.step` counts the applied updates.

    Every device draws and differentiates its own shard of the batch. The sums over
    shards are one `psum` of one flat vector. (With automatic partitioning, by a
    sharding constraint on the batch, two CPU devices are slower than one.)

    Args:
        state: donated; use the returned one.
        split: from `TrainingSplit.device_put`, or `HostSplit.chunks`.
        num_steps: int32 [].
        program: the same for all calls of a run.

    Returns:
        The new state, and sums over the applied updates.
    """
    shapes = abstract_params(program.model)
    packing = Packing(shapes)
    decayed = decay_mask(shapes)

    def train_shard(
        state: TrainState, split: TrainingSplit | Chunk, num_steps: jax.Array
    ) -> tuple[TrainState, UpdateSums]:
        last = state.step + num_steps

        def cond(loop: LoopState) -> jax.Array:
            return (loop.state.step < last) & loop.finite

        def body(loop: LoopState) -> LoopState:
            batch = batch_gradients(program, packing, loop.state, split)
            examples = split.transform.batch_size
            return apply_update(program, loop, batch, examples, decayed)

        sums = UpdateSums.zeros(len(split.seed))
        start = LoopState(packing.pack(state), sums, jnp.array(True))
        loop = jax.lax.while_loop(cond, body, start)
        updates = loop.state.step - state.step
        sums = dataclasses.replace(
            loop.sums, examples=updates * split.transform.batch_size
        )
        return packing.unpack(loop.state), gather_ensemble(sums, program.mesh)

    run = jax.shard_map(
        train_shard,
        mesh=program.mesh,
        in_specs=(STATE_SPECS, split.specs, P()),
        out_specs=(STATE_SPECS, P()),
        check_vma=False,  # gradients differ between devices until their psum
    )
    return run(state, split, num_steps)


def train_range(
    state: TrainState,
    split: TrainingSplit | HostSplit,
    first: int,
    last: int,
    *,
    program: Program,
) -> tuple[TrainState, UpdateSums, TrainingSplit | Chunk]:
    """Trains from a step to a later one, or to an update that is rejected.

    Returns:
        The new state, the sums over the applied updates on the host, and the part of
        the split that holds the last batch.
    """
    parts = list[tuple[UpdateSums, TrainingSplit | Chunk]]()
    for part, count in split.chunks(first, last):
        num_steps = device_put(np.int32(count), replicated(program.mesh))
        state, sums = train_steps(state, part, num_steps, program=program)
        parts.append((jax.device_get(sums), part))
        if not parts[-1][0].finite.all():
            break
    total = functools.reduce(UpdateSums.add, (sums for sums, _ in parts))
    return state, total, parts[-1][1]


def batch_gradients(
    program: Program,
    packing: Packing,
    state: TrainState,
    split: TrainingSplit | Chunk,
) -> BatchSums:
    """Differentiates the loss of the next batch, inside `shard_map`."""

    def shard_sums(vector: jax.Array, network: Any) -> jax.Array:
        batch = _batch_shard(program, split, state.step, network)
        value_and_grad = jax.value_and_grad(program.objective, has_aux=True)
        (loss, correct), grads = value_and_grad(packing.unflatten(vector), *batch)
        sums = jnp.stack([loss, correct.astype(jnp.float32)])  # exact: below 2**24
        return jnp.concatenate([sums, packing.flatten(grads)])

    sums = map_ensemble(shard_sums, program.execution.vectorize_seeds)(
        state.params, split.networks(state.step)
    )
    sums = jax.lax.psum(sums, BATCH)
    return BatchSums(sums[:, 0], sums[:, 1].astype(jnp.int32), sums[:, 2:])


def apply_update(
    program: Program,
    loop: LoopState,
    batch: BatchSums,
    examples: int,
    decayed: np.ndarray,
) -> LoopState:
    """Applies an update to all networks, or to none if a number is not finite."""
    old = loop.state
    mean_loss = batch.loss / examples

    def update(
        params: jax.Array, ema_params: Any, opt_state: Any, grads: jax.Array
    ) -> tuple[Any, ...]:
        norm = optax.tree.norm(grads)
        # AdamW reads the parameters only to decay them.
        to_decay = params if decayed.all() else jnp.where(decayed, params, 0)
        updates, opt_state = program.optimizer.update(grads, opt_state, to_decay)
        params = params + updates
        if ema_params is not None:
            ema_params = average(ema_params, params, old.step, program.ema_decay)
        finite = jnp.isfinite(norm) & jnp.isfinite(params).all()
        return params, ema_params, opt_state, norm, finite

    with jax.named_scope("update"):
        params, ema_params, opt_state, norm, finite = map_ensemble(
            update, program.execution.vectorize_seeds
        )(old.params, old.ema_params, old.opt_state, batch.grads / examples)
    new = TrainState(old.step + 1, params, ema_params, opt_state)
    finite &= jnp.isfinite(mean_loss)
    all_finite = finite.all()
    if program.mesh.shape[SEEDS] > 1:
        all_finite = jax.lax.pmin(all_finite.astype(jnp.int32), SEEDS) == 1

    def where_finite(new: Any, old: Any) -> jax.Array:
        return jnp.where(all_finite, new, old)

    sums = UpdateSums(
        loss=loop.sums.loss + where_finite(batch.loss, 0),
        correct=loop.sums.correct + where_finite(batch.correct, 0),
        examples=loop.sums.examples,  # follow from the steps, after the loop
        finite=finite,
        last_loss=mean_loss,
        last_norm=norm,
    )
    return LoopState(jax.tree.map(where_finite, new, old), sums, all_finite)


@jax.named_scope("batch")
def _batch_shard(
    program: Program, split: TrainingSplit | Chunk, step: jax.Array, network: Any
) -> Batch:
    """Draws this device's shard of one network's batch, inside `shard_map`."""
    mesh = program.mesh
    return split.batch(network, step, jax.lax.axis_index(BATCH), mesh.shape[BATCH])


@functools.partial(jax.jit, static_argnames="program")
def score_last_batch(
    state: TrainState, split: TrainingSplit | Chunk, *, program: Program
) -> UpdateSums:
    """Evaluates the current parameters on the batch of the last update."""

    def score_shard(state: TrainState, split: TrainingSplit | Chunk) -> UpdateSums:
        def shard_sums(params: Params, network: Any) -> tuple[jax.Array, jax.Array]:
            batch = _batch_shard(program, split, state.step - 1, network)
            return program.objective(params, *batch)

        score = map_ensemble(shard_sums, program.execution.vectorize_seeds)
        networks = split.networks(state.step - 1)
        loss, correct = jax.lax.psum(score(state.evaluated_params, networks), BATCH)
        sums = dataclasses.replace(
            UpdateSums.zeros(len(loss)),
            loss=loss,
            correct=correct,
            examples=jnp.asarray(split.transform.batch_size, jnp.int32),
        )
        return gather_ensemble(sums, program.mesh)

    run = jax.shard_map(
        score_shard,
        mesh=program.mesh,
        in_specs=(STATE_SPECS, split.specs),
        out_specs=P(),
        check_vma=False,
    )
    return run(state, split)
