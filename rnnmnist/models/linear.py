"""Recurrences that are linear in their state, in residual layers.

The state is a weighted sum of inputs, so a layer needs no product inside of a loop over
time: operations are over blocks of time.
"""

import math

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import lax

from rnnmnist.config.platforms import LINEAR_TIME_STEPS
from rnnmnist.models.dropout import NO_DROPOUT, Dropout
from rnnmnist.models.recurrent_layer import select_last

States = tuple[jax.Array, ...]  # of each layer, complex64 [batch, hidden]
Pair = tuple[jax.Array, jax.Array]


class ResidualLayers(nn.Module):
    """A stack of residual layers around linear recurrent units.

    It is a `RecurrentLayer`.

    References:
        Smith, Warrington, Linderman, "Simplified State Space Layers for Sequence
        Modeling", ICLR 2023; Orvieto et al., "Resurrecting Recurrent Neural Networks
        for Long Sequences", ICML 2023, for the layers.
    """

    hidden_size: int  # the number of features of every layer
    num_layers: int
    parallel: bool  # as for `linear_scan`
    # All layers compute a block of this many time steps before the next one, so that
    # arrays stay in cache. The backward pass keeps the states between blocks, and
    # computes the rest of a block again. None: the sequence is one block.
    remat_time_steps: int | None
    precision: str | None  # as for `jax.default_matmul_precision`

    def setup(self) -> None:
        """Creates the encoder and the layers."""
        # At 0, a LayerNorm has the slope 1 / sqrt(epsilon) = 1000. Black pixels are
        # inputs of 0; a random bias keeps the hidden state that they give away from 0.
        self.encoder = TransposedDense(
            self.hidden_size, bias_init=nn.initializers.normal(1.0)
        )
        self.layers = [
            ResidualLayer(self.hidden_size, self.parallel, name=f"layer_{index}")
            for index in range(self.num_layers)
        ]

    def __call__(
        self,
        inputs: jax.Array,
        lengths: jax.Array | None,
        *,
        every_step: bool,
        dropout: Dropout = NO_DROPOUT,
    ) -> jax.Array:
        """Runs the layers over whole sequences."""
        time, batch, features = inputs.shape
        carry = self.initialize_carry(batch, features)
        masks = []
        if dropout.keys is not None:
            # Drawn for all time steps, so that the backward pass, which computes blocks
            # again, does not draw them again.
            masks = [
                dropout.draw_mask(f"{self.name}_{index}", (time, self.hidden_size))
                for index in range(self.num_layers - 1)
            ]
        size = min(self.remat_time_steps or time, time)
        if size == time:
            _, hidden = self.advance(carry, inputs, masks)
        else:

            def divide(array: jax.Array) -> jax.Array:
                padded = jnp.pad(array, ((0, -time % size), (0, 0), (0, 0)))
                return padded.reshape(-1, size, batch, array.shape[-1])

            blocks, mask_blocks = jax.tree.map(divide, (inputs, masks))
            # With `remat`, the backward pass computes a block again.
            scan_blocks = nn.scan(
                nn.remat(ResidualLayers.advance, prevent_cse=False),
                variable_broadcast="params",
                split_rngs={"params": False},
            )
            _, hidden = scan_blocks(self, carry, blocks, mask_blocks)
            hidden = hidden.reshape(-1, batch, self.hidden_size)[:time]
        return hidden if every_step else select_last(hidden, lengths)

    def initialize_carry(self, batch: int, features: int) -> States:
        """Returns the states before the first time step of `batch` sequences."""
        zeros = jnp.zeros((batch, self.hidden_size), jnp.complex64)
        return (zeros,) * self.num_layers

    def read_time_step(
        self, carry: States, inputs: jax.Array
    ) -> tuple[States, jax.Array]:
        """Runs the layers on one time step."""
        carry, hidden = self.advance(carry, inputs[None], [])
        return carry, hidden[0]

    def advance(
        self, carry: States, inputs: jax.Array, masks: list[jax.Array]
    ) -> tuple[States, jax.Array]:
        """Runs the layers over a block of time steps.

        Each layer but the last one has a mask of dropout for its outputs, [time, batch,
        hidden]. The list is empty in an evaluation.
        """
        states = []
        with jax.default_matmul_precision(self.precision):
            hidden = self.encoder(inputs)
            for index, layer in enumerate(self.layers):
                if masks and index > 0:
                    hidden *= masks[index - 1]  # of the layer before this one
                state, hidden = layer(carry[index], hidden)
                states.append(state)
        return tuple(states), hidden


class ResidualLayer(nn.Module):
    """Normalization, a recurrence, GELU and a gated linear unit, added to the input."""

    features: int
    parallel: bool  # as for `linear_scan`

    def setup(self) -> None:
        """Creates the three layers, whose names are part of the checkpoint format."""
        self.norm = nn.LayerNorm()
        self.recurrence = LRU(self.features, self.parallel)
        self.glu = TransposedDense(2 * self.features)

    def __call__(
        self, state: jax.Array, inputs: jax.Array
    ) -> tuple[jax.Array, jax.Array]:
        """Returns the state of the recurrence after a block, and the outputs.

        Inputs and outputs are [time, batch, features].
        """
        state, hidden = self.recurrence(state, self.norm(inputs))
        return state, inputs + nn.glu(self.glu(nn.gelu(hidden)))


