"""The training state, and the program that updates it."""

import functools
from typing import NamedTuple

import jax
import numpy as np
import optax
from jax.flatten_util import ravel_pytree
from jax.sharding import Mesh

from rnnmnist.config.functions import Function, bind
from rnnmnist.config.platforms import Execution
from rnnmnist.config.resolving import RunConfig
from rnnmnist.config.tasks import Task
from rnnmnist.data.batches import BatchTransform
from rnnmnist.models.classifier import Classifier, make_model
from rnnmnist.models.parameters import Params, init_params
from rnnmnist.runtime.mesh import (
    ensemble_sharding,
    platform_of,
    put_global,
    replicated_sharding,
)
from rnnmnist.runtime.random_streams import Stream, stream_key
from rnnmnist.training.loss import LOSS_FUNCTIONS, Objective
from rnnmnist.training.optimizer import OPTIMIZERS, make_optimizer


class Program(NamedTuple):
    """Static arguments of the compiled training step.

    Programs are equal, and hashed, by their fields. Equal ones share a compiled step,
    also after the code of a function has changed in this process. Learning rates, the
    weights of examples and seeds are arrays and not fields, so that another value, or a
    longer run, does not compile the step again.
    """

    transform: BatchTransform
    objective: Objective
    make_optimizer: Function  # of a learning rate
    clip_norm: float  # 0: no clipping
    ema_decay: float  # 0: no averaging
    mesh: Mesh  # divides the ensemble over `seeds` and each batch over `batch`

    @classmethod
    def create(
        cls,
        config: RunConfig,
        task: Task,
        mesh: Mesh,
        execution: Execution | None = None,
    ) -> "Program":
        """Returns the program of a run on a mesh.

        By default, it executes as the platform of the mesh suggests.
        """
        execution = execution or Execution.create(config, platform_of(mesh))
        model = make_model(config.model, task, execution)
        train = config.train
        return cls(
            transform=BatchTransform.create(config, task),
            objective=Objective(
                model=model,
                loss=bind(
                    train.loss, LOSS_FUNCTIONS, label_smoothing=train.label_smoothing
                ),
                every_step=train.loss == "every_step",
                metrics=train.metrics or (),
            ),
            make_optimizer=bind(
                train.optimizer, OPTIMIZERS, weight_decay=train.weight_decay
            ),
            clip_norm=train.clip_norm,
            ema_decay=train.ema_decay,
            mesh=mesh,
        )

    @property
    def model(self) -> Classifier:
        """The classifier that is trained."""
        return self.objective.model

    def optimizer(
        self, learning_rate: jax.typing.ArrayLike
    ) -> optax.GradientTransformation:
        """Returns the optimizer of one network with a learning rate."""
        return make_optimizer(learning_rate, self.clip_norm, self.make_optimizer)


class TrainState(NamedTuple):
    """The state of one network between two updates, or of an ensemble.

    All arrays of an ensemble have a leading ensemble axis. A resume needs the state and
    the number of finished updates, since batches follow from the seed and that number.
    """

    params: Params  # float32, the trained weights
    ema_params: Params | None  # moving average of `params`; None without averaging
    opt_state: optax.OptState

    @property
    def evaluated_params(self) -> Params:
        """The weights that are validated, saved as `params`, and evaluated."""
        return self.params if self.ema_params is None else self.ema_params


def create_state(
    config: RunConfig,
    program: Program,
    delta_std: tuple[float, ...] | None = None,
) -> TrainState:
    """Initializes the training state of every network.

    `delta_std` is that of the task (`Task`). None stands for 1.
    """
    sharding = replicated_sharding(program.mesh)
    seeds = np.asarray(config.seeds, np.uint32)
    std = np.asarray(delta_std or 1, np.float32)
    return init_state(
        put_global(seeds, sharding), put_global(std, sharding), program=program
    )


def abstract_state(config: RunConfig, program: Program) -> TrainState:
    """Returns the shapes and types of the training state of every network."""
    seeds = jax.ShapeDtypeStruct((config.num_seeds,), np.uint32)
    return jax.eval_shape(functools.partial(init_state, program=program), seeds)


@functools.partial(jax.jit, static_argnames="program")
def init_state(
    seeds: jax.Array, delta_std: jax.typing.ArrayLike = 1.0, *, program: Program
) -> TrainState:
    """Returns the state before the first update, on the program's mesh.

    Seeds are uint32 [ensemble], and `delta_std` is float32 [features] or [].
    """

    def init_member(seed: jax.Array) -> tuple[Params, optax.OptState]:
        key = stream_key(seed, Stream.WEIGHTS)
        params = init_params(program.model, key, delta_std)
        # XLA rounds the random numbers of a vector and of a small matrix differently.
        # Without this, networks would differ in their last bits from published ones.
        vector, unravel = ravel_pytree(params)
        params = unravel(jax.lax.optimization_barrier(vector))
        # No learning rate is part of the optimizer's state, so this one can be any.
        return params, program.optimizer(0.0).init(params)

    # Not vmap: a batched QR decomposition can deadlock on several CPU devices.
    params, opt_state = jax.lax.map(init_member, seeds)
    state = TrainState(
        params=params,
        ema_params=params if program.ema_decay else None,
        opt_state=opt_state,
    )
    return jax.lax.with_sharding_constraint(state, ensemble_sharding(program.mesh))
