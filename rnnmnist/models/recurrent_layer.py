"""Recurrent layers, which map sequences of inputs to hidden states.

`RecurrentLayer` is the interface, and `ScannedCell` implements the interface for a Flax
cell. The carry of a layer is the layer's whole state between two time steps.
"""

import zlib
from collections.abc import Callable
from typing import Any, NamedTuple, Protocol

import flax.linen as nn
import jax
import jax.numpy as jnp

from rnnmnist.models.networks import LOSSES
from rnnmnist.runtime.random_streams import make_key

# A pytree, whose structure depends on the layer.
Carry = Any


class Dropout(NamedTuple):
    """Dropout for layer outputs in one training step.

    `BatchTransform` (`data/batches.py`) derives a key for each example from the seed,
    the step and the position of the example in the global batch. The masks of an
    example depend only on this key: under `vmap`, the random bits do not depend on the
    number of examples (`runtime/random_streams.py`). An example therefore gets the same
    masks on any number of devices.

    Dropout is applied between layers and before the head:

    - As in `torch.nn.LSTM`, every time step has an independent mask.
    - Unlike in `torch.nn.LSTM`, dropout is also applied to the inputs of the head,
      after pooling over time.
    - In a residual layer, dropout is applied after the skip connection. The S5 code
      (`s5/layers.py`) applies dropout inside the layer, before the gate and the skip
      connection, with the same mask at all time steps.

    References:
        Srivastava, Hinton, Krizhevsky, Sutskever, Salakhutdinov, "Dropout: A Simple Way
        to Prevent Neural Networks from Overfitting", JMLR 15, 2014.
    """

    rate: float  # probability of dropping an output
    keys: jax.Array | None  # one per example, [batch]; None disables dropout

    def apply(self, outputs: jax.Array, layer: str) -> jax.Array:
        """Applies dropout to the outputs of a layer, [..., batch, hidden]."""
        if self.keys is None:
            return outputs
        *leading, _, size = outputs.shape
        return outputs * self.draw_mask(layer, (*leading, size))

    def draw_mask(self, layer: str, shape: tuple[int, ...]) -> jax.Array:
        """Draws a mask: 0 for dropped outputs, 1 / (1 - rate) for kept outputs.

        `keys` must not be None.

        Args:
            layer: the name of the layer. Its hash is folded into the keys, so renaming
                a layer changes its masks.
            shape: the shape of one example's outputs, [..., hidden].

        Returns:
            The mask, float32 [..., batch, hidden].
        """

        def draw(key: jax.Array) -> jax.Array:
            layer_key = jax.random.fold_in(key, zlib.crc32(layer.encode()))
            is_kept = jax.random.bernoulli(layer_key, 1 - self.rate, shape)
            return jnp.where(is_kept, 1 / (1 - self.rate), 0.0)

        return jax.vmap(draw, out_axes=-2)(self.keys)  # type: ignore[arg-type]


NO_DROPOUT = Dropout(rate=0.0, keys=None)


class RecurrentLayer(Protocol):
    """A layer that reads whole sequences, or a stream of time steps.

    `Bidirectional` (`models/wrappers.py`) reads only whole sequences.
    """

    def __call__(
        self,
        inputs: jax.Array,
        lengths: jax.Array | None,
        *,
        every_step: bool,
        dropout: Dropout,
    ) -> jax.Array:
        """Reads whole sequences and returns their hidden states.

        Args:
            inputs: [time, batch, features].
            lengths: int32 [batch], at least 1: the number of time steps in each
                sequence, excluding padding. None means no padding.
            every_step: whether to return the hidden states after every time step.
            dropout: the dropout that `Stack` and `ResidualLayers` apply between their
                layers. The classifier applies dropout to the final output.

        Returns:
            The hidden state after the last time step of each sequence, [batch, hidden].
            If `every_step` is True, the hidden states after every time step, [time,
            batch, hidden].

            `MeanPooling` returns running means of the hidden states. `Bidirectional`
            concatenates the hidden states of two layers (`models/wrappers.py`).
        """
        ...

    def initialize_carry(self, batch_size: int, num_features: int) -> Carry:
        """Returns the initial carry for `batch_size` sequences."""
        ...

    def read_time_step(
        self, carry: Carry, inputs: jax.Array
    ) -> tuple[Carry, jax.Array]:
        """Reads one time step of each sequence.

        `inputs` has shape [batch, features]. Returns the new carry and the hidden
        states, [batch, hidden].
        """
        ...


