"""The classifier: a recurrence over the time of a sequence, and a dense head."""

import functools
from collections.abc import Mapping
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from rnnmnist.config.platforms import Execution
from rnnmnist.config.resolving import RunModelConfig
from rnnmnist.config.tasks import Task
from rnnmnist.models.cells import (
    BACKWARD,
    FILTERS,
    CellClass,
    make_recurrence,
    resolve_cell,
)
from rnnmnist.models.recurrences import Recurrence
from rnnmnist.runtime.random_streams import make_key

# Nested dictionaries of arrays, with Flax's names. `Any`, since some values are arrays
# and others are dictionaries.
Params = Mapping[str, Any]
# The name of the parameter that is computed from the training data.
DIFFERENCE_STD = "difference_std"
# The keys of `Params` whose parameters are neither trained nor decayed.
NOT_TRAINED = (DIFFERENCE_STD, FILTERS)


class StreamState(NamedTuple):
    """What the classifier remembers of sequences between two time steps.

    Attributes:
        recurrence: its carry, whose type depends on the configuration.
        last: [batch, features], the inputs of the previous time step, 0 before the
            first.
        is_first: bool, whether there is no previous time step.
    """

    recurrence: Any
    last: jax.Array
    is_first: jax.Array


class SequenceClassifier(nn.Module):
    """Classifies a sequence by what a recurrence returns at its last time step.

    That is the last hidden state or, with `model.pooling=mean`, the mean of all.

    With the setting `window`, the recurrence reads windows of several time steps as
    one. It still takes the inputs of each time step, and returns a hidden state for
    each. `Windows` (`models/wrappers.py`) says what that is within a window.
    """

    config: RunModelConfig  # `ModelConfig` with a value in place of each None
    cell: CellClass  # the class of `config.cell`
    # The number of time steps and of features for which the parameters are
    # initialized. Other numbers of time steps are accepted.
    input_shape: tuple[int, int]
    classes: int
    execution: Execution

    def setup(self) -> None:
        """Creates the parameters and the two layers.

        `make_recurrence` creates the cell, with `name="cell"`. Flax makes a module a
        child of the module whose method creates it. Here that is the classifier, whose
        `setup` calls the function. So the parameters of the cell are `params["cell"]`,
        although the cell is a field of the recurrence. The names are part of the
        checkpoint format.
        """
        time_steps, num_features = self.input_shape
        self.recurrence_features = num_features
        if self.config.differences:
            # The standard deviation of each feature's differences in the training data.
            # It is 1 here. `init_state` (`training/state.py`) replaces that by the
            # value of the data set, and it is not trained. It is a parameter and not a
            # constant, because a constant would be part of the compiled program, and
            # each data set would need a program of its own.
            ones = nn.initializers.ones
            self.difference_std = self.param(DIFFERENCE_STD, ones, (num_features,))
            self.recurrence_features = 2 * num_features
        self.recurrence: Recurrence = make_recurrence(
            self.config,
            self.cell,
            (time_steps, self.recurrence_features),
            self.execution,
        )
        kernel_init = nn.initializers.lecun_normal()  # Flax's defaults
        bias_init = nn.initializers.zeros_init()
        if self.config.initializer == "tutorial":
            kernel_init = nn.initializers.normal(stddev=1.0)
            bias_init = nn.initializers.normal(stddev=1.0)
        self.head = nn.Dense(
            self.classes,
            precision=self.execution.precision,
            kernel_init=kernel_init,
            bias_init=bias_init,
        )

    def __call__(
        self,
        inputs: jax.Array,
        lengths: jax.Array | None = None,
        *,
        every_step: bool = False,
    ) -> jax.Array:
        """Computes logits.

        Args:
            inputs: float [batch, time, features], which are 0 in the padding.
            lengths: int32 [batch], the number of time steps of each sequence before the
                padding, at least 1. None means that there is no padding.
            every_step: whether there are logits after each time step.

        Returns:
            The logits after the last time step of each sequence, float32 [batch,
            classes], or with `every_step` [batch, time, classes]. Those in the padding
            have no meaning.
        """
        hidden = self.hidden(inputs, lengths, every_step=every_step)
        logits = self.head(hidden)
        if every_step:  # hidden states are [time, batch, hidden]
            logits = logits.swapaxes(0, 1)
        return logits

    def hidden(
        self,
        inputs: jax.Array,
        lengths: jax.Array | None = None,
        *,
        every_step: bool = False,
    ) -> jax.Array:
        """Computes what the head reads. The arguments are those of `__call__`.

        Returns the hidden states after the last time step of each sequence, [batch,
        hidden], or with `every_step` those after all, [time, batch, hidden].
        """
        inputs = inputs.swapaxes(0, 1)
        if self.config.differences:
            inputs = add_differences(inputs, lengths, self.difference_std)
        return self.recurrence(inputs, lengths, every_step=every_step)

    def start(self, batch: int) -> StreamState:
        """Returns the carry before the first time step of `batch` sequences."""
        return StreamState(
            recurrence=self.recurrence.start(batch, self.recurrence_features),
            last=jnp.zeros((batch, self.input_shape[1])),
            is_first=jnp.array(True),
        )

    def step(
        self, carry: StreamState, inputs: jax.Array
    ) -> tuple[StreamState, jax.Array]:
        """Returns the carry and the logits after one time step.

        Inputs are [batch, features]. The logits, [batch, classes], are those of the
        sequences up to this time step.
        """
        recurrence_inputs = inputs
        if self.config.differences:
            # The difference of the first time step is 0.
            last = jnp.where(carry.is_first, inputs, carry.last)
            two_time_steps = jnp.stack([last, inputs])
            both = add_differences(two_time_steps, None, self.difference_std)
            recurrence_inputs = both[1]
        recurrence, hidden = self.recurrence.step(carry.recurrence, recurrence_inputs)
        return StreamState(recurrence, inputs, jnp.array(False)), self.head(hidden)


