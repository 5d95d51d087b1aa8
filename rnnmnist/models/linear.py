"""Linear recurrent units (LRU) in residual layers.

The recurrence of an LRU is diagonal. The loop over time therefore contains only
element-wise operations; matrix products are computed for whole blocks of time steps.
"""

import math

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import lax

from rnnmnist.config.platforms import CPU_BLOCK_TIME_STEPS
from rnnmnist.models.recurrent_layer import NO_DROPOUT, Dropout, select_last

States = tuple[jax.Array, ...]  # one per layer, complex64 [batch, hidden]
Pair = tuple[jax.Array, jax.Array]


class ResidualLayers(nn.Module):
    """A stack of residual layers around linear recurrent units (a `RecurrentLayer`).

    References:
        For the layers: Smith, Warrington, Linderman, "Simplified State Space Layers for
        Sequence Modeling", ICLR 2023; Orvieto et al., "Resurrecting Recurrent Neural
        Networks for Long Sequences", ICML 2023.
    """

    hidden_size: int  # output features of every layer
    num_layers: int
    parallel: bool  # see `linear_scan`
    # Time steps per block; None means a single block. All layers process one block
    # before the next block, so that arrays stay in cache. The forward pass stores the
    # states between blocks; the backward pass recomputes all other activations.
    remat_time_steps: int | None
    precision: str | None  # see `jax.default_matmul_precision`

    def setup(self) -> None:
        """Creates the encoder and the layers."""
        # LayerNorm has a slope of 1 / sqrt(epsilon) = 1000 at 0. The random bias keeps
        # the hidden state away from 0 if all inputs are 0, as for black pixels.
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
        time_steps, batch_size, num_features = inputs.shape
        carry = self.initialize_carry(batch_size, num_features)
        masks = []
        if dropout.keys is not None:
            # The masks for all time steps are drawn outside the blocks, so that the
            # backward pass does not draw them again.
            masks = [
                dropout.draw_mask(
                    f"{self.name}_{index}", (time_steps, self.hidden_size)
                )
                for index in range(self.num_layers - 1)
            ]
        block_size = min(self.remat_time_steps or time_steps, time_steps)
        if block_size == time_steps:
            _, hidden = self.advance(carry, inputs, masks)
        else:

            def to_blocks(array: jax.Array) -> jax.Array:
                padded = jnp.pad(array, ((0, -time_steps % block_size), (0, 0), (0, 0)))
                return padded.reshape(-1, block_size, batch_size, array.shape[-1])

            blocks, mask_blocks = jax.tree.map(to_blocks, (inputs, masks))
            # `remat` recomputes each block in the backward pass.
            scan_blocks = nn.scan(
                nn.remat(ResidualLayers.advance, prevent_cse=False),
                variable_broadcast="params",
                split_rngs={"params": False},
            )
            _, hidden = scan_blocks(self, carry, blocks, mask_blocks)
            hidden = hidden.reshape(-1, batch_size, self.hidden_size)[:time_steps]
        return hidden if every_step else select_last(hidden, lengths)

    def initialize_carry(self, batch_size: int, num_features: int) -> States:
        """Returns the initial carry for `batch_size` sequences: all states are 0."""
        zeros = jnp.zeros((batch_size, self.hidden_size), jnp.complex64)
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

        `masks` contains a dropout mask, [time, batch, hidden], for the outputs of each
        layer except the last layer. Without dropout, `masks` is empty.
        """
        states = []
        with jax.default_matmul_precision(self.precision):
            hidden = self.encoder(inputs)
            for index, layer in enumerate(self.layers):
                if masks and index > 0:
                    hidden *= masks[index - 1]  # mask of the previous layer
                state, hidden = layer(carry[index], hidden)
                states.append(state)
        return tuple(states), hidden


class ResidualLayer(nn.Module):
    """A residual layer: LayerNorm, LRU, GELU, gated linear unit, skip connection."""

    features: int
    parallel: bool  # see `linear_scan`

    def setup(self) -> None:
        """Creates the sublayers, whose names are part of the checkpoint format."""
        self.norm = nn.LayerNorm()
        self.recurrence = LRU(self.features, self.parallel)
        self.glu = TransposedDense(2 * self.features)

    def __call__(
        self, state: jax.Array, inputs: jax.Array
    ) -> tuple[jax.Array, jax.Array]:
        """Runs the layer over a block of time steps.

        Inputs and outputs have shape [time, batch, features]. Returns the state after
        the block and the outputs.
        """
        state, hidden = self.recurrence(state, self.norm(inputs))
        return state, inputs + nn.glu(self.glu(nn.gelu(hidden)))


class LRU(nn.Module):
    """The linear recurrent unit: a stable recurrence with a complex diagonal matrix.

    References:
        Orvieto et al., "Resurrecting Recurrent Neural Networks for Long Sequences",
        ICML 2023. As in the paper's experiments on long sequences, the initial
        eigenvalues have radii between 0.9 and 0.999 and phases below pi / 10.
    """

    features: int  # size of inputs, complex states and outputs
    parallel: bool  # see `linear_scan`

    @nn.compact
    def __call__(
        self, state: jax.Array, inputs: jax.Array
    ) -> tuple[jax.Array, jax.Array]:
        """Runs the unit over a block of time steps.

        `state` is the state before the block. Inputs and outputs have shape [time,
        batch, features]. Returns the state after the block and the outputs.
        """
        shape = (self.features,)
        nu = jnp.exp(self.param("nu_log", _init_nu_log, shape))
        theta = jnp.exp(self.param("theta_log", _init_theta_log, shape))
        # gamma normalizes the states, which would grow as |decay| approaches 1.
        gamma_log = self.param("gamma_log", lambda _: jnp.log1p(-jnp.exp(-2 * nu)) / 2)
        decay = jnp.exp(lax.complex(-nu, theta))
        gains = jnp.tile(jnp.exp(gamma_log), 2)
        project_in = TransposedDense(
            2 * self.features, use_bias=False, scale=0.5, name="input"
        )
        projected = jnp.split(project_in(inputs, gains), 2, axis=-1)
        states = linear_scan(decay, lax.complex(*projected), state, self.parallel)
        real_and_imag = jnp.concatenate([states.real, states.imag], axis=-1)
        project_out = TransposedDense(
            self.features, use_bias=False, scale=2.0, name="output"
        )
        outputs = project_out(real_and_imag)
        skip = self.param("skip", nn.initializers.normal(1.0), shape)
        return states[-1], outputs + skip[None, None] * inputs


def _init_nu_log(key: jax.Array, shape: tuple[int]) -> jax.Array:
    # If points are uniform over the area of a ring, their squared radii are uniform.
    squared_radii = jax.random.uniform(key, shape, minval=0.9**2, maxval=0.999**2)
    return jnp.log(-jnp.log(squared_radii) / 2)


def _init_theta_log(key: jax.Array, shape: tuple[int]) -> jax.Array:
    return jnp.log(math.pi / 10 * jax.random.uniform(key, shape, minval=1e-6))


class TransposedDense(nn.Module):
    """A dense layer with a kernel of shape [outputs, inputs]."""

    features: int
    use_bias: bool = True
    bias_init: nn.initializers.Initializer = nn.initializers.zeros
    scale: float = 1.0  # of `nn.initializers.variance_scaling`

    @nn.compact
    def __call__(self, inputs: jax.Array, gains: jax.Array | None = None) -> jax.Array:
        """Applies the layer, with kernel rows multiplied by `gains`, [outputs]."""
        init = nn.initializers.variance_scaling(
            self.scale, "fan_in", "truncated_normal", in_axis=1, out_axis=0
        )
        kernel = self.param("kernel", init, (self.features, inputs.shape[-1]))
        if gains is not None:
            kernel = gains[:, None] * kernel
        outputs = jnp.inner(inputs, kernel)  # on CPUs, faster than `inputs @ kernel.T`
        if self.use_bias:
            bias = self.param("bias", self.bias_init, (self.features,))
            outputs += bias[None, None]
        return outputs


def linear_scan(
    decay: jax.Array, inputs: jax.Array, initial_state: jax.Array, parallel: bool
) -> jax.Array:
    """Computes the states h[t] = decay h[t - 1] + inputs[t].

    Args:
        decay: complex64 [features].
        inputs: complex64 [time, batch, features].
        initial_state: complex64 [batch, features].
        parallel: whether to replace the loop over time with an associative scan, whose
            depth is logarithmic in the number of time steps.

    Returns:
        The states, complex64 [time, batch, features].
    """
    if parallel:
        decay = jnp.broadcast_to(decay, (len(inputs), 1, *decay.shape))
        inputs = inputs.at[0].add(decay[0] * initial_state)

        # A pair (decay, inputs) represents the map h -> decay h + inputs.
        def compose(first: Pair, second: Pair) -> Pair:
            first_decay, first_inputs = first
            decay, inputs = second
            return first_decay * decay, decay * first_inputs + inputs

        _, states = lax.associative_scan(compose, (decay, inputs))
        return states
    # A matrix product repeats the decay over the batch. This is faster than
    # broadcasting, because the gradient of the product is also a matrix product.
    ones = jnp.ones_like(initial_state.real[:, :1])
    with jax.default_matmul_precision("float32"):  # exact on all platforms
        decay = lax.complex(ones @ decay.real[None], ones @ decay.imag[None])

    def body(state: jax.Array, inputs: jax.Array) -> tuple[jax.Array, jax.Array]:
        state = decay * state + inputs
        return state, state

    return lax.scan(body, initial_state, inputs, unroll=CPU_BLOCK_TIME_STEPS)[1]
