"""The training state, and the program that updates it."""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import Mesh, NamedSharding

from rnnmnist.config.platforms import Execution
from rnnmnist.config.resolving import RunConfig
from rnnmnist.config.tasks import Task
from rnnmnist.data.batches import BatchTransform
from rnnmnist.models.classifier import (
    NOT_TRAINED,
    Params,
    SequenceClassifier,
    flatten_params,
    init_params,
    make_model,
    unflatten_params,
)
from rnnmnist.runtime.mesh import SEEDS, device_put, platform_of, replicated
from rnnmnist.runtime.random_streams import Stream, stream_key
from rnnmnist.training.loss import Objective


class Program(NamedTuple):
    """What the compiled training step depends on besides its arrays."""

    transform: BatchTransform
    objective: Objective
    weight_decay: float  # 0: none, as of the next two
    clip_norm: float
    ema_decay: float
    mesh: Mesh  # divides the ensemble over `seeds` and each batch over `batch`

    @classmethod
    def create(
        cls,
        config: RunConfig,
        task: Task,
        mesh: Mesh,
        execution: Execution | None = None,
    ) -> "Program":
        """Returns the program of a run on a mesh; None takes its execution there."""
        execution = execution or Execution.create(config, platform_of(mesh))
        model = make_model(config.model, task, execution)
        train = config.train
        return cls(
            transform=BatchTransform.create(config, task),
            objective=Objective(
                model, train.loss == "every_step", train.label_smoothing
            ),
            weight_decay=train.weight_decay,
            clip_norm=train.clip_norm,
            ema_decay=train.ema_decay,
            mesh=mesh,
        )

    @property
    def model(self) -> SequenceClassifier:
        """The classifier that is trained."""
        return self.objective.model

    @property
    def optimizer(self) -> optax.GradientTransformation:
        """Clipping and AdamW, without the learning rate that scales its updates.

        The state has the same structure with and without clipping, so that a resumed
        run may change `train.clip_norm`.
        """
        none = optax.identity()
        return optax.chain(
            optax.clip_by_global_norm(self.clip_norm) if self.clip_norm else none,
            optax.scale_by_adam(),
            optax.add_decayed_weights(self.weight_decay) if self.weight_decay else none,
        )


class TrainState(NamedTuple):
    """All that a resume needs, since batches follow from the seed and the step.

    The parameters of a network are one vector, which is faster to update than a tree.
    Arrays but `step` have a leading ensemble axis.
    """

    step: jax.Array  # int32 [], the number of finished updates
    params: jax.Array  # float32 [ensemble, parameters], the trained weights
    ema_params: jax.Array | None  # their moving average; None without averaging
    opt_state: Any

    @property
    def evaluated_params(self) -> jax.Array:
        """The weights that are validated, saved as `params`, and evaluated."""
        return self.params if self.ema_params is None else self.ema_params


# The partition of a state over a mesh, one spec for each field.
STATE_SPECS: Any = TrainState(jax.P(), *[jax.P(SEEDS)] * 3)  # type: ignore[arg-type]


def create_state(
    config: RunConfig, program: Program, task: Task | None = None
) -> TrainState:
    """Initializes the training state of every network, for the data of a task."""
    where = replicated(program.mesh)
    seeds = device_put(np.asarray(config.seeds, np.uint32), where)
    std = np.array((task and task.difference_std) or 1, np.float32)
    return init_state(seeds, device_put(std, where), program=program)


def abstract_state(config: RunConfig, program: Program) -> TrainState:
    """Returns the shapes and types of the training state of every network."""
    seeds = jax.ShapeDtypeStruct((config.num_seeds,), np.uint32)
    return jax.eval_shape(functools.partial(init_state, program=program), seeds)


@functools.partial(jax.jit, static_argnames="program")
def init_state(
    seeds: jax.Array, difference_std: jax.typing.ArrayLike = 1.0, *, program: Program
) -> TrainState:
    """Returns the state before the first update, on the program's mesh."""

    def init_network(seed: jax.Array) -> tuple[jax.Array, Any]:
        tree = init_params(program.model, stream_key(seed, Stream.WEIGHTS))
        if NOT_TRAINED in tree:
            tree = {**tree, NOT_TRAINED: tree[NOT_TRAINED] * difference_std}
        params = flatten_params(tree)
        return params, program.optimizer.init(params)

    # Not vmap: a batched QR decomposition can deadlock on several CPU devices.
    params, opt_state = jax.lax.map(init_network, seeds)
    state = TrainState(
        step=jnp.zeros((), jnp.int32),  # a Python int would compile twice
        params=params,
        ema_params=params if program.ema_decay else None,
        opt_state=opt_state,
    )
    shardings = jax.tree.map(
        functools.partial(NamedSharding, program.mesh), STATE_SPECS
    )
    return jax.lax.with_sharding_constraint(state, shardings)


def to_trees(params: jax.Array, model: SequenceClassifier) -> Params:
    """Converts parameters [ensemble, parameters] to a tree of arrays."""
    return jax.vmap(functools.partial(unflatten_params, model=model))(params)


@functools.partial(jax.jit, static_argnames="model")
def evaluated_trees(state: TrainState, *, model: SequenceClassifier) -> Params:
    """Returns the evaluated parameters of all networks as a tree."""
    return to_trees(state.evaluated_params, model)


@functools.partial(jax.jit, static_argnames="program")
def saved_arrays(state: TrainState, *, program: Program) -> dict[str, Any]:
    """Returns the items of a checkpoint: the evaluated parameters, and the rest.

    They have a leading ensemble axis, and are replicated, for every process.
    """
    trees = functools.partial(to_trees, model=program.model)
    opt_state = optax.tree.map_params(program.optimizer, trees, state.opt_state)
    rest = {"opt_state": opt_state, "step": state.step}
    if state.ema_params is not None:
        rest["trained_params"] = trees(state.params)
    items = {"params": trees(state.evaluated_params), "state": rest}
    return jax.lax.with_sharding_constraint(items, replicated(program.mesh))