def add_differences(
    inputs: jax.Array, lengths: jax.Array | None, std: jax.Array
) -> jax.Array:
    """Appends each feature's difference from the time step before, divided by its std.

    It is 0 at the first time step and in the padding. Inputs are [time, batch,
    features], lengths [batch] and std [features]. Returns [time, batch, 2 x features].
    """
    times = jnp.arange(inputs.shape[0])
    # The inputs one time step earlier. A slice, such as `inputs[:-1]`, fails in
    # exports, in which the number of time steps is symbolic.
    earlier = inputs[jnp.maximum(times - 1, 0)]
    differences = inputs - earlier
    differences /= jax.lax.stop_gradient(std)[None, None]  # not trained
    if lengths is not None:
        # Without this, the first difference in the padding would not be 0, since the
        # inputs fall to 0 there.
        is_used = times[:, None, None] < lengths[None, :, None]
        differences = jnp.where(is_used, differences, 0)
    return jnp.concatenate([inputs, differences], axis=-1)


def make_model(
    config: RunModelConfig, task: Task, execution: Execution
) -> SequenceClassifier:
    """Returns the classifier of a configuration, without parameters.

    If the cell is the user's own, this imports its code. For safety, the cell of the
    configuration must be one that the user has named, in a command or in Python, never
    one that only a checkpoint names.
    """
    shape = (task.time_steps, task.features)
    cell = resolve_cell(config)
    if config.fitting == "closed_form":
        # The recurrence is random filters, and a ridge regression fits the head, not
        # the training step. The weights of such a head are large, and its products
        # nearly cancel. If an accelerator rounded them as coarsely as it does by
        # default, little would be left of the logits.
        execution = execution._replace(precision="float32")
    return SequenceClassifier(config, cell, shape, len(task.classes), execution)


def init_params(model: SequenceClassifier, key: jax.Array) -> Params:
    """Initializes the parameters of one network, float32.

    The bias of an LSTM's forget gate is the setting `forget_bias`. With the initializer
    `chrono`, it is log(u) instead, and that of the input gate is -log(u). Here u is
    uniform between 1 and T - 1, where T is the number of calls of the cell for the
    longest sequence: one for each time step or, with the setting `window`, for each
    window. The cell remembers about u calls.

    References:
        Jozefowicz, Zaremba, Sutskever, "An Empirical Exploration of Recurrent
        Network Architectures", ICML 2015, on a forget bias of 1. Tallec and Ollivier,
        "Can recurrent neural networks warp time?", ICLR 2018, on `chrono`.
    """
    inputs = jnp.zeros((1, *model.input_shape))
    params: Params = model.init(key, inputs)["params"]
    if model.config.cell != "lstm":
        return params
    names = ["cell"]
    if model.config.bidirectional:
        names.append(f"{BACKWARD}cell")
    cells = {}
    for index, name in enumerate(names):
        # `init` folds hashes of names into `key`, so it has not used this key.
        cell_key = jax.random.fold_in(key, index)
        cells[name] = _replace_gate_biases(params[name], model, cell_key)
    return {**params, **cells}


def _replace_gate_biases(
    cell: Params, model: SequenceClassifier, key: jax.Array
) -> Params:
    """Returns the parameters of an LSTM with the biases that `init_params` describes.

    In Flax's LSTM, the bias of the input gate is in `hi`, that of the forget gate in
    `hf`.
    """
    input_bias = cell["hi"]["bias"]
    forget_bias = jnp.full_like(cell["hf"]["bias"], model.config.forget_bias)
    if model.config.initializer == "chrono":
        windows = model.config.count_windows(model.input_shape[0])
        longest_memory = max(1, windows - 1)
        shape = forget_bias.shape
        memories = jax.random.uniform(key, shape, minval=1, maxval=longest_memory)
        forget_bias = jnp.log(memories)
        input_bias = -forget_bias
    return {
        **cell,
        "hi": {**cell["hi"], "bias": input_bias},
        "hf": {**cell["hf"], "bias": forget_bias},
    }


@functools.cache  # a call traces the model, which takes 10 ms
def abstract_params(model: SequenceClassifier) -> Params:
    """Returns the shapes and types of the parameters of one network."""
    # The key is abstract, too: a caller may be tracing a program, to which the
    # operations that make a key would be added.
    key = jax.eval_shape(make_key, 0)
    return jax.eval_shape(functools.partial(init_params, model), key)


def count_params(params: Params) -> int:
    """Returns the number of trained parameters, over all members of an ensemble."""
    trained = {name: tree for name, tree in params.items() if name not in NOT_TRAINED}
    return sum(leaf.size for leaf in jax.tree.leaves(trained))
