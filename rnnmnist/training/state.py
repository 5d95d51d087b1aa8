"""The training state: initialization, sharding and the items of a checkpoint."""

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
from rnnmnist.models.classifier import (
    Params,
    SequenceClassifier,
    ensemble_size,
    init_params,
)
from rnnmnist.runtime.mesh import ensemble_spec
from rnnmnist.runtime.rng import Stream, stream_key
from rnnmnist.training.loss import Objective
from rnnmnist.training.optimizer import make_optimizer


def create_state(config: Config, model: SequenceClassifier, mesh: Mesh) -> TrainState:
    """Initializes the training state on a mesh.

    Returns:
        Flax's `TrainState`. Its arrays (`step`, `params`, `opt_state`) are all that a
        resume needs, since batches follow from the seed and the step. `params` are the
        evaluated weights; `apply_fn` is the objective. With several seeds, `params` and
        `opt_state` have a leading ensemble axis, sharded over the mesh axis `seeds`;
        everything else is replicated.
    """
    shardings = jax.tree.map(
        lambda leaf: leaf.sharding, abstract_state(config, model, mesh)
    )
    return jax.jit(_state_initializer(config, model), out_shardings=shardings)()


def abstract_state(config: Config, model: SequenceClassifier, mesh: Mesh) -> TrainState:
    """Returns the shapes, types and shardings of a training state."""
    shapes = jax.eval_shape(_state_initializer(config, model))
    return jax.tree.map(
        lambda spec, leaves: jax.tree.map(
            lambda leaf: leaf.update(sharding=NamedSharding(mesh, spec)), leaves
        ),
        state_specs(shapes),
        shapes,
        is_leaf=lambda leaf: isinstance(leaf, P),
    )


def state_specs(state: TrainState) -> TrainState:
    """Returns the partition specs of a state, one for each of its fields."""
    spec = ensemble_spec(ensemble_size(state.params) or 1)
    return state.replace(step=P(), params=spec, opt_state=spec)


def saved_arrays(state: TrainState) -> dict[str, Params]:
    """Returns the items of a checkpoint: the parameters, and the rest of the state."""
    rest = {"opt_state": state.opt_state, "step": state.step}
    return {"params": state.params, "state": rest}


def restore_state(workdir: Path, step: int, like: TrainState) -> TrainState:
    """Restores the state of a step with the shapes, types and shardings of `like`.

    Raises:
        RunError: if the checkpoint holds other shapes or types; names the leaf.
        DamagedError: if an array differs from the saved one.
    """
    items = saved_arrays(like)
    return like.replace(
        params=store.read_params(workdir, step, items["params"]),
        **store.read_state(workdir, step, items["state"]),
    )


def _state_initializer(
    config: Config, model: SequenceClassifier
) -> Callable[[], TrainState]:
    train = config.train
    tx = make_optimizer(train)
    objective = Objective(model, train.loss == "every_row", train.label_smoothing)

    def init_network(seed: int | jax.Array) -> tuple[Any, Any]:
        key = stream_key(seed, Stream.WEIGHTS)
        params = init_params(model, key, config.model.forget_bias)
        return params, tx.init(params)

    def init_state() -> TrainState:
        if config.num_seeds == 1:
            params, opt_state = init_network(config.seed)
        else:
            # Not vmap: a batched QR decomposition can deadlock on several CPU devices.
            seeds = jnp.asarray(config.seeds, jnp.uint32)
            params, opt_state = jax.lax.map(init_network, seeds)
        return TrainState(
            step=jnp.zeros((), jnp.int32),  # a Python int would compile twice
            apply_fn=objective,
            params=params,
            tx=tx,
            opt_state=opt_state,
        )

    return init_state
