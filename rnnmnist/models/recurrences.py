"""Recurrences: layers that map sequences of inputs to hidden states.

Each maps inputs [time, batch, features] to the hidden state after the last time step
before the padding, [batch, hidden], or with `every_step` to those after all time steps,
[time, batch, hidden]. Lengths are int32 [batch]; None: no padding. `start` and `step`
compute the state of a sequence that grows by a time step.
"""

from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from rnnmnist.runtime.random_streams import make_key


def last_of(hidden: jax.Array, lengths: jax.Array | None) -> jax.Array:
    """Returns [batch, hidden] of [time, batch, hidden] after the last time steps."""
    if lengths is None:
        return hidden[-1]
    return hidden[lengths - 1, jnp.arange(lengths.shape[0])]


class ScannedCell(nn.Module):
    """A Flax cell under `nn.scan`."""

    cell: nn.RNNCellBase  # whose output is its hidden state
    unroll: int = 1  # time steps per iteration of the loop
    precision: str | None = None  # as for `jax.default_matmul_precision`

    def __call__(
        self, inputs: jax.Array, lengths: jax.Array | None, *, every_step: bool
    ) -> jax.Array:
        """Runs the cell over inputs [time, batch, features]."""
        carry = self.start(*inputs.shape[1:])
        with jax.default_matmul_precision(self.precision):
            _, hidden = self.scan(lambda cell, carry, x: cell(carry, x), carry, inputs)
        return hidden if every_step else last_of(hidden, lengths)

    def start(self, batch: int, features: int) -> Any:
        """Returns the carry before the first time step of `batch` sequences."""
        return self.cell.initialize_carry(make_key(0), (batch, features))

    def step(self, carry: Any, inputs: jax.Array) -> tuple[Any, jax.Array]:
        """Returns the carry and the hidden state after inputs [batch, features]."""
        with jax.default_matmul_precision(self.precision):
            return self.cell(carry, inputs)

    def scan(
        self, step: Callable[..., Any], carry: Any, inputs: jax.Array
    ) -> tuple[Any, Any]:
        """Scans a function over the time of inputs.

        `step` maps (cell, carry, inputs) to (carry, outputs). Inputs and outputs are
        [time, ...].
        """
        scan: Any = nn.scan(
            step,
            variable_broadcast="params",
            split_rngs={"params": False},
            unroll=min(self.unroll, inputs.shape[0]),  # can be symbolic, in an export
        )
        return scan(self.cell, carry, inputs)
