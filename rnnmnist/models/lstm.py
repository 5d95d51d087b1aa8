"""A fast LSTM: Flax's cell with a custom gradient, under `nn.scan`."""

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
    """The carry of an `LSTM`: as in Flax, (c, h), but with the batch axis last."""

    c: jax.Array  # [hidden, batch], the cell state
    h: jax.Array  # [hidden, batch], the hidden state


class FusedParams(NamedTuple):
    """Kernels and biases of an LSTM, concatenated over gates.

    The gradient flows through `kernel`. The forward pass uses `scaled_kernel`, a copy
    for faster matrix products.
    """

    # [features + 1 + hidden, 4 x hidden]: input kernel, bias, hidden kernel
    kernel: jax.Array
    # [4 x hidden, features + 1 + hidden]: transposed and multiplied by `_tanh_scale`
    scaled_kernel: jax.Array


class Residuals(NamedTuple):
    """Values that the backward pass of one time step needs."""

    params: FusedParams
    gates: jax.Array  # [4 x hidden, batch], after activation, in the order of `GATES`
    c: jax.Array  # [hidden, batch], the cell state after the time step
    inputs: jax.Array  # [features + 1 + hidden, batch]: inputs, 1, hidden state


class LSTM(ScannedCell):
    """An `LSTMCell` under `nn.scan`, with a custom gradient.

    An `LSTM` computes the same function as Flax's cell, up to float32 rounding errors,
    in fewer and larger operations:

    - The forward pass concatenates the inputs, 1 and the hidden state. It computes one
      matrix product for all gates, and one `tanh` for the activations of all gates.
    - The backward pass computes one matrix product for the gradient of the hidden
      state, and one for the gradients of all kernels and biases.

    The parameters of the gates are concatenated once, before the loop over time steps.
    In the loop, arrays have shape [features, batch], so that matrix products are faster
    on CPUs and each gate is contiguous.
    """

    cell: "LSTMCell"

    def initialize_carry(self, batch_size: int, num_features: int) -> LSTMCarry:
        """Returns the initial carry for `batch_size` sequences."""
        c, h = super().initialize_carry(batch_size, num_features)
        return LSTMCarry(c.T, h.T)

    def advance(
        self, carry: LSTMCarry, inputs: jax.Array
    ) -> tuple[LSTMCarry, jax.Array]:
        """Runs the cell over inputs of shape [time, batch, features]."""
        params = self.cell.fuse_params(inputs.shape[-1])

        def body(
            _: nn.RNNCellBase, carry: LSTMCarry, inputs: jax.Array
        ) -> tuple[LSTMCarry, jax.Array]:
            carry = lstm_time_step(self.precision, params, carry, inputs)
            return carry, carry.h

        carry, hidden = self.scan(body, carry, inputs.mT)
        return carry, hidden.mT

    def compute_final_hidden(self, carry: LSTMCarry, inputs: jax.Array) -> jax.Array:
        """Returns the final hidden states, [batch, hidden]."""
        # Only the final carry is used, so XLA does not store the other hidden states.
        final_carry, _ = self.advance(carry, inputs)
        return final_carry.h.T


class LSTMCell(nn.OptimizedLSTMCell):
    """Flax's LSTM cell, with a method that fuses its parameters for `LSTM`.

    References:
        Hochreiter and Schmidhuber, "Long Short-Term Memory", Neural Computation
        9(8), 1997; Gers, Schmidhuber, Cummins, "Learning to Forget", Neural
        Computation 12(10), 2000, for the forget gate.
    """

    def fuse_params(self, num_features: int) -> FusedParams:
        """Concatenates the parameters, for inputs with `num_features` features."""
        if self.is_initializing():  # Flax's cell declares the parameters
            carry = self.initialize_carry(make_key(0), (1, num_features))
            self(carry, jnp.zeros((1, num_features)))
        params = self.variables["params"]
        parts = []
        for gate in GATES:
            inputs, hidden = params[f"i{gate}"], params[f"h{gate}"]
            rows = [inputs["kernel"], hidden["bias"][None], hidden["kernel"]]
            parts.append(jnp.concatenate(rows))
        kernel = jnp.concatenate(parts, axis=-1)
        # The product is exact, because the factors are 0.5 and 1.
        scaled_kernel = kernel.T * _tanh_scale(self.features, kernel.dtype)
        return FusedParams(kernel, jax.lax.stop_gradient(scaled_kernel))


