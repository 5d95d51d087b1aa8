"""Random recurrent filters: a recurrence whose parameters are drawn, not trained.

A filter reads a signed sum u[t] of a few features through three complex recurrences
with the same pole a = exp(-1 / tau + i omega), one behind the other:

    h1[t] = a h1[t - 1] + u[t]
    h2[t] = a h2[t - 1] + h1[t]
    h3[t] = a h3[t - 1] + h2[t]

Its output is o[t] = Re(exp(i phi) h3[t]). The response to an impulse at time step 0 is
(t + 1) (t + 2) / 2 exp(-t / tau) cos(omega t + phi): a smooth kernel of a random length
and frequency, computed with a state of constant size. The hidden state has
two kinds of features of each filter: the PPV (proportion of positive values) over the
time steps read so far, of the output minus a threshold, and the largest output so far,
at least 0. Several thresholds of each filter are drawn from its outputs in training.

References:
    Dempster, Petitjean, Webb, "ROCKET: Exceptionally fast and accurate time series
    classification using random convolutional kernels", Data Mining and Knowledge
    Discovery 34, 2020, for PPV and maxima of random kernels' outputs and a ridge
    classifier of them, and Dempster, Schmidt, Webb, "MiniRocket", KDD 2021. Their
    kernels are convolutions, which read a window of the sequence at each time step.
    de Vries and Principe, "The gamma model: a new neural model for temporal
    processing", Neural Networks 5, 1992, for cascades of equal recurrences. Their poles
    are real, and are trained.
    Jaeger, "The 'echo state' approach to analysing and training recurrent neural
    networks", GMD Report 148, 2001, and Bianchi, Scardapane, Lokse, Jenssen, "Reservoir
    computing approaches for representation and classification of multivariate time
    series", IEEE Transactions on Neural Networks and Learning Systems 32, 2021, for
    recurrences that are not trained. Their units are nonlinear and read each other.
"""

from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from rnnmnist.models.dropout import NO_DROPOUT, Dropout

ORDER = 3  # recurrences, one behind the other
THRESHOLDS = 4  # of each filter
# The time constants are log-uniform, from this number of time steps to the sixth part
# of the longest sequence.
SHORTEST = 0.7
LONGEST_PART = 6
# The frequencies are uniform up to so many times the half width of the filter's peak,
# sqrt(ORDER) / tau, and up to pi.
FREQUENCY_RANGE = 2.5
MOST_FEATURES = 9  # that a filter reads, about

# The real and the imaginary part of complex numbers. XLA vectorizes the operations on
# two arrays, but not those on complex numbers.
Complex = tuple[jax.Array, jax.Array]


class FilterCarry(NamedTuple):
    """What the filters remember of sequences between two time steps."""

    states: tuple[Complex, ...]  # of each recurrence of the cascade, [batch, filters]
    counts: jax.Array  # float32 [batch, thresholds, filters], the outputs above each
    largest: jax.Array  # [batch, filters], the largest output, 0 before the first one
    time: jax.Array  # int32, the number of time steps that were read


class FilterBank(nn.Module):
    """A bank of random recurrent filters. It is a `RecurrentLayer`.

    All parameters are drawn or chosen by `training.closed_form`, and none is trained.
    The hidden state has `THRESHOLDS` PPVs and the largest output of each filter.
    """

    filters: int
    features: int  # of the inputs
    time_steps: int  # of the longest sequence, from which time constants follow

    def setup(self) -> None:
        """Draws the filters. Their thresholds follow in the training.

        All numbers of a filter are columns, so that filters are contiguous.
        """
        number = self.filters
        self.pole = self.param("pole", draw_poles, number, self.time_steps)
        self.phase = self.param("phase", draw_phases, number)
        self.weights = self.param("weights", draw_weights, self.features, number)
        zeros = nn.initializers.zeros
        self.thresholds = self.param("thresholds", zeros, (THRESHOLDS, number))

    def __call__(
        self,
        inputs: jax.Array,
        lengths: jax.Array | None,
        *,
        every_step: bool,
        dropout: Dropout = NO_DROPOUT,
    ) -> jax.Array:
        """Filters whole sequences, up to the end of the longest one."""
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
        """Returns the carry and the hidden state after one time step."""
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
        """Returns the carry and the outputs, [batch, filters], after one time step.

        The outputs of sequences that are not read, bool [batch, 1], are -inf, so that
        they are neither counted nor the largest.
        """
        pole_real, pole_imaginary = self.pole[:, None]
        # Rounded as coarsely as accelerators do by default, outputs would be on the
        # other side of many thresholds.
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
    """Returns PPVs and largest outputs after some time steps, [batch, hidden].

    The times are int32 [] or [batch, 1].
    """
    ppv = carry.counts.reshape(carry.counts.shape[0], -1) / times.astype(jnp.float32)
    return jnp.concatenate([ppv, carry.largest], axis=1)


def draw_poles(key: jax.Array, filters: int, time_steps: int) -> jax.Array:
    """Draws the real and the imaginary part of poles, float32 [2, filters]."""
    for_tau, for_frequency = jax.random.split(key)
    longest = max(2 * SHORTEST, time_steps / LONGEST_PART)
    low, high = np.log([SHORTEST, longest]).tolist()
    tau = jnp.exp(jax.random.uniform(for_tau, (filters,), minval=low, maxval=high))
    highest = FREQUENCY_RANGE * ORDER**0.5 / tau
    frequency = highest * jax.random.uniform(for_frequency, (filters,))
    frequency = jnp.minimum(frequency, jnp.pi)
    radius = jnp.exp(-1 / tau)
    return jnp.stack([radius * jnp.cos(frequency), radius * jnp.sin(frequency)])


def draw_phases(key: jax.Array, filters: int) -> jax.Array:
    """Draws the real and the imaginary part of phases, float32 [2, filters]."""
    angle = jax.random.uniform(key, (filters,), maxval=2 * jnp.pi)
    return jnp.stack([jnp.cos(angle), jnp.sin(angle)])


def draw_weights(key: jax.Array, features: int, filters: int) -> jax.Array:
    """Draws the signs of the features that each filter adds, [features, filters].

    They are 1, -1, or 0 for features that it does not read. Few features are as
    probable as twice as many.
    """
    for_count, for_choice, for_sign = jax.random.split(key, 3)
    octaves = np.log2(min(features, MOST_FEATURES) + 1).item()
    uniform = jax.random.uniform(for_count, (filters,), maxval=octaves)
    counts = jnp.clip(jnp.floor(jnp.exp2(uniform)), 1, features).astype(jnp.int32)
    order = jax.random.uniform(for_choice, (features, filters))
    rank = order.argsort(axis=0).argsort(axis=0)
    is_positive = jax.random.bernoulli(for_sign, shape=(features, filters))
    sign = jnp.where(is_positive, 1.0, -1.0)
    return jnp.where(rank < counts[None], sign, 0.0)


def choose_thresholds(outputs: np.ndarray, positions: np.ndarray) -> np.ndarray:
    """Chooses thresholds between outputs of training sequences.

    A threshold is the midpoint of two neighbouring different outputs of its filter.

    Args:
        outputs: float32 [values, filters].
        positions: in [0, 1), float [thresholds, filters], of the lower one among the
            sorted outputs. For the position of the largest output, it is the upper one.

    Returns:
        Thresholds, float32 [thresholds, filters]. They are infinite, so that no output
        is above one, for filters with equal outputs.
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
