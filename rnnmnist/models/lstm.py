"""The LSTM: Flax's cell with a hand-written derivative, under `nn.scan`."""

import functools
from collections.abc import Mapping
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.typing import DTypeLike

from rnnmnist.models.recurrent_layer import ScannedCell
from rnnmnist.runtime.random_streams import make_key

GATES = "ifgo"  # input, forget, candidate, output: Flax's order


class LSTMCarry(NamedTuple):
    """The carry of an `LSTM`, in Flax's order, but with the batch as the last axis."""

    c: jax.Array  # [hidden, batch], the cell state
    h: jax.Array  # [hidden, batch], the hidden state


class Kernels(NamedTuple):
    """The parameters of an LSTM, concatenated over gates, in the forms that are used.

    Only the first one is differentiated; the other is a copy for fast products.
    """

    kernel: jax.Array  # [features + 1 + hidden, 4 x hidden]: of inputs, bias, of hidden
    scaled: jax.Array  # [4 x hidden, features + 1 + hidden], multiplied by `_scale`


class Residuals(NamedTuple):
    """What the backward pass of a time step needs."""

    kernels: Kernels
    gates: jax.Array  # [4 x hidden, batch], after the activations, in the order `GATES`
    c: jax.Array  # [hidden, batch], the cell state after the time step
    inputs: jax.Array  # [features + 1 + hidden, batch]: inputs, one and hidden state


class LSTM(ScannedCell):
    """An `LSTMCell` under `nn.scan`, with a hand-written derivative.

    It computes the function of Flax's cell, with an absolute error of float32 rounding,
    in fewer and larger operations:

    - forward, one matrix product for all gates with the concatenated inputs, one and
      hidden state, and one `tanh` for all activations;
    - backward, one product for the gradient of the hidden state and one for those of
      all kernels and biases.

    The kernels of the gates are concatenated once for a whole block of time steps. In
    the loop, arrays are [features, batch], for faster products on a CPU and contiguous
    gates.
    """

    cell: "LSTMCell"

    def initialize_carry(self, batch: int, features: int) -> LSTMCarry:
        """Returns the carry before the first time step of `batch` sequences."""
        c, h = super().initialize_carry(batch, features)
        return LSTMCarry(c.T, h.T)

    def advance(
        self, carry: LSTMCarry, inputs: jax.Array
    ) -> tuple[LSTMCarry, jax.Array]:
        """Runs the cell over time steps, [time, batch, features]."""
        kernels = self.cell.kernels(inputs.shape[-1])

        def step(
            _: nn.RNNCellBase, carry: LSTMCarry, inputs: jax.Array
        ) -> tuple[LSTMCarry, jax.Array]:
            carry = lstm_time_step(self.precision, kernels, carry, inputs)
            return carry, carry.h

        carry, hidden = self.scan(step, carry, inputs.mT)
        return carry, hidden.mT

    def read_to_end(self, carry: LSTMCarry, inputs: jax.Array) -> jax.Array:
        """Returns the hidden states after the last time step, [batch, hidden]."""
        # Nothing reads the states of other time steps, so that XLA stores none.
        last, _ = self.advance(carry, inputs)
        return last.h.T


class LSTMCell(nn.OptimizedLSTMCell):
    """Flax's LSTM cell, whose parameters `LSTM` reads side by side.

    References:
        Hochreiter and Schmidhuber, "Long Short-Term Memory", Neural Computation
        9(8), 1997; Gers, Schmidhuber, Cummins, "Learning to Forget", Neural
        Computation 12(10), 2000, for the forget gate.
    """

    def kernels(self, features: int) -> Kernels:
        """Returns the parameters for inputs with this number of features."""
        if self.is_initializing():  # Flax's cell declares them
            carry = self.initialize_carry(make_key(0), (1, features))
            self(carry, jnp.zeros((1, features)))
        params = self.variables["params"]
        parts = []
        for gate in GATES:
            inputs, hidden = params[f"i{gate}"], params[f"h{gate}"]
            rows = [inputs["kernel"], hidden["bias"][None], hidden["kernel"]]
            parts.append(jnp.concatenate(rows))
        kernel = jnp.concatenate(parts, axis=-1)
        scaled = kernel.T * _scale(self.features, kernel.dtype)  # exact: powers of two
        return Kernels(kernel, jax.lax.stop_gradient(scaled))


