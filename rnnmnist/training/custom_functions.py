"""Validates custom functions before a run writes anything.

Losses, metrics and augmentations are only traced (`jax.eval_shape`). Optimizers are
also initialized, and schedules are evaluated. Cells and
networks are validated in `models/cells.py` and `models/networks.py`, and networks also
here, with the padding of each split.
"""

from collections.abc import Mapping

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import Mesh

from rnnmnist.config.functions import short_name
from rnnmnist.config.resolving import RunConfig, RunTrainConfig, imported_functions
from rnnmnist.data.examples import Dataset, Examples
from rnnmnist.errors import UserError
from rnnmnist.evaluation.predictions import choose_time_steps
from rnnmnist.models.classifier import Classifier
from rnnmnist.models.networks import check_shape
from rnnmnist.models.parameters import abstract_params
from rnnmnist.runtime.jax_defaults import jax_defaults
from rnnmnist.runtime.mesh import local_sharding
from rnnmnist.runtime.random_streams import make_key
from rnnmnist.training.optimizer import compute_learning_rates
from rnnmnist.training.state import Program

# Names of the metrics that every run logs (`training/step.py`).
BUILT_IN_METRICS = ("loss", "accuracy", "grad_norm", "param_norm", "learning_rate")


@jax_defaults()
def check_functions(config: RunConfig, dataset: Dataset, mesh: Mesh) -> None:
    """Validates each custom function of a run, including its cell or network.

    Raises:
        UserError: if a function raises an error or is invalid, or if two metrics have
            the same name.
    """
    functions = imported_functions(config)
    if not functions:
        return
    task, splits = dataset
    program = Program.create(config, task, mesh)  # validates the cell or network
    if config.model.network is not None:
        check_time_steps(program.model, splits)
    names = [*BUILT_IN_METRICS, *map(short_name, config.train.metrics or ())]
    for name in names:
        if names.count(name) > 1:
            raise UserError(
                f"train.metrics: two metrics have the name {name}; rename one"
            )
    logits = jnp.zeros((2, len(task.classes)))
    labels = jnp.zeros(2, jnp.int32)
    inputs = jnp.zeros((task.time_steps, task.features))
    for function in functions:
        with function.wrap_errors():
            if function.setting in ("train.loss", "train.metrics"):
                values = jax.eval_shape(function, logits, labels)
                check_shape("its result for 2 examples", values, (2,))
            elif function.setting == "data.augment":
                key, length = make_key(0), jnp.int32(1)
                augmented = jax.eval_shape(function, key, inputs, length)
                check_shape("its result", augmented, inputs.shape)
            elif function.setting == "train.optimizer":
                check_optimizer(program)
            elif function.setting == "train.schedule":
                check_schedule(config.train)


def check_time_steps(model: Classifier, splits: Mapping[str, Examples]) -> None:
    """Traces a custom network with the padded sequences of each split.

    Raises:
        UserError: if the network raises an error.
    """
    max_training_length, num_features = model.input_shape
    padded_lengths = {
        choose_time_steps(examples.time_steps, max_training_length)
        for examples in splits.values()
        if examples.are_sequences
    }
    for time_steps in padded_lengths:
        inputs = jax.ShapeDtypeStruct((1, time_steps, num_features), jnp.float32)
        jax.eval_shape(model.apply, {"params": abstract_params(model)}, inputs)


def check_optimizer(program: Program) -> None:
    """Traces an update with a custom optimizer.

    Raises:
        ValueError: if the optimizer state contains the learning rate. Every update
            would then use the learning rate of the initial state.
    """
    abstract = abstract_params(program.model)
    params = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape), abstract)
    state = program.optimizer(jnp.nan).init(params)
    for leaf in jax.tree.leaves(state):
        if jnp.issubdtype(leaf.dtype, jnp.floating) and jnp.isnan(leaf).any():
            raise ValueError(
                "its state contains the learning rate, as with inject_hyperparams; use "
                "the argument learning_rate instead"
            )

    def update(learning_rate: jax.Array) -> optax.Params:
        optimizer = program.optimizer(learning_rate)
        updates, _ = optimizer.update(params, state, params)
        return optax.apply_updates(params, updates)

    jax.eval_shape(update, jnp.zeros(()))


def check_schedule(config: RunTrainConfig) -> None:
    """Raises a `ValueError` if a learning rate is negative or NaN."""
    start, num_updates = jnp.int32(0), config.num_steps
    learning_rates = np.asarray(
        compute_learning_rates(
            start, config=config, num_updates=num_updates, sharding=local_sharding()
        )
    )
    check_shape("its learning rates", learning_rates, (num_updates,))
    is_invalid = ~(learning_rates >= 0)  # True for NaN
    if is_invalid.any():
        step = int(is_invalid.argmax())
        raise ValueError(
            f"the learning rate at step {step} is {learning_rates[step]:.3g}, but must "
            "be at least 0"
        )
