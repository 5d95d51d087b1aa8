"""Recurrences: layers that map sequences of inputs to hidden states.

`RecurrentLayer` is the interface of such a layer, and `ScannedCell` implements it for a
Flax cell. The carry of a recurrence is all that it remembers of a sequence between two
time steps.
"""

from collections.abc import Callable
from typing import Any, Protocol

import flax.linen as nn
import jax
import jax.numpy as jnp

from rnnmnist.models.dropout import NO_DROPOUT, Dropout
from rnnmnist.models.networks import LOSSES
from rnnmnist.runtime.random_streams import make_key

# Each recurrence has its own type of carry. Flax declares none for its cells.
Carry = Any


class RecurrentLayer(Protocol):
    """A layer that reads sequences, whole or one time step at a time.

    `Bidirectional` (`models/wrappers.py`) reads whole sequences only.
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
            lengths: int32 [batch], the number of time steps of each sequence before
                its padding, at least 1. None means that there is no padding.
            every_step: whether the result has a hidden state for each time step, not
                only for the last one.
            dropout: for the outputs of inner layers. `Stack` and `ResidualLayers` apply
                it between their layers, and the classifier to the final output.

        Returns:
            The hidden state after the last time step of each sequence, [batch, hidden],
            or with `every_step` those after all time steps, [time, batch, hidden].
            `MeanPooling` returns running means, and `Bidirectional` returns [batch, 2 x
            hidden] (`models/wrappers.py`).
        """
        ...

    def initialize_carry(self, batch: int, features: int) -> Carry:
        """Returns the carry before the first time step of `batch` sequences."""
        ...

    def read_time_step(
        self, carry: Carry, inputs: jax.Array
    ) -> tuple[Carry, jax.Array]:
        """Reads one time step of each sequence.

        Inputs are [batch, features]. Returns the carry after the time step, and the
        hidden states, [batch, hidden].
        """
        ...


def select_last(hidden: jax.Array, lengths: jax.Array | None) -> jax.Array:
    """Returns the hidden state after the last time step of each sequence.

    The hidden states are [time, batch, hidden], and the lengths are int32 [batch], at
    least 1, or None without padding. The result is [batch, hidden].
    """
    if lengths is None:
        return hidden[-1]
    return hidden[lengths - 1, jnp.arange(lengths.shape[0])]


class ScannedCell(nn.Module):
    """A Flax cell under `nn.scan`. It is a `RecurrentLayer`."""

    cell: nn.RNNCellBase  # whose output is its hidden state
    unroll: int = 1  # time steps per iteration of the loop
    precision: str | None = None  # as for `jax.default_matmul_precision`

    def __call__(
        self,
        inputs: jax.Array,
        lengths: jax.Array | None,
        *,
        every_step: bool,
        dropout: Dropout = NO_DROPOUT,
    ) -> jax.Array:
        """Runs the cell over whole sequences."""
        _, batch, features = inputs.shape
        carry = self.initialize_carry(batch, features)
        if lengths is None and not every_step:
            return self.read_to_end(carry, inputs)
        _, hidden = self.advance(carry, inputs)
        return hidden if every_step else select_last(hidden, lengths)

    def initialize_carry(self, batch: int, features: int) -> Carry:
        """Returns the carry before the first time step of `batch` sequences."""
        # `initialize_carry` takes a key, since the first carry of a cell can be random.
        # With this constant key, it is the same in every call. Most cells begin with
        # zeros.
        return self.cell.initialize_carry(make_key(0), (batch, features))

    def read_time_step(
        self, carry: Carry, inputs: jax.Array
    ) -> tuple[Carry, jax.Array]:
        """Runs the cell on one time step."""
        carry, hidden = self.advance(carry, inputs[None])
        return carry, hidden[0]

    def advance(self, carry: Carry, inputs: jax.Array) -> tuple[Carry, jax.Array]:
        """Runs the cell over time steps, [time, batch, features]."""
        with jax.default_matmul_precision(self.precision):
            return self.scan(
                lambda cell, carry, inputs: cell(carry, inputs), carry, inputs
            )

    def read_to_end(self, carry: Carry, inputs: jax.Array) -> jax.Array:
        """Returns the hidden states after the last time step, [batch, hidden]."""
        _, hidden = self.advance(carry, inputs)
        return hidden[-1]

    def scan(
        self,
        body: Callable[[nn.RNNCellBase, Carry, jax.Array], tuple[Carry, jax.Array]],
        carry: Carry,
        inputs: jax.Array,
    ) -> tuple[Carry, jax.Array]:
        """Calls `body` on the inputs of one time step after another.

        `body` maps the cell, the carry and the inputs of a time step to the new carry
        and an output. `advance` passes one that calls the cell. The subclass `LSTM`
        (`models/lstm.py`) passes another one, which computes the same faster. The first
        axis of the inputs is time. Returns the last carry, and the outputs of all time
        steps, whose first axis is time.
        """
        # This is `jax.lax.scan` for a body that calls a module. Flax passes the
        # module's parameters into the loop.
        scan_over_time = nn.scan(
            body,
            variable_broadcast="params",  # every time step has the same parameters
            variable_axes={LOSSES: 0},  # and penalties of its own
            split_rngs={"params": False},
            unroll=self.unroll,
        )
        return scan_over_time(self.cell, carry, inputs)