def init_gate_biases(
    params: Mapping[str, Any],
    key: jax.Array,
    forget_bias: float,
    max_memory: int | None,
) -> Mapping[str, Any]:
    """Initializes the biases of the forget and input gates in an `LSTMCell`'s `params`.

    If `max_memory` is None, the bias of the forget gate is `forget_bias`, and the bias
    of the input gate is unchanged.

    Otherwise, the biases follow chrono initialization: each unit remembers about u time
    steps, where u is uniform between 1 and `max_memory`. The unit's forget gate has the
    bias log(u), and its input gate has the bias -log(u).

    Flax's cell stores the bias of the input gate in `hi`, and the bias of the forget
    gate in `hf`.

    References:
        Jozefowicz, Zaremba, Sutskever, "An Empirical Exploration of Recurrent
        Network Architectures", ICML 2015, on a forget bias of 1. Tallec and Ollivier,
        "Can recurrent neural networks warp time?", ICLR 2018, on chrono
        initialization.
    """
    input_biases = params["hi"]["bias"]
    forget_biases = jnp.full_like(params["hf"]["bias"], forget_bias)
    if max_memory is not None:
        shape = forget_biases.shape
        memory = jax.random.uniform(key, shape, minval=1, maxval=max_memory)
        forget_biases = jnp.log(memory)
        input_biases = -forget_biases
    return {
        **params,
        "hi": {**params["hi"], "bias": input_biases},
        "hf": {**params["hf"], "bias": forget_biases},
    }


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def lstm_time_step(
    precision: str | None, params: FusedParams, carry: LSTMCarry, inputs: jax.Array
) -> LSTMCarry:
    """Runs the cell on the inputs of one time step, [features, batch]."""
    return _forward_time_step(precision, params, carry, inputs)[0]


def _tanh_scale(hidden_size: int, dtype: DTypeLike) -> jax.Array:
    """Returns scale factors, [4 x hidden, 1], so that one tanh activates all gates.

    sigmoid(x) is (1 + tanh(x / 2)) / 2, and the activation of the candidate is tanh(x).
    """
    half = jnp.full((hidden_size, 1), 0.5, dtype)
    one = jnp.full((hidden_size, 1), 1.0, dtype)
    return jnp.concatenate([half, half, one, half])


def _forward_time_step(
    precision: str | None, params: FusedParams, carry: LSTMCarry, inputs: jax.Array
) -> tuple[LSTMCarry, Residuals]:
    scale = _tanh_scale(len(carry.h), carry.h.dtype)
    inputs = jnp.concatenate([inputs, jnp.ones_like(inputs[:1]), carry.h])
    product = jnp.matmul(params.scaled_kernel, inputs, precision=precision)
    gates = jnp.tanh(product) * scale + (1 - scale)
    i, f, g, o = jnp.split(gates, 4)
    c = f * carry.c + i * g
    return LSTMCarry(c, o * jnp.tanh(c)), Residuals(params, gates, c, inputs)


def _backward_time_step(
    precision: str | None, residuals: Residuals, grads: LSTMCarry
) -> tuple[FusedParams, LSTMCarry, jax.Array]:
    """Backpropagates the gradient of the new carry through one time step.

    Returns the gradients of the parameters, the previous carry and the inputs.
    """
    params, gates, c, inputs = residuals
    tanh_c = jnp.tanh(c)
    i, f, g, o = jnp.split(gates, 4)
    dc = grads.c + grads.h * o * (1 - tanh_c * tanh_c)
    dgates = jnp.concatenate(  # with respect to the pre-activations
        [
            dc * g * i * (1 - i),
            dc * (c - i * g) * (1 - f),  # f times the previous cell state
            dc * i * (1 - g * g),
            grads.h * tanh_c * o * (1 - o),
        ]
    )
    matmul = functools.partial(jnp.matmul, precision=precision)
    dkernel = matmul(inputs, dgates.T)
    dcarry = LSTMCarry(dc * f, matmul(params.kernel[-len(c) :], dgates))
    dinputs = matmul(params.kernel[: -len(c) - 1], dgates)  # removed by XLA if unused
    return FusedParams(dkernel, None), dcarry, dinputs  # type: ignore[arg-type]


lstm_time_step.defvjp(_forward_time_step, _backward_time_step)
