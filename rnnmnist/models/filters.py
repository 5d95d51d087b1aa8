"""Random recurrent filters: a recurrent layer with random, untrained parameters.

A filter computes a signed sum u[t] of a few features, and passes it through a cascade
of three complex recurrences with the same pole a = exp(-1 / tau + i omega):

    h1[t] = a h1[t - 1] + u[t]
    h2[t] = a h2[t - 1] + h1[t]
    h3[t] = a h3[t - 1] + h2[t]

The output is o[t] = Re(exp(i phi) h3[t]). The impulse response of the filter is
(t + 1) (t + 2) / 2 exp(-t / tau) cos(omega t + phi): a smooth kernel of random length
and frequency, computed with a state of constant size. For the time steps read so far,
the hidden state contains, for each filter:

- the PPV (proportion of positive values) of the output minus each threshold;
- the maximum of 0 and all outputs.

The thresholds are drawn from the outputs of the filter on training examples.

References:
    Dempster, Petitjean, Webb, "ROCKET: Exceptionally fast and accurate time series
    classification using random convolutional kernels", Data Mining and Knowledge
    Discovery 34, 2020, for a ridge classifier on the PPV and maximum of random kernels,
    and Dempster, Schmidt, Webb, "MiniRocket", KDD 2021. Both use convolutions, which
    read a window of the sequence at each time step.
    de Vries and Principe, "The gamma model: a new neural model for temporal
    processing", Neural Networks 5, 1992, for cascades of identical recurrences. The
    gamma model has real, trained poles.
    Jaeger, "The 'echo state' approach to analysing and training recurrent neural
    networks", GMD Report 148, 2001, and Bianchi, Scardapane, Lokse, Jenssen, "Reservoir
    computing approaches for representation and classification of multivariate time
    series", IEEE Transactions on Neural Networks and Learning Systems 32, 2021, for
    untrained recurrent layers. Their units are nonlinear and connected to each other.
"""

from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from rnnmnist.models.recurrent_layer import NO_DROPOUT, Dropout

ORDER = 3  # number of recurrences in a cascade
THRESHOLDS = 4  # number of thresholds per filter
# Time constants are log-uniform between `MIN_TAU` time steps and a fraction,
# 1 / `MAX_TAU_DIVISOR`, of the length of the longest sequence.
MIN_TAU = 0.7
MAX_TAU_DIVISOR = 6
# The spectral peak of a filter has a half-width of sqrt(ORDER) / tau. Frequencies are
# uniform between 0 and `FREQUENCY_RANGE` half-widths, but at most pi.
FREQUENCY_RANGE = 2.5
MAX_FEATURES = 9  # maximum number of features per filter, up to rounding

# Real and imaginary parts. XLA vectorizes operations on two real arrays, but not on
# complex arrays.
Complex = tuple[jax.Array, jax.Array]


class FilterCarry(NamedTuple):
    """The carry of a `FilterBank`."""

    states: tuple[Complex, ...]  # one per recurrence of the cascade, [batch, filters]
    # float32 [batch, thresholds, filters], number of outputs above each threshold
    counts: jax.Array
    max_outputs: jax.Array  # [batch, filters], maximum so far, initially 0
    num_read: jax.Array  # int32 [], number of time steps read so far


