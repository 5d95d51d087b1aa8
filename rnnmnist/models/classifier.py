"""The classifier: a recurrence over the rows of an image, and a dense head."""

import functools
import math
from collections.abc import Callable, Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from rnnmnist.config.platforms import Execution
from rnnmnist.config.schema import ROWS, ModelConfig
from rnnmnist.models.recurrences import LSTM, LSTMCell, ScannedCell

CLASSES = 10
COLUMNS = 28

Params = Mapping[str, Any]  # nested dictionaries of arrays, with Flax's names

# Each cell with its recurrence and its number of gates, the candidate included.
CELLS: dict[str, tuple[Callable[..., nn.RNNCellBase], type[ScannedCell], int]] = {
    "lstm": (LSTMCell, LSTM, 4),
    "gru": (nn.GRUCell, ScannedCell, 3),
    "rnn": (nn.SimpleCell, ScannedCell, 1),
}


class SequenceClassifier(nn.Module):
    """Classifies a sequence by the hidden state after its last step.

    Attributes:
        make_recurrence: creates the recurrence, whose cell is named `cell`. The names
            are part of the checkpoint format.
        make_head: creates the dense layer from hidden state to logits, named `head`.
    """

    make_recurrence: Callable[[], nn.Module]
    make_head: Callable[[], nn.Module]

    @nn.compact
    def __call__(self, inputs: jax.Array, *, every_step: bool = False) -> jax.Array:
        """Computes the logits of sequences.

        Args:
            inputs: uint8 or float array [batch, time, features]: of an image, the rows
                are the steps and the columns the features. uint8 is scaled to [0, 1].
            every_step: returns the logits after each step, not only after the last.

        Returns:
            Logits, float32 [batch, classes]; with `every_step`, [batch, time, classes].

        Raises:
            ValueError: if `inputs` is not of rank 3, for instance because of a channel
                axis, or `remat_steps` does not divide the number of steps.
        """
        hidden = self.make_recurrence()(time_major(inputs), every_step=every_step)
        logits = self.make_head()(hidden)
        return logits.swapaxes(0, 1) if every_step else logits


def time_major(inputs: jax.Array) -> jax.Array:
    """Converts inputs of the classifier to float [time, batch, features].

    Raises:
        ValueError: if they are not of rank 3.
    """
    if inputs.ndim != 3:
        raise ValueError(
            f"inputs must be [batch, time, features], not of shape {inputs.shape}"
        )
    if inputs.dtype == jnp.uint8:
        inputs = inputs.astype(jnp.float32) / 255
    return inputs.swapaxes(0, 1)


@functools.cache  # jit takes the model as a static argument and compares by identity
def make_model(config: ModelConfig, execution: Execution) -> SequenceClassifier:
    """Returns the classifier of a configuration, without parameters."""
    cell, recurrence, gates = CELLS[config.cell]
    cell_init: dict[str, Any] = {}
    head_init: dict[str, Any] = {}
    if config.initializer == "tutorial":
        # TensorFlow 1 drew one matrix [inputs + hidden, gates x hidden] for all gates.
        limit = math.sqrt(6 / (COLUMNS + (1 + gates) * config.hidden_size))
        glorot = functools.partial(jax.random.uniform, minval=-limit, maxval=limit)
        cell_init = {"kernel_init": glorot, "recurrent_kernel_init": glorot}
        normal = nn.initializers.normal(stddev=1.0)
        head_init = {"kernel_init": normal, "bias_init": normal}

    def make_recurrence() -> nn.Module:
        return recurrence(
            cell(config.hidden_size, **cell_init, name="cell"),
            unroll=execution.unroll,
            remat_steps=config.remat_steps,
            precision=execution.precision,
        )

    def make_head() -> nn.Module:
        precision = execution.precision
        return nn.Dense(CLASSES, precision=precision, **head_init, name="head")

    return SequenceClassifier(make_recurrence, make_head)


def init_params(
    model: SequenceClassifier, key: jax.Array, forget_bias: float
) -> Params:
    """Initializes the parameters of one network, float32.

    `forget_bias` is the initial bias of the LSTM's forget gate. Other cells have no
    such parameter and ignore it.

    References:
        Jozefowicz, Zaremba, Sutskever, "An Empirical Exploration of Recurrent
        Network Architectures", ICML 2015, on a forget bias of 1.
    """
    params = model.init(key, jnp.zeros((1, ROWS, COLUMNS), jnp.uint8))["params"]
    forget_gate = params["cell"].get("hf")
    if forget_gate is not None:
        forget_gate["bias"] = jnp.full_like(forget_gate["bias"], forget_bias)
    return params


def abstract_params(model: SequenceClassifier) -> Params:
    """Returns the shapes and types of the parameters of one network."""
    return jax.eval_shape(lambda: init_params(model, jax.random.key(0), 0.0))


def count_params(params: Params) -> int:
    """Returns the number of parameters, over all networks of an ensemble."""
    return sum(leaf.size for leaf in jax.tree.leaves(params))
