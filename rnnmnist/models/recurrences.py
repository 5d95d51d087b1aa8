"""Recurrences: layers that map sequences of inputs to hidden states.

Each maps inputs [time, batch, features] to the hidden state after the last time step
before the padding, [batch, hidden], or with `every_step` to those after all time steps,
[time, batch, hidden]. Lengths are int32 [batch]; None: no padding. `start` and `step`
compute the state of a sequence that grows by a time step.
"""

import functools
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import lax

from rnnmnist.runtime.random_streams import make_key


def last_of(hidden: jax.Array, lengths: jax.Array | None) -> jax.Array:
    """Returns [batch, hidden] of [time, batch, hidden] after the last time steps."""
    if lengths is None:
        return hidden[-1]
    return hidden[lengths - 1, jnp.arange(lengths.shape[0])]


def scan_to_longest(
    step: Callable[..., Any],
    carry: Any,
    inputs: jax.Array,
    lengths: jax.Array,
    *,
    every_step: bool,
) -> jax.Array:
    """Scans a function over time, up to the end of the longest sequence.

    The number of iterations is data and not part of the program. So one program serves
    sequences of all lengths, and their padding costs no iterations. It has no
    derivative.

    Args:
        step: maps the carry and the inputs of a time step to the new carry and an
            output.
        carry: before the first time step.
        inputs: [time, ...].
        lengths: int32, of a shape that is broadcast to that of an output.
        every_step: returns all outputs, [time, ...], with 0 after the longest sequence,
            instead of that after each sequence's last time step.
    """
    _, output = jax.eval_shape(step, carry, inputs[0])
    kept_shape = (len(inputs), *output.shape) if every_step else output.shape

    def body(time: jax.Array, state: tuple[Any, jax.Array]) -> tuple[Any, jax.Array]:
        carry, kept = state
        now = lax.dynamic_index_in_dim(inputs, time, keepdims=False)
        carry, output = step(carry, now)
        if every_step:
            kept = lax.dynamic_update_index_in_dim(kept, output, time, 0)
        else:
            kept = jnp.where(time < lengths, output, kept)
        return carry, kept

    initial = (carry, jnp.zeros(kept_shape, output.dtype))
    _, kept = lax.fori_loop(0, lengths.max(), body, initial)
    return kept


class ScannedCell(nn.Module):
    """A Flax cell under `nn.scan`."""

    cell: nn.RNNCellBase  # whose output is its hidden state
    unroll: int = 1  # time steps per iteration of the loop
    precision: str | None = None  # as for `jax.default_matmul_precision`
    skip_padding: bool = False  # whether lengths end the loop, as `scan_to_longest`

    def __call__(
        self, inputs: jax.Array, lengths: jax.Array | None, *, every_step: bool
    ) -> jax.Array:
        """Runs the cell over inputs [time, batch, features]."""
        carry = self.start(*inputs.shape[1:])
        with jax.default_matmul_precision(self.precision):
            if self.skip_padding and lengths is not None:
                cell, variables = self.cell.unbind()
                step = functools.partial(cell.apply, variables)
                return scan_to_longest(
                    step, carry, inputs, lengths[:, None], every_step=every_step
                )
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
