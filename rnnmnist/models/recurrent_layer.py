"""Recurrent layers, which map sequences of inputs to hidden states.

`RecurrentLayer` is the interface, and `ScannedCell` implements the interface for a Flax
cell. The carry of a layer is the layer's whole state between two time steps.
"""

from collections.abc import Callable
from typing import Any, Protocol

import flax.linen as nn
import jax
import jax.numpy as jnp

from rnnmnist.models.dropout import NO_DROPOUT, Dropout
from rnnmnist.models.networks import LOSSES
from rnnmnist.runtime.random_streams import make_key

# A pytree, whose structure depends on the layer.
Carry = Any


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
        # The initial carry of most cells is 0, but a cell may draw a random carry. The
        # constant key makes the initial carry the same in every call.
        return self.cell.initialize_carry(make_key(0), (batch_size, num_features))

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
        # Unlike `jax.lax.scan`, `nn.scan` also passes the cell's parameters to `body`.
        scan_over_time = nn.scan(
            body,
            variable_broadcast="params",  # shared by all time steps
            variable_axes={LOSSES: 0},  # penalties of each time step
            split_rngs={"params": False},
            unroll=self.unroll,
        )
        return scan_over_time(self.cell, carry, inputs)