class LRU(nn.Module):
    """The linear recurrent unit: a diagonal, complex and stable recurrence.

    References:
        Orvieto et al., "Resurrecting Recurrent Neural Networks for Long Sequences",
        ICML 2023. The eigenvalues are initialized as there for long sequences: on a
        ring of the radii 0.9 to 0.999, with phases below pi / 10.
    """

    features: int  # of inputs, complex states, and outputs
    parallel: bool  # as for `linear_scan`

    @nn.compact
    def __call__(
        self, state: jax.Array, inputs: jax.Array
    ) -> tuple[jax.Array, jax.Array]:
        """Computes a block of time steps from the state before it.

        Inputs are [time, batch, features]. Returns the state after the last time step,
        and the outputs after all, like inputs.
        """
        size = (self.features,)
        nu = jnp.exp(self.param("nu_log", _init_nu_log, size))
        theta = jnp.exp(self.param("theta_log", _init_theta_log, size))
        # Without gamma, the states would grow with the memory.
        gamma_log = self.param("gamma_log", lambda _: jnp.log1p(-jnp.exp(-2 * nu)) / 2)
        decay = jnp.exp(lax.complex(-nu, theta))
        gains = jnp.tile(jnp.exp(gamma_log), 2)
        project_in = TransposedDense(
            2 * self.features, use_bias=False, scale=0.5, name="input"
        )
        driven = jnp.split(project_in(inputs, gains), 2, axis=-1)
        states = linear_scan(decay, lax.complex(*driven), state, self.parallel)
        parts = jnp.concatenate([states.real, states.imag], axis=-1)
        project_out = TransposedDense(
            self.features, use_bias=False, scale=2.0, name="output"
        )
        outputs = project_out(parts)
        skip = self.param("skip", nn.initializers.normal(1.0), size)
        return states[-1], outputs + skip[None, None] * inputs


def _init_nu_log(key: jax.Array, size: tuple[int]) -> jax.Array:
    """Draws radii r with a uniform density on the ring, as log(-log(r))."""
    squares = jax.random.uniform(key, size, minval=0.9**2, maxval=0.999**2)
    return jnp.log(-jnp.log(squares) / 2)


def _init_theta_log(key: jax.Array, size: tuple[int]) -> jax.Array:
    """Draws the logarithms of phases that are uniform between 0 and pi / 10."""
    return jnp.log(math.pi / 10 * jax.random.uniform(key, size, minval=1e-6))


class TransposedDense(nn.Module):
    """A dense layer whose kernel is [outputs, inputs]."""

    features: int
    use_bias: bool = True
    bias_init: nn.initializers.Initializer = nn.initializers.zeros
    scale: float = 1.0  # of the kernel's variance

    @nn.compact
    def __call__(self, inputs: jax.Array, gains: jax.Array | None = None) -> jax.Array:
        """Returns [time, batch, outputs]; gains, [outputs], multiply the kernel."""
        init = nn.initializers.variance_scaling(
            self.scale, "fan_in", "truncated_normal", in_axis=1, out_axis=0
        )
        kernel = self.param("kernel", init, (self.features, inputs.shape[-1]))
        if gains is not None:
            kernel = gains[:, None] * kernel
        outputs = jnp.inner(inputs, kernel)  # faster on a CPU than `inputs @ kernel.T`
        if self.use_bias:
            bias = self.param("bias", self.bias_init, (self.features,))
            outputs += bias[None, None]
        return outputs


def linear_scan(
    decay: jax.Array, inputs: jax.Array, initial: jax.Array, parallel: bool
) -> jax.Array:
    """Returns the states h[t] = decay h[t - 1] + inputs[t].

    All arrays are complex64: the inputs are [time, batch, features], the decay is
    [features], and the initial state is [batch, features]. With `parallel`, passes
    whose number is logarithmic in the length replace a loop over time.
    """
    if parallel:
        decay = jnp.broadcast_to(decay, (len(inputs), 1, *decay.shape))
        inputs = inputs.at[0].add(decay[0] * initial)

        # A pair (decay, inputs) stands for the map h -> decay h + inputs.
        def compose(first: Pair, second: Pair) -> Pair:
            first_decay, first_inputs = first
            decay, inputs = second
            return first_decay * decay, decay * first_inputs + inputs

        _, states = lax.associative_scan(compose, (decay, inputs))
        return states
    # A product repeats the decay for each sequence of the batch. This is faster than
    # broadcasting, since its gradient is a product, too.
    ones = jnp.ones_like(initial.real[:, :1])
    with jax.default_matmul_precision("float32"):  # exact on every platform
        decay = lax.complex(ones @ decay.real[None], ones @ decay.imag[None])

    def step(state: jax.Array, inputs: jax.Array) -> tuple[jax.Array, jax.Array]:
        state = decay * state + inputs
        return state, state

    return lax.scan(step, initial, inputs, unroll=LINEAR_TIME_STEPS)[1]
