"""Random recurrent filters: a recurrent layer with random, untrained parameters.

A filter computes a signed sum u[t] of a few features, and passes it through a cascade
of three complex recurrences with the same pole a = exp(-1 / tau + i omega):

    h1[t] = a h1[t - 1] + u[t]
    h2[t] = a h2[t - 1] + h1[t]
    h3[t] = a h3[t - 1] + h2[t]

The output is o[t] = Re(exp(i phi) h3[t]). The impulse response of the filter is
(t + 1) (t + 2) / 2 exp(-t / tau) cos(omega t + phi): a smooth kernel of random length
and frequency, computed with a state of constant size. Each filter contributes to the
hidden state, over the time steps read so far:

- for each threshold, the PPV (proportion of positive values) of the output minus the
  threshold;
- the largest output, at least 0.

The thresholds are drawn from the outputs of the filter on training examples.

References:
    Dempster, Petitjean, Webb, "ROCKET: Exceptionally fast and accurate time series
    classification using random convolutional kernels", Data Mining and Knowledge
    Discovery 34, 2020, for a ridge classifier on the PPV and maximum of random kernels,
    and Dempster, Schmidt, Webb, "MiniRocket", KDD 2021. Both use convolutions, which
    read a window of the sequence at each time step.
    de Vries and Principe, "The gamma model: a new neural model for temporal
    processing", Neural Networks 5, 1992, for cascades of equal recurrences. The gamma
    model has real, trained poles.
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

from rnnmnist.models.dropout import NO_DROPOUT, Dropout

ORDER = 3  # recurrences in a cascade
THRESHOLDS = 4  # per filter
# Time constants are log-uniform between `MIN_TAU` time steps and the length of the
# longest sequence divided by `MAX_TAU_DIVISOR`.
MIN_TAU = 0.7
MAX_TAU_DIVISOR = 6
# Frequencies are uniform between 0 and `FREQUENCY_RANGE` half-widths of the filter's
# peak, sqrt(ORDER) / tau, but at most pi.
FREQUENCY_RANGE = 2.5
MAX_FEATURES = 9  # features per filter at most, up to rounding

# Real and imaginary parts. XLA vectorizes operations on two real arrays, but not on
# complex arrays.
Complex = tuple[jax.Array, jax.Array]


class FilterCarry(NamedTuple):
    """The carry of a `FilterBank`."""

    states: tuple[Complex, ...]  # one per recurrence of the cascade, [batch, filters]
    counts: jax.Array  # float32 [batch, thresholds, filters], outputs above thresholds
    largest: jax.Array  # [batch, filters], the largest output so far, initially 0
    time: jax.Array  # int32, time steps read so far


class FilterBank(nn.Module):
    """A bank of random recurrent filters (a `RecurrentLayer`).

    `training.closed_form` draws the parameters and chooses the thresholds. The hidden
    state contains `THRESHOLDS` PPVs and the largest output of each filter.
    """

    filters: int  # the number of filters
    features: int  # the number of input features
    time_steps: int  # of the longest sequence, which limits the time constants

    def setup(self) -> None:
        """Draws the filters, with thresholds of 0 until training chooses them.

        The last axis of every parameter is the filter, for contiguous operations.
        """
        filters = self.filters
        self.pole = self.param("pole", draw_poles, filters, self.time_steps)
        self.phase = self.param("phase", draw_phases, filters)
        self.weights = self.param("weights", draw_weights, self.features, filters)
        zeros = nn.initializers.zeros
        self.thresholds = self.param("thresholds", zeros, (THRESHOLDS, filters))

    def __call__(
        self,
        inputs: jax.Array,
        lengths: jax.Array | None,
        *,
        every_step: bool,
        dropout: Dropout = NO_DROPOUT,
    ) -> jax.Array:
        """Filters whole sequences, up to the end of the longest sequence."""
        time, batch, features = inputs.shape  # time and batch can be symbolic
        carry = self.initialize_carry(batch, features)
        if every_step:
            _, hidden = jax.lax.scan(self.read_time_step, carry, inputs)
            return hidden
        if lengths is None:
            lengths = jnp.full(batch, time)
        ends = lengths[:, None]

        def read(index: jax.Array, carry: FilterCarry) -> FilterCarry:
            carry, _ = self.advance(carry, inputs[index], is_read=index < ends)
            return carry

        last = jax.lax.fori_loop(0, lengths.max(), read, carry)
        return hidden_state(last, ends)

    def initialize_carry(self, batch: int, features: int) -> FilterCarry:
        """Returns the carry before the first time step of `batch` sequences."""
        zeros = jnp.zeros((batch, self.filters))
        return FilterCarry(
            states=((zeros, zeros),) * ORDER,
            counts=jnp.zeros((batch, THRESHOLDS, self.filters)),
            largest=zeros,
            time=jnp.zeros((), jnp.int32),
        )

    def read_time_step(
        self, carry: FilterCarry, inputs: jax.Array
    ) -> tuple[FilterCarry, jax.Array]:
        """Reads one time step, and returns the new carry and the hidden state."""
        carry, _ = self.advance(carry, inputs)
        return carry, hidden_state(carry, carry.time)

    def outputs(self, inputs: jax.Array) -> jax.Array:
        """Returns the outputs of all filters, [time, batch, filters]."""
        _, batch, features = inputs.shape
        _, outputs = jax.lax.scan(
            self.advance, self.initialize_carry(batch, features), inputs
        )
        return outputs

    def advance(
        self,
        carry: FilterCarry,
        inputs: jax.Array,
        is_read: jax.Array | bool = True,
    ) -> tuple[FilterCarry, jax.Array]:
        """Reads one time step, and returns the new carry and the filters' outputs.

        Args:
            carry: the carry before the time step.
            inputs: [batch, features].
            is_read: bool [batch, 1], False in the padding. Outputs there are -inf, and
                change neither the counts nor the largest outputs.

        Returns:
            The carry after the time step, and the outputs, [batch, filters].
        """
        pole_real, pole_imaginary = self.pole[:, None]
        # The coarse default precision of accelerators would move many outputs across
        # their thresholds.
        real = jnp.matmul(inputs, self.weights, precision="float32")
        imaginary = jnp.zeros_like(real)
        states = []
        for before_real, before_imaginary in carry.states:
            real += pole_real * before_real - pole_imaginary * before_imaginary
            imaginary += pole_real * before_imaginary + pole_imaginary * before_real
            states.append((real, imaginary))
        phase_real, phase_imaginary = self.phase[:, None]
        outputs = phase_real * real - phase_imaginary * imaginary
        outputs = jnp.where(is_read, outputs, -jnp.inf)
        is_above = outputs[:, None] > self.thresholds[None]
        carry = FilterCarry(
            states=tuple(states),
            counts=carry.counts + is_above.astype(jnp.float32),
            largest=jnp.maximum(carry.largest, outputs),
            time=carry.time + 1,
        )
        return carry, outputs


def hidden_state(carry: FilterCarry, times: jax.Array) -> jax.Array:
    """Returns PPVs and largest outputs, [batch, hidden].

    `times`, int32 [] or [batch, 1], is the number of time steps read.
    """
    ppv = carry.counts.reshape(carry.counts.shape[0], -1) / times.astype(jnp.float32)
    return jnp.concatenate([ppv, carry.largest], axis=1)


def draw_poles(key: jax.Array, filters: int, time_steps: int) -> jax.Array:
    """Draws poles as real and imaginary parts, float32 [2, filters]."""
    tau_key, frequency_key = jax.random.split(key)
    max_tau = max(2 * MIN_TAU, time_steps / MAX_TAU_DIVISOR)
    low, high = np.log([MIN_TAU, max_tau]).tolist()
    tau = jnp.exp(jax.random.uniform(tau_key, (filters,), minval=low, maxval=high))
    max_frequency = FREQUENCY_RANGE * ORDER**0.5 / tau
    frequency = max_frequency * jax.random.uniform(frequency_key, (filters,))
    frequency = jnp.minimum(frequency, jnp.pi)
    radius = jnp.exp(-1 / tau)
    return jnp.stack([radius * jnp.cos(frequency), radius * jnp.sin(frequency)])


def draw_phases(key: jax.Array, filters: int) -> jax.Array:
    """Draws exp(i phi) as real and imaginary parts, float32 [2, filters]."""
    angle = jax.random.uniform(key, (filters,), maxval=2 * jnp.pi)
    return jnp.stack([jnp.cos(angle), jnp.sin(angle)])


def draw_weights(key: jax.Array, features: int, filters: int) -> jax.Array:
    """Draws the sign of each feature in each filter's sum, [features, filters].

    Features that a filter does not read have weight 0, the others 1 or -1. The number
    of features is about log-uniform.
    """
    count_key, choice_key, sign_key = jax.random.split(key, 3)
    octaves = np.log2(min(features, MAX_FEATURES) + 1).item()
    uniform = jax.random.uniform(count_key, (filters,), maxval=octaves)
    counts = jnp.clip(jnp.floor(jnp.exp2(uniform)), 1, features).astype(jnp.int32)
    order = jax.random.uniform(choice_key, (features, filters))
    rank = order.argsort(axis=0).argsort(axis=0)
    is_positive = jax.random.bernoulli(sign_key, shape=(features, filters))
    sign = jnp.where(is_positive, 1.0, -1.0)
    return jnp.where(rank < counts[None], sign, 0.0)


def choose_thresholds(outputs: np.ndarray, positions: np.ndarray) -> np.ndarray:
    """Chooses thresholds between the filters' outputs on training sequences.

    A threshold is the midpoint of two adjacent distinct outputs of its filter.

    Args:
        outputs: float32 [values, filters].
        positions: float [thresholds, filters], in [0, 1): the relative rank of the
            output below each threshold. If this output is the largest, the threshold
            is below it.

    Returns:
        Thresholds, float32 [thresholds, filters]. A filter whose outputs are all equal
        has infinite thresholds, which no output exceeds.
    """
    thresholds = np.full(positions.shape, np.inf, np.float32)
    indices = (positions * (len(outputs) - 1)).astype(int)
    for column, ordered in enumerate(np.sort(outputs.T, axis=1)):
        values = np.unique(ordered)
        if len(values) > 1:
            above = np.searchsorted(values, ordered[indices[:, column]], side="right")
            above = above.clip(max=len(values) - 1)
            below = values[above - 1]
            thresholds[:, column] = below + (values[above] - below) / 2
    return thresholds
