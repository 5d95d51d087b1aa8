"""The training state: initialization, sharding and the items of a checkpoint."""

import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from rnnmnist.config.schema import Config, ModelConfig, TrainConfig
from rnnmnist.models.classifier import Params, SequenceClassifier, init_params
from rnnmnist.runs import checkpoints
from rnnmnist.runtime.ensemble import Stream, put_ensemble, squeeze, stream_key
from rnnmnist.runtime.mesh import SEEDS, device_put, over_seeds, replicated
from rnnmnist.training.optimizer import make_optimizer


@flax.struct.dataclass
class TrainState:
    """All that a resume needs, since batches follow from the seed and the step.

    Arrays but `step` have a leading ensemble axis.
    """

    step: jax.Array  # int32 [], the number of finished updates
    params: Params  # the trained weights
    ema_params: Params | None  # their moving average; None without averaging
    opt_state: Any

    @property
    def evaluated_params(self) -> Params:
        """The weights that are validated, saved as `params`, and evaluated."""
        return self.params if self.ema_params is None else self.ema_params


# The partition of a state over a mesh, one spec for each field.
_SPECS: Any = {"params": P(SEEDS), "ema_params": P(SEEDS), "opt_state": P(SEEDS)}
STATE_SPECS = TrainState(step=P(), **_SPECS)  # type: ignore[arg-type]


def create_state(config: Config, model: SequenceClassifier, mesh: Mesh) -> TrainState:
    """Initializes the training state of every network on a mesh."""
    shardings = jax.tree.map(functools.partial(NamedSharding, mesh), STATE_SPECS)
    initialize = jax.jit(
        _initializer(config.model, config.train, model), out_shardings=shardings
    )
    seeds = np.asarray(config.seeds, np.uint32)
    return initialize(device_put(seeds, replicated(mesh)))


def abstract_state(config: Config, model: SequenceClassifier) -> TrainState:
    """Returns the shapes and types of the training state of every network."""
    seeds = jax.ShapeDtypeStruct((config.num_seeds,), np.uint32)
    return jax.eval_shape(_initializer(config.model, config.train, model), seeds)


@functools.partial(jax.jit, static_argnames="mesh")
def saved_arrays(state: TrainState, *, mesh: Mesh) -> dict[str, Any]:
    """Returns the items of a checkpoint: the evaluated parameters, and the rest.

    They are replicated, so that every process can read them. A single network has no
    ensemble axis.
    """
    rest = {"opt_state": squeeze(state.opt_state), "step": state.step}
    if state.ema_params is not None:
        rest["trained_params"] = squeeze(state.params)
    items = {"params": squeeze(state.evaluated_params), "state": rest}
    return jax.lax.with_sharding_constraint(items, replicated(mesh))


def restore_state(
    workdir: Path, step: int, config: Config, model: SequenceClassifier, mesh: Mesh
) -> TrainState:
    """Restores the state of a step of a run with this configuration.

    Raises:
        DamagedError: if an array differs from the saved one.
    """
    like = abstract_state(config, model)
    expected = jax.eval_shape(functools.partial(saved_arrays, mesh=mesh), like)
    params = checkpoints.read_params(workdir, step, expected["params"])
    rest = checkpoints.read_state(workdir, step, expected["state"])
    trained = rest.get("trained_params")
    put = functools.partial(
        put_ensemble, num_seeds=config.num_seeds, sharding=over_seeds(mesh)
    )
    return TrainState(
        step=device_put(rest["step"], replicated(mesh)),
        params=put(params if trained is None else trained),
        ema_params=None if trained is None else put(params),
        opt_state=put(rest["opt_state"]),
    )


@functools.cache  # jit compiles and traces once for one function
def _initializer(
    settings: ModelConfig, train: TrainConfig, model: SequenceClassifier
) -> Callable[[jax.Array], TrainState]:
    optimizer = make_optimizer(train)

    def init_network(seed: jax.Array) -> tuple[Params, Any]:
        key = stream_key(seed, Stream.WEIGHTS)
        forget_bias = settings.forget_bias if settings.cell == "lstm" else None
        chrono = settings.initializer == "chrono"
        params = init_params(model, key, forget_bias, chrono=chrono)
        return params, optimizer.init(params)

    def init_state(seeds: jax.Array) -> TrainState:
        # Not vmap: a batched QR decomposition can deadlock on several CPU devices.
        params, opt_state = jax.lax.map(init_network, seeds)
        return TrainState(
            step=jnp.zeros((), jnp.int32),  # a Python int would compile twice
            params=params,
            ema_params=params if train.ema_decay else None,
            opt_state=opt_state,
        )

    return init_state