class FilterBank(nn.Module):
    """A bank of random recurrent filters (a `RecurrentLayer`).

    `training/closed_form.py` draws the parameters and chooses the thresholds. For each
    filter, the hidden state contains `THRESHOLDS` PPVs and the maximum output.
    """

    num_filters: int
    num_features: int  # of the inputs
    time_steps: int  # length of the longest sequence; limits the time constants

    def setup(self) -> None:
        """Draws the filters. The thresholds are 0 until training chooses them.

        The last axis of every parameter indexes filters, so that operations access
        contiguous memory.
        """
        size = self.num_filters
        self.pole = self.param("pole", draw_poles, size, self.time_steps)
        self.phase = self.param("phase", draw_phases, size)
        self.weights = self.param("weights", draw_weights, self.num_features, size)
        zeros = nn.initializers.zeros
        self.thresholds = self.param("thresholds", zeros, (THRESHOLDS, size))

    def __call__(
        self,
        inputs: jax.Array,
        lengths: jax.Array | None,
        *,
        every_step: bool,
        dropout: Dropout = NO_DROPOUT,
    ) -> jax.Array:
        """Runs the filters over whole sequences.

        The loop ends after the longest sequence of the batch.
        """
        # The first two sizes can be symbolic.
        time_steps, batch_size, num_features = inputs.shape
        carry = self.initialize_carry(batch_size, num_features)
        if every_step:
            _, hidden = jax.lax.scan(self.read_time_step, carry, inputs)
            return hidden
        if lengths is None:
            lengths = jnp.full(batch_size, time_steps)
        ends = lengths[:, None]

        def body(index: jax.Array, carry: FilterCarry) -> FilterCarry:
            carry, _ = self.advance(carry, inputs[index], is_valid=index < ends)
            return carry

        carry = jax.lax.fori_loop(0, lengths.max(), body, carry)
        return hidden_state(carry, ends)

    def initialize_carry(self, batch_size: int, num_features: int) -> FilterCarry:
        """Returns the initial carry for `batch_size` sequences."""
        zeros = jnp.zeros((batch_size, self.num_filters))
        return FilterCarry(
            states=((zeros, zeros),) * ORDER,
            counts=jnp.zeros((batch_size, THRESHOLDS, self.num_filters)),
            max_outputs=zeros,
            num_read=jnp.zeros((), jnp.int32),
        )

    def read_time_step(
        self, carry: FilterCarry, inputs: jax.Array
    ) -> tuple[FilterCarry, jax.Array]:
        """Reads one time step, and returns the new carry and the hidden state."""
        carry, _ = self.advance(carry, inputs)
        return carry, hidden_state(carry, carry.num_read)

    def outputs(self, inputs: jax.Array) -> jax.Array:
        """Returns the outputs of all filters, [time, batch, filters]."""
        _, batch_size, num_features = inputs.shape
        _, outputs = jax.lax.scan(
            self.advance, self.initialize_carry(batch_size, num_features), inputs
        )
        return outputs

    def advance(
        self,
        carry: FilterCarry,
        inputs: jax.Array,
        is_valid: jax.Array | bool = True,
    ) -> tuple[FilterCarry, jax.Array]:
        """Reads one time step, and returns the new carry and the filters' outputs.

        Args:
            carry: the carry before the time step.
            inputs: [batch, features].
            is_valid: bool [batch, 1], False in the padding. Outputs in the padding are
                -inf, so that they change neither the counts nor the maxima.

        Returns:
            The carry after the time step, and the outputs, [batch, filters].
        """
        pole_real, pole_imaginary = self.pole[:, None]
        # The coarse default precision of accelerators would move many outputs across
        # their thresholds.
        real = jnp.matmul(inputs, self.weights, precision="float32")
        imaginary = jnp.zeros_like(real)
        states = []
        for old_real, old_imaginary in carry.states:
            real += pole_real * old_real - pole_imaginary * old_imaginary
            imaginary += pole_real * old_imaginary + pole_imaginary * old_real
            states.append((real, imaginary))
        phase_real, phase_imaginary = self.phase[:, None]
        outputs = phase_real * real - phase_imaginary * imaginary
        outputs = jnp.where(is_valid, outputs, -jnp.inf)
        is_above = outputs[:, None] > self.thresholds[None]
        carry = FilterCarry(
            states=tuple(states),
            counts=carry.counts + is_above.astype(jnp.float32),
            max_outputs=jnp.maximum(carry.max_outputs, outputs),
            num_read=carry.num_read + 1,
        )
        return carry, outputs


