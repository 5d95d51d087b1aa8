"""The classifier: a recurrence over the time of a sequence, and a dense head."""

import functools
from collections.abc import Callable, Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.flatten_util import ravel_pytree

from rnnmnist.config.platforms import Execution
from rnnmnist.config.resolving import RunModelConfig
from rnnmnist.config.tasks import Task
from rnnmnist.models.cells import BACKWARD, make_recurrence, resolve_cell
from rnnmnist.runtime.random_streams import make_key

Params = Mapping[str, Any]  # nested dictionaries of arrays, with Flax's names
NOT_TRAINED = "difference_std"  # found in the data


class SequenceClassifier(nn.Module):
    """Classifies a sequence by the output of a recurrence after its last time step."""

    config: RunModelConfig
    cell: Callable[..., Any]  # the class of `config.cell`
    # The number of time steps and of features, with which the parameters are
    # initialized. Other numbers of time steps are accepted.
    input_shape: tuple[int, int]
    classes: int
    execution: Execution

    def setup(self) -> None:
        """Creates the two layers, whose names are part of the checkpoint format."""
        init: dict[str, Any] = {}
        if self.config.initializer == "tutorial":
            normal = nn.initializers.normal(stddev=1.0)
            init = {"kernel_init": normal, "bias_init": normal}
        precision = self.execution.precision
        self.features = self.input_shape[1]
        if self.config.differences:
            # A parameter, so that runs on other data share a program.
            ones = nn.initializers.ones
            self.difference_std = self.param(NOT_TRAINED, ones, (self.features,))
            self.features *= 2
        self.recurrence = make_recurrence(
            self.config, self.cell, self.features, self.execution
        )
        self.head = nn.Dense(self.classes, precision=precision, **init, name="head")

    def __call__(
        self,
        inputs: jax.Array,
        lengths: jax.Array | None = None,
        *,
        every_step: bool = False,
    ) -> jax.Array:
        """Computes logits, float32 [batch, classes].

        With `every_step`, they are [batch, time, classes], after each time step. Inputs
        are float [batch, time, features] and 0 in the padding, where logits have no
        meaning. Lengths, int32 [batch], are at least 1 without it; None: no padding.
        """
        if inputs.ndim != 3:
            raise ValueError(
                f"inputs must be [batch, time, features], not of shape {inputs.shape}"
            )
        inputs = inputs.swapaxes(0, 1)
        if self.config.differences:
            inputs = add_differences(inputs, lengths, self.difference_std)
        hidden = self.recurrence(inputs, lengths, every_step=every_step)
        logits = self.head(hidden)
        return logits.swapaxes(0, 1) if every_step else logits

    def start(self, batch: int) -> Any:
        """Returns the carry before the first time step of `batch` sequences."""
        last = jnp.zeros((batch, self.input_shape[1]))
        return self.recurrence.start(batch, self.features), last, jnp.array(True)

    def step(self, carry: Any, inputs: jax.Array) -> tuple[Any, jax.Array]:
        """Returns the carry and the logits after inputs [batch, features]."""
        inner, last, is_first = carry
        read = inputs
        if self.config.differences:
            both = jnp.stack([jnp.where(is_first, inputs, last), inputs])
            read = add_differences(both, None, self.difference_std)[1]
        inner, hidden = self.recurrence.step(inner, read)
        return (inner, inputs, jnp.array(False)), self.head(hidden)


def add_differences(
    inputs: jax.Array, lengths: jax.Array | None, std: jax.Array
) -> jax.Array:
    """Appends each feature's difference from the time step before, divided by its std.

    It is 0 at the first time step and in the padding. Inputs are [time, batch,
    features], lengths [batch] and std [features]. Returns [time, batch, 2 x features].
    """
    times = jnp.arange(inputs.shape[0])  # can be symbolic, in an export
    differences = inputs - inputs[jnp.maximum(times - 1, 0)]
    differences /= jax.lax.stop_gradient(std)[None, None]
    if lengths is not None:  # windows can end in the padding
        is_used = times[:, None, None] < lengths[None, :, None]
        differences = jnp.where(is_used, differences, 0)
    return jnp.concatenate([inputs, differences], axis=-1)


def make_model(
    config: RunModelConfig, task: Task, execution: Execution
) -> SequenceClassifier:
    """Returns the classifier of a configuration, without parameters.

    A cell of the user's is imported, so the command or the call must have named it.
    """
    shape = (task.time_steps, task.features)
    cell = resolve_cell(config)
    return SequenceClassifier(config, cell, shape, len(task.classes), execution)


def init_params(model: SequenceClassifier, key: jax.Array) -> Params:
    """Initializes the parameters of one network, float32.

    The bias of an LSTM's forget gate is `model.forget_bias`. The initializer `chrono`
    draws it for memories of up to all windows but one instead, and takes its negative
    for the input gate. Without windows, each time step is one.

    References:
        Jozefowicz, Zaremba, Sutskever, "An Empirical Exploration of Recurrent
        Network Architectures", ICML 2015, on a forget bias of 1. Tallec and Ollivier,
        "Can recurrent neural networks warp time?", ICLR 2018, on `chrono`.
    """
    params = model.init(key, jnp.zeros((1, *model.input_shape)))["params"]
    config = model.config
    cells = [params[name] for name in ("cell", f"{BACKWARD}cell") if name in params]
    for index, cell in enumerate(cells if config.cell == "lstm" else []):
        bias = jnp.full_like(cell["hf"]["bias"], config.forget_bias)
        if config.initializer == "chrono":
            longest = max(1, config.count_windows(model.input_shape[0]) - 1)
            draw = functools.partial(jax.random.uniform, minval=1, maxval=longest)
            bias = jnp.log(draw(jax.random.fold_in(key, index), bias.shape))
            cell["hi"]["bias"] = -bias
        cell["hf"]["bias"] = bias
    return params


@functools.cache  # a trace takes 10 ms, and each vector of parameters asks for it
def abstract_params(model: SequenceClassifier) -> Params:
    """Returns the shapes and types of the parameters of one network."""
    # Arrays would be part of a program that is traced meanwhile.
    key = jax.eval_shape(make_key, 0)
    inputs = jax.ShapeDtypeStruct((1, *model.input_shape), jnp.float32)
    return jax.eval_shape(model.init, key, inputs)["params"]


def flatten_params(params: Params) -> jax.Array:
    """Returns the parameters of one network as one vector, float32 [parameters]."""
    return ravel_pytree(params)[0]


def unflatten_params(vector: jax.Array, model: SequenceClassifier) -> Params:
    """Returns the parameters in a vector from `flatten_params`."""
    zeros = jax.tree.map(jnp.zeros_like, abstract_params(model))
    params: Params = ravel_pytree(zeros)[1](vector)
    return params


def count_params(params: Params) -> int:
    """Returns the number of trained parameters, over all members of an ensemble."""
    trained = {name: tree for name, tree in params.items() if name != NOT_TRAINED}
    return sum(leaf.size for leaf in jax.tree.leaves(trained))
