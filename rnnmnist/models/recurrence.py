"""An LSTM over the rows, with the backward pass written out.

The same function of the same parameters as Flax's cell under `nn.scan`, to float32
rounding, in fewer and larger operations:

- one product a row, of the kernels and biases of all gates with the row, a one and the
  hidden state, below each other;
- one `tanh` a row for all activations: a sigmoid is a `tanh` of half its argument;
- backward, one product a row for the hidden state's gradient, and one for those of all
  kernels and biases; of the forward pass it needs activations, inputs and cell states.

Arrays are [features, batch] here, not [batch, features]: XLA's CPU products of this
size are faster that way, and a gate is a whole block of memory.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

GATES = ("i", "f", "g", "o")  # input, forget, candidate, output: Flax's order


class Carry(NamedTuple):
    """What an LSTM knows after a row, in Flax's order."""

    c: jax.Array  # [hidden, batch], the cell state
    h: jax.Array  # [hidden, batch], the hidden state


class Kernels(NamedTuple):
    """An LSTM's parameters, those of its four gates side by side."""

    row: jax.Array  # [columns, 4 x hidden]
    bias: jax.Array  # [1, 4 x hidden]
    hidden: jax.Array  # [hidden, 4 x hidden]

    @classmethod
    def of(cls, cell: Mapping[str, Any]) -> "Kernels":
        """From the parameters of Flax's `LSTMCell` or `OptimizedLSTMCell`."""

        def beside(side: str, name: str) -> jax.Array:
            return jnp.concatenate([cell[side + gate][name] for gate in GATES], -1)

        bias = beside("h", "bias")[None]
        return cls(beside("i", "kernel"), bias, beside("h", "kernel"))


class Residuals(NamedTuple):
    """What the backward pass needs of a row."""

    gates: jax.Array  # [4 x hidden, batch], their activations
    c: jax.Array  # [hidden, batch], the cell state before the row
    inputs: jax.Array  # [columns + 1 + hidden, batch]: row, one, hidden state before


def read_rows(
    kernels: Kernels, carry: Carry, rows: jax.Array
) -> tuple[Carry, Residuals]:
    """Reads rows one after the other.

    Args:
        kernels: of the LSTM.
        carry: before the first row.
        rows: float [rows, columns, batch].

    Returns:
        The carry after the last row; and what is kept of each, with a leading axis of
        rows.
    """
    # The sigmoid of x is (1 + tanh(x / 2)) / 2; a candidate is a tanh already.
    column = (carry.h.shape[0], 1)
    half, whole = (jnp.full(column, value, carry.h.dtype) for value in (0.5, 1.0))
    scale = jnp.concatenate([half, half, whole, half])
    kernel = jnp.concatenate(kernels).T * scale  # exact: a half is a power of two
    one = jnp.ones_like(rows[0, :1])

    def read_row(carry: Carry, row: jax.Array) -> tuple[Carry, Residuals]:
        inputs = jnp.concatenate([row, one, carry.h])
        gates = jnp.tanh(kernel @ inputs) * scale + (1 - scale)
        i, f, g, o = jnp.split(gates, 4)
        c = f * carry.c + i * g
        return Carry(c, o * jnp.tanh(c)), Residuals(gates, carry.c, inputs)

    return jax.lax.scan(read_row, carry, rows)


@jax.custom_vjp
def last_carry(kernels: Kernels, carry: Carry, rows: jax.Array) -> Carry:
    """The carry after the last row, with the backward pass below.

    Args:
        kernels: of the LSTM.
        carry: before the first row.
        rows: float [rows, columns, batch].

    References:
        Hochreiter and Schmidhuber, "Long Short-Term Memory", Neural Computation
        9(8), 1997; with Gers, Schmidhuber, Cummins's forget gate, 2000.
    """
    return read_rows(kernels, carry, rows)[0]


def _forward(kernels: Kernels, carry: Carry, rows: jax.Array) -> tuple[Carry, Any]:
    last, kept = read_rows(kernels, carry, rows)
    return last, (kernels, last.c, kept)


def _backward(residuals: Any, grads: Carry) -> tuple[Kernels, Carry, jax.Array]:
    kernels, last, kept = residuals

    def backward_step(after: Any, kept: Residuals) -> tuple[Any, jax.Array]:
        (dc, dh), c, dkernel = after
        i, f, g, o = jnp.split(kept.gates, 4)
        tanh_c = jnp.tanh(c)
        dc = dc + dh * o * (1 - tanh_c * tanh_c)
        dgates = jnp.concatenate(  # before their activations
            [
                dc * g * i * (1 - i),
                dc * kept.c * f * (1 - f),
                dc * i * (1 - g * g),
                dh * tanh_c * o * (1 - o),
            ]
        )
        before = Carry(dc * f, kernels.hidden @ dgates)
        dkernel = dkernel + kept.inputs @ dgates.T
        return (before, kept.c, dkernel), kernels.row @ dgates

    start = (grads, last, jnp.zeros_like(jnp.concatenate(kernels)))
    (carry, _, dkernel), drows = jax.lax.scan(backward_step, start, kept, reverse=True)
    columns = len(kernels.row)
    row, bias, hidden = jnp.split(dkernel, [columns, columns + 1])
    return Kernels(row, bias, hidden), carry, drows.astype(kept.inputs.dtype)


last_carry.defvjp(_forward, _backward)
