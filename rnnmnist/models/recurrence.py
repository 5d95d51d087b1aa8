"""An LSTM over the rows with a hand-written backward pass.

It computes the same function of the same parameters as Flax's cell under `nn.scan`, up
to float32 rounding, in fewer and larger operations:

- forward, one matrix product per row: the kernels and biases of all gates times the
  concatenated row, one and hidden state;
- one `tanh` per row for all activations: a sigmoid is a `tanh` of half its argument;
- backward, one product per row for the gradient of the hidden state and one for the
  gradients of all kernels and biases, from the activations, inputs and cell states.

Arrays are [features, batch], not [batch, features]: XLA's CPU products of this size
are faster, and each gate is contiguous.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

GATES = ("i", "f", "g", "o")  # input, forget, candidate, output: Flax's order


class Carry(NamedTuple):
    """The carry after a row, in Flax's order."""

    c: jax.Array  # [hidden, batch], the cell state
    h: jax.Array  # [hidden, batch], the hidden state


class Kernels(NamedTuple):
    """An LSTM's parameters, concatenated over the four gates."""

    row: jax.Array  # [columns, 4 x hidden]
    bias: jax.Array  # [1, 4 x hidden]
    hidden: jax.Array  # [hidden, 4 x hidden]

    @classmethod
    def of(cls, cell: Mapping[str, Any]) -> "Kernels":
        """Converts the parameters of Flax's `LSTMCell` or `OptimizedLSTMCell`."""

        def concatenate(side: str, name: str) -> jax.Array:
            return jnp.concatenate([cell[side + gate][name] for gate in GATES], -1)

        bias = concatenate("h", "bias")[None]
        return cls(concatenate("i", "kernel"), bias, concatenate("h", "kernel"))


class Residuals(NamedTuple):
    """The values of a row that the backward pass needs."""

    gates: jax.Array  # [4 x hidden, batch], their activations
    c: jax.Array  # [hidden, batch], the cell state before the row
    inputs: jax.Array  # [columns + 1 + hidden, batch]: row, one, hidden state before


def read_rows(
    kernels: Kernels, carry: Carry, rows: jax.Array
) -> tuple[Carry, Residuals]:
    """Runs the LSTM over rows.

    Args:
        kernels: of the LSTM.
        carry: before the first row.
        rows: float [rows, columns, batch].

    Returns:
        The carry after the last row, and the residuals with a leading axis of rows.
    """
    # The sigmoid of x is (1 + tanh(x / 2)) / 2; the candidate is a tanh.
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
    """Returns the carry after the last row; differentiates by `_backward`.

    Args:
        kernels: of the LSTM.
        carry: before the first row.
        rows: float [rows, columns, batch].

    References:
        Hochreiter and Schmidhuber, "Long Short-Term Memory", Neural Computation
        9(8), 1997; Gers, Schmidhuber, Cummins, "Learning to Forget", Neural
        Computation 12(10), 2000, for the forget gate.
    """
    return read_rows(kernels, carry, rows)[0]


def _forward(kernels: Kernels, carry: Carry, rows: jax.Array) -> tuple[Carry, Any]:
    last, residuals = read_rows(kernels, carry, rows)
    return last, (kernels, last.c, residuals)


def _backward(saved: Any, grads: Carry) -> tuple[Kernels, Carry, jax.Array]:
    kernels, last, residuals = saved

    def backward_step(after: Any, row: Residuals) -> tuple[Any, jax.Array]:
        (dc, dh), c, dkernel = after
        i, f, g, o = jnp.split(row.gates, 4)
        tanh_c = jnp.tanh(c)
        dc = dc + dh * o * (1 - tanh_c * tanh_c)
        dgates = jnp.concatenate(  # of the pre-activations
            [
                dc * g * i * (1 - i),
                dc * row.c * f * (1 - f),
                dc * i * (1 - g * g),
                dh * tanh_c * o * (1 - o),
            ]
        )
        before = Carry(dc * f, kernels.hidden @ dgates)
        dkernel = dkernel + row.inputs @ dgates.T
        return (before, row.c, dkernel), kernels.row @ dgates

    start = (grads, last, jnp.zeros_like(jnp.concatenate(kernels)))
    (carry, _, dkernel), drows = jax.lax.scan(
        backward_step, start, residuals, reverse=True
    )
    columns = len(kernels.row)
    row, bias, hidden = jnp.split(dkernel, [columns, columns + 1])
    return Kernels(row, bias, hidden), carry, drows.astype(residuals.inputs.dtype)


last_carry.defvjp(_forward, _backward)
