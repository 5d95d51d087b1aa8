"""The training state, and the static arguments of the compiled training step."""

import functools
from typing import NamedTuple

import jax
import numpy as np
import optax
from jax.flatten_util import ravel_pytree
from jax.sharding import Mesh

from rnnmnist.config.functions import Function, resolve_function
from rnnmnist.config.platforms import Execution
from rnnmnist.config.resolving import RunConfig
from rnnmnist.config.tasks import Task
from rnnmnist.data.batches import BatchTransform
from rnnmnist.models.classifier import Classifier, make_model
from rnnmnist.models.parameters import Params, init_params
from rnnmnist.runtime.mesh import (
    ensemble_sharding,
    mesh_platform,
    put_global,
    replicated_sharding,
)
from rnnmnist.runtime.random_streams import Stream, stream_key
from rnnmnist.training.loss import LOSS_FUNCTIONS, Objective
from rnnmnist.training.optimizer import OPTIMIZERS, make_optimizer


class Program(NamedTuple):
    """Static arguments of the compiled training step.

    Programs are compared and hashed by their fields: equal programs share a compiled
    step. Learning rates, example weights and seeds are not fields but array arguments
    of the step, so that the step is not recompiled if these values or the number of
    steps change.
    """

    transform: BatchTransform
    objective: Objective
    optimizer_function: Function  # maps a learning rate to an optimizer
    clip_norm: float  # maximum global norm of the gradient; 0 disables clipping
    ema_decay: float  # 0 disables the EMA
    mesh: Mesh  # axes `ensemble` and `batch`

    @classmethod
    def create(
        cls,
        config: RunConfig,
        task: Task,
        mesh: Mesh,
        execution: Execution | None = None,
    ) -> "Program":
        """Creates the program of a run.

        If `execution` is None, it is derived from the platform of the mesh.
        """
        execution = execution or Execution.create(config, mesh_platform(mesh))
        model = make_model(config.model, task, execution)
        train = config.train
        return cls(
            transform=BatchTransform.create(config, task),
            objective=Objective(
                model=model,
                loss=resolve_function(
                    train.loss, LOSS_FUNCTIONS, label_smoothing=train.label_smoothing
                ),
                every_step=train.loss == "every_step",
                metrics=train.metrics or (),
            ),
            optimizer_function=resolve_function(
                train.optimizer, OPTIMIZERS, weight_decay=train.weight_decay
            ),
            clip_norm=train.clip_norm,
            ema_decay=train.ema_decay,
            mesh=mesh,
        )

    @property
    def model(self) -> Classifier:
        """The model to train."""
        return self.objective.model

    def optimizer(
        self, learning_rate: jax.typing.ArrayLike
    ) -> optax.GradientTransformation:
        """Creates the optimizer of one network."""
        return make_optimizer(learning_rate, self.clip_norm, self.optimizer_function)


class TrainState(NamedTuple):
    """The state of a network or an ensemble between two updates.

    All arrays have a leading ensemble axis, except in the functions that update a
    single member (`training/step.py`). The state and the number of completed updates
    are sufficient to resume, since the seed and this number determine all later
    batches.
    """

    params: Params  # float32
    ema_params: Params | None  # EMA of `params`; None without EMA
    opt_state: optax.OptState

    @property
    def evaluated_params(self) -> Params:
        """The EMA of the parameters; without EMA, the parameters themselves."""
        return self.params if self.ema_params is None else self.ema_params


def create_state(
    config: RunConfig,
    program: Program,
    delta_std: tuple[float, ...] | None = None,
) -> TrainState:
    """Initializes the training state of all ensemble members.

    `delta_std` contains the standard deviation of each feature's deltas
    (`Task.delta_std`); None means 1.
    """
    sharding = replicated_sharding(program.mesh)
    seeds = np.asarray(config.seeds, np.uint32)
    std = np.asarray(delta_std or 1, np.float32)
    return init_state(
        put_global(seeds, sharding), put_global(std, sharding), program=program
    )


def abstract_state(config: RunConfig, program: Program) -> TrainState:
    """Returns the shapes and dtypes of the training state."""
    seeds = jax.ShapeDtypeStruct((config.num_seeds,), np.uint32)
    return jax.eval_shape(functools.partial(init_state, program=program), seeds)


@functools.partial(jax.jit, static_argnames="program")
def init_state(
    seeds: jax.Array, delta_std: jax.typing.ArrayLike = 1.0, *, program: Program
) -> TrainState:
    """Initializes the training state on the mesh of the program.

    `seeds` are uint32 [ensemble]; `delta_std` is float32 [features] or [].
    """

    def init_member(seed: jax.Array) -> tuple[Params, optax.OptState]:
        key = stream_key(seed, Stream.PARAMS)
        params = init_params(program.model, key, delta_std)
        # XLA rounds random numbers differently in vectors and in small matrices. The
        # barrier reproduces the initial parameters of published runs bit for bit.
        vector, unravel = ravel_pytree(params)
        params = unravel(jax.lax.optimization_barrier(vector))
        # The initial optimizer state does not depend on the learning rate.
        return params, program.optimizer(0.0).init(params)

    # Not vmap: a batched QR decomposition can deadlock on several CPU devices.
    params, opt_state = jax.lax.map(init_member, seeds)
    state = TrainState(
        params=params,
        ema_params=params if program.ema_decay else None,
        opt_state=opt_state,
    )
    return jax.lax.with_sharding_constraint(state, ensemble_sharding(program.mesh))
