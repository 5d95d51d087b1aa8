"""The training state before the first update, and its layout over a mesh."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
from flax.training.train_state import TrainState
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from rnnmnist.checkpoints import store
from rnnmnist.config.schema import Config
from rnnmnist.models.classifier import SequenceClassifier, ensemble_size, init_params
from rnnmnist.runtime.mesh import ensemble_spec
from rnnmnist.runtime.rng import Stream, stream_key
from rnnmnist.training.loss import Objective
from rnnmnist.training.optimizer import make_optimizer


def create_state(config: Config, model: SequenceClassifier, mesh: Mesh) -> TrainState:
    """The state before the first update, laid out over a mesh.

    Returns:
        Flax's `TrainState`, whose arrays (`step`, `params`, `opt_state`) are what
        a resume needs and nothing else: batches follow from the seed and step.
        `params` are what is evaluated; `apply_fn` is the objective. With
        several seeds, `params` and `opt_state` have a leading axis of members, which
        lies over the mesh's `seeds`; otherwise every device has the same.
    """
    shardings = jax.tree.map(
        lambda leaf: leaf.sharding, abstract_state(config, model, mesh)
    )
    return jax.jit(_state_maker(config, model), out_shardings=shardings)()


def abstract_state(config: Config, model: SequenceClassifier, mesh: Mesh) -> TrainState:
    """The shapes, types and shardings of a training state, without its arrays."""
    shapes = jax.eval_shape(_state_maker(config, model))
    specs = state_specs(shapes)
    return jax.tree.map(
        lambda spec, leaves: jax.tree.map(
            lambda leaf: leaf.update(sharding=NamedSharding(mesh, spec)), leaves
        ),
        specs,
        shapes,
        is_leaf=lambda leaf: isinstance(leaf, P),
    )


def saved_arrays(state: TrainState) -> dict[str, Any]:
    """The items of a checkpoint: what is evaluated, and what a resume needs besides."""
    memory = {"opt_state": state.opt_state, "step": state.step}
    return {"params": state.params, "state": memory}


def restore_state(workdir: Path, step: int, like: TrainState) -> TrainState:
    """The state at a step, laid out over the devices as another state is.

    Raises:
        RunError: when the checkpoint holds other shapes or types, naming the leaf.
        DamagedError: when an array is not the one that was saved.
    """
    items = saved_arrays(like)
    return like.replace(
        params=store.read_params(workdir, step, items["params"]),
        **store.read_state(workdir, step, items["state"]),
    )


def _state_maker(config: Config, model: SequenceClassifier) -> Callable[[], TrainState]:
    tx = make_optimizer(config.train)

    def member(seed: int | jax.Array) -> tuple[Any, Any]:
        key = stream_key(seed, Stream.WEIGHTS)
        params = init_params(model, key, config.model.forget_bias)
        return params, tx.init(params)

    def create() -> TrainState:
        if config.num_seeds == 1:
            params, opt_state = member(config.seed)
        else:
            # Not vmap: a batched QR decomposition can deadlock on several CPU devices.
            seeds = jnp.asarray(config.seeds, jnp.uint32)
            params, opt_state = jax.lax.map(member, seeds)
        return TrainState(
            # An array from the start: a Python number would compile everything twice.
            step=jnp.zeros((), jnp.int32),
            apply_fn=Objective.of(config.train, model),
            params=params,
            tx=tx,
            opt_state=opt_state,
        )

    return create


def state_specs(state: TrainState) -> TrainState:
    """How a state lies over a mesh: members over its seeds, the step everywhere."""
    spec = ensemble_spec(ensemble_size(state.params) or 1)
    return state.replace(step=P(), params=spec, opt_state=spec)