def hidden_state(carry: FilterCarry, num_read: jax.Array) -> jax.Array:
    """Returns the PPVs and maximum outputs, [batch, hidden].

    `num_read`, int32 [] or [batch, 1], is the number of time steps read.
    """
    ppv = carry.counts.reshape(carry.counts.shape[0], -1) / num_read.astype(jnp.float32)
    return jnp.concatenate([ppv, carry.max_outputs], axis=1)


def draw_poles(key: jax.Array, num_filters: int, time_steps: int) -> jax.Array:
    """Draws poles as real and imaginary parts, float32 [2, filters]."""
    tau_key, frequency_key = jax.random.split(key)
    max_tau = max(2 * MIN_TAU, time_steps / MAX_TAU_DIVISOR)
    low, high = np.log([MIN_TAU, max_tau]).tolist()
    tau = jnp.exp(jax.random.uniform(tau_key, (num_filters,), minval=low, maxval=high))
    max_frequency = FREQUENCY_RANGE * ORDER**0.5 / tau
    frequency = max_frequency * jax.random.uniform(frequency_key, (num_filters,))
    frequency = jnp.minimum(frequency, jnp.pi)
    radius = jnp.exp(-1 / tau)
    return jnp.stack([radius * jnp.cos(frequency), radius * jnp.sin(frequency)])


def draw_phases(key: jax.Array, num_filters: int) -> jax.Array:
    """Draws exp(i phi) as real and imaginary parts, float32 [2, filters]."""
    angle = jax.random.uniform(key, (num_filters,), maxval=2 * jnp.pi)
    return jnp.stack([jnp.cos(angle), jnp.sin(angle)])


def draw_weights(key: jax.Array, num_features: int, num_filters: int) -> jax.Array:
    """Draws the weight of each feature in each filter's sum, [features, filters].

    The weight is 1 or -1 if the filter reads the feature, and 0 otherwise. The number
    of features per filter is approximately log-uniform.
    """
    count_key, choice_key, sign_key = jax.random.split(key, 3)
    max_log2 = np.log2(min(num_features, MAX_FEATURES) + 1).item()
    log2_counts = jax.random.uniform(count_key, (num_filters,), maxval=max_log2)
    counts = jnp.floor(jnp.exp2(log2_counts))
    counts = jnp.clip(counts, 1, num_features).astype(jnp.int32)
    noise = jax.random.uniform(choice_key, (num_features, num_filters))
    rank = noise.argsort(axis=0).argsort(axis=0)
    is_positive = jax.random.bernoulli(sign_key, shape=(num_features, num_filters))
    sign = jnp.where(is_positive, 1.0, -1.0)
    return jnp.where(rank < counts[None], sign, 0.0)


def choose_thresholds(outputs: np.ndarray, positions: np.ndarray) -> np.ndarray:
    """Chooses thresholds between the filters' outputs on training sequences.

    A threshold is the midpoint of two adjacent distinct outputs of its filter.

    Args:
        outputs: float32 [values, filters].
        positions: float [thresholds, filters], in [0, 1): for each threshold, the
            relative rank of the next lower output. If this output is the maximum, the
            threshold is the midpoint below the maximum.

    Returns:
        Thresholds, float32 [thresholds, filters]. A filter whose outputs are all equal
        has infinite thresholds, which no output exceeds.
    """
    thresholds = np.full(positions.shape, np.inf, np.float32)
    indices = (positions * (len(outputs) - 1)).astype(int)
    for column, values in enumerate(np.sort(outputs.T, axis=1)):
        unique = np.unique(values)
        if len(unique) > 1:
            upper = np.searchsorted(unique, values[indices[:, column]], side="right")
            upper = upper.clip(max=len(unique) - 1)
            lower = unique[upper - 1]
            thresholds[:, column] = lower + (unique[upper] - lower) / 2
    return thresholds