def init_gate_biases(
    params: Mapping[str, Any],
    key: jax.Array,
    forget_bias: float,
    longest_memory: int | None,
) -> Mapping[str, Any]:
    """Replaces the biases of the forget and input gates of a new `LSTMCell`.

    The bias of the forget gate is `forget_bias`. With `longest_memory`, it is log(u)
    instead, and the bias of the input gate is -log(u), where u is uniform between 1 and
    `longest_memory` for each unit, which then remembers about u time steps.

    Flax's cell has the bias of the input gate in `hi`, and the bias of the forget gate
    in `hf`.

    References:
        Jozefowicz, Zaremba, Sutskever, "An Empirical Exploration of Recurrent
        Network Architectures", ICML 2015, on a forget bias of 1. Tallec and Ollivier,
        "Can recurrent neural networks warp time?", ICLR 2018, on `longest_memory`.
    """
    input_bias = params["hi"]["bias"]
    forget = jnp.full_like(params["hf"]["bias"], forget_bias)
    if longest_memory is not None:
        shape = forget.shape
        memories = jax.random.uniform(key, shape, minval=1, maxval=longest_memory)
        forget = jnp.log(memories)
        input_bias = -forget
    return {
        **params,
        "hi": {**params["hi"], "bias": input_bias},
        "hf": {**params["hf"], "bias": forget},
    }


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def lstm_time_step(
    precision: str | None, kernels: Kernels, carry: LSTMCarry, inputs: jax.Array
) -> LSTMCarry:
    """Returns the carry after a time step with inputs [features, batch]."""
    return _forward_time_step(precision, kernels, carry, inputs)[0]


def _scale(units: int, dtype: DTypeLike) -> jax.Array:
    """Returns the factors [4 x hidden, 1] that make a `tanh` of every activation.

    The sigmoid of x is (1 + tanh(x / 2)) / 2; the candidate is a tanh.
    """
    half = jnp.full((units, 1), 0.5, dtype)
    whole = jnp.full((units, 1), 1.0, dtype)
    return jnp.concatenate([half, half, whole, half])


def _forward_time_step(
    precision: str | None, kernels: Kernels, carry: LSTMCarry, inputs: jax.Array
) -> tuple[LSTMCarry, Residuals]:
    """Returns the carry after a time step, and what its backward pass needs."""
    scale = _scale(len(carry.h), carry.h.dtype)
    inputs = jnp.concatenate([inputs, jnp.ones_like(inputs[:1]), carry.h])
    product = jnp.matmul(kernels.scaled, inputs, precision=precision)
    gates = jnp.tanh(product) * scale + (1 - scale)
    i, f, g, o = jnp.split(gates, 4)
    c = f * carry.c + i * g
    return LSTMCarry(c, o * jnp.tanh(c)), Residuals(kernels, gates, c, inputs)


def _backward_time_step(
    precision: str | None, residuals: Residuals, grads: LSTMCarry
) -> tuple[Kernels, LSTMCarry, jax.Array]:
    """Returns the gradients of `lstm_time_step` by kernels, carry and inputs.

    `grads` are those by the carry after the time step.
    """
    kernels, gates, c, inputs = residuals
    tanh_c = jnp.tanh(c)
    i, f, g, o = jnp.split(gates, 4)
    dc = grads.c + grads.h * o * (1 - tanh_c * tanh_c)
    dgates = jnp.concatenate(  # of the pre-activations
        [
            dc * g * i * (1 - i),
            dc * (c - i * g) * (1 - f),  # f times the previous cell state
            dc * i * (1 - g * g),
            grads.h * tanh_c * o * (1 - o),
        ]
    )
    matmul = functools.partial(jnp.matmul, precision=precision)
    dkernel = matmul(inputs, dgates.T)
    dcarry = LSTMCarry(dc * f, matmul(kernels.kernel[-len(c) :], dgates))
    dinputs = matmul(kernels.kernel[: -len(c) - 1], dgates)  # removed where unused
    return Kernels(dkernel, None), dcarry, dinputs  # type: ignore[arg-type]


lstm_time_step.defvjp(_forward_time_step, _backward_time_step)