def select_last(hidden: jax.Array, lengths: jax.Array | None) -> jax.Array:
    """Selects the hidden state after the last time step of each sequence.

    Args:
        hidden: [time, batch, hidden].
        lengths: int32 [batch], at least 1. None means no padding.

    Returns:
        The final hidden states, [batch, hidden].
    """
    if lengths is None:
        return hidden[-1]
    return hidden[lengths - 1, jnp.arange(lengths.shape[0])]


class ScannedCell(nn.Module):
    """A Flax cell under `nn.scan` (a `RecurrentLayer`)."""

    cell: nn.RNNCellBase  # its output is its hidden state
    unroll: int = 1  # time steps per iteration of the loop
    precision: str | None = None  # see `jax.default_matmul_precision`

    def __call__(
        self,
        inputs: jax.Array,
        lengths: jax.Array | None,
        *,
        every_step: bool,
        dropout: Dropout = NO_DROPOUT,
    ) -> jax.Array:
        """Runs the cell over whole sequences."""
        _, batch_size, num_features = inputs.shape
        carry = self.initialize_carry(batch_size, num_features)
        if lengths is None and not every_step:
            return self.compute_final_hidden(carry, inputs)
        _, hidden = self.advance(carry, inputs)
        return hidden if every_step else select_last(hidden, lengths)

    def initialize_carry(self, batch_size: int, num_features: int) -> Carry:
        """Returns the initial carry for `batch_size` sequences."""
        # The initial carry of most cells is 0. If a cell draws a random carry, all
        # sequences and calls use the same one.
        carry = self.cell.initialize_carry(make_key(0), (1, num_features))
        return jax.tree.map(
            lambda array: jnp.broadcast_to(array, (batch_size, *array.shape[1:])), carry
        )

    def read_time_step(
        self, carry: Carry, inputs: jax.Array
    ) -> tuple[Carry, jax.Array]:
        """Runs the cell on one time step."""
        carry, hidden = self.advance(carry, inputs[None])
        return carry, hidden[0]

    def advance(self, carry: Carry, inputs: jax.Array) -> tuple[Carry, jax.Array]:
        """Runs the cell over inputs of shape [time, batch, features]."""
        with jax.default_matmul_precision(self.precision):
            return self.scan(
                lambda cell, carry, inputs: cell(carry, inputs), carry, inputs
            )

    def compute_final_hidden(self, carry: Carry, inputs: jax.Array) -> jax.Array:
        """Returns the final hidden states, [batch, hidden]."""
        _, hidden = self.advance(carry, inputs)
        return hidden[-1]

    def scan(
        self,
        body: Callable[[nn.RNNCellBase, Carry, jax.Array], tuple[Carry, jax.Array]],
        carry: Carry,
        inputs: jax.Array,
    ) -> tuple[Carry, jax.Array]:
        """Scans `body` over the time steps of the inputs, like `jax.lax.scan`.

        Args:
            body: maps the cell, the carry and the inputs of a time step to the new
                carry and an output. `advance` passes a body that calls the cell;
                `LSTM` (`models/lstm.py`) passes a faster equivalent.
            carry: the initial carry.
            inputs: [time, ...].

        Returns:
            The final carry, and the outputs of all time steps, [time, ...].
        """
        # Unlike `jax.lax.scan`, `nn.scan` supports a `body` that calls a module.
        scan_over_time = nn.scan(
            body,
            variable_broadcast="params",  # shared by all time steps
            variable_axes={LOSSES: 0},  # penalties of each time step
            split_rngs={"params": False},
            unroll=self.unroll,
        )
        return scan_over_time(self.cell, carry, inputs)
