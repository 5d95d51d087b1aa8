"""Recurrences that wrap another recurrence, and change its inputs or its outputs."""

from collections.abc import Sequence
from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax.linen.recurrent import flip_sequences

from rnnmnist.models.dropout import Dropout
from rnnmnist.models.recurrent_layer import Carry, RecurrentLayer, select_last


class DeltasCarry(NamedTuple):
    """The carry of `Deltas`."""

    layer: Carry
    last: jax.Array  # [batch, features], the inputs of the previous time step
    is_first: jax.Array  # bool [], whether there is no previous time step


class Deltas(nn.Module):
    """Appends delta features: the change of each feature since the previous time step.

    The wrapped recurrence reads the inputs and their deltas, [time, batch, 2 x
    features]. The deltas are divided by their standard deviation in the training data,
    and are 0 at the first time step and in the padding.

    References:
        Furui, "Speaker-Independent Isolated Word Recognition Using Dynamic Features of
        Speech Spectrum", IEEE Transactions on Acoustics, Speech, and Signal Processing
        34(1), 1986.
    """

    layer: RecurrentLayer
    features: int  # of the inputs

    def setup(self) -> None:
        """Declares the standard deviation, which `init_params` sets.

        It is a parameter, although it is not trained. As a constant, it would be part
        of the compiled program, and each data set would need a program of its own.
        """
        self.std = self.param("std", nn.initializers.ones, (self.features,))

    def __call__(
        self,
        inputs: jax.Array,
        lengths: jax.Array | None,
        *,
        every_step: bool,
        dropout: Dropout,
    ) -> jax.Array:
        """Runs the recurrence over whole sequences and their deltas."""
        inputs = self.append_deltas(inputs, lengths)
        return self.layer(inputs, lengths, every_step=every_step, dropout=dropout)

    def initialize_carry(self, batch: int, features: int) -> DeltasCarry:
        """Returns the carry before the first time step of `batch` sequences."""
        return DeltasCarry(
            layer=self.layer.initialize_carry(batch, 2 * features),
            last=jnp.zeros((batch, features)),
            is_first=jnp.array(True),
        )

    def read_time_step(
        self, carry: DeltasCarry, inputs: jax.Array
    ) -> tuple[DeltasCarry, jax.Array]:
        """Runs the recurrence on one time step and its deltas."""
        last = jnp.where(carry.is_first, inputs, carry.last)
        both = self._concatenate(inputs[None], last[None])[0]
        layer, hidden = self.layer.read_time_step(carry.layer, both)
        return DeltasCarry(layer, inputs, jnp.array(False)), hidden

    def append_deltas(self, inputs: jax.Array, lengths: jax.Array | None) -> jax.Array:
        """Returns whole sequences with their deltas, [time, batch, 2 x features]."""
        times = jnp.arange(inputs.shape[0])
        # A slice, such as `inputs[:-1]`, fails in exports, in which the number of time
        # steps is symbolic.
        last = inputs[jnp.maximum(times - 1, 0)]
        if lengths is not None:
            # In the padding, an input is its own predecessor, so that its delta is 0.
            # Otherwise the first time step of the padding, where the inputs fall to 0,
            # would have a delta.
            is_used = times[:, None, None] < lengths[None, :, None]
            last = jnp.where(is_used, last, inputs)
        return self._concatenate(inputs, last)

    def _concatenate(self, inputs: jax.Array, last: jax.Array) -> jax.Array:
        std = jax.lax.stop_gradient(self.std)  # not trained
        deltas = (inputs - last) / std[None, None]
        return jnp.concatenate([inputs, deltas], axis=-1)


class WindowsCarry(NamedTuple):
    """What `Windows` remembers of a sequence between two time steps."""

    layer: Carry  # after the last window that has ended
    window: jax.Array  # [batch, size, features]; 0 where it is not read yet
    time: jax.Array  # int32, the number of time steps that were read


class Windows(nn.Module):
    """A recurrence that reads windows of inputs as the time steps of another one.

    A window is `size` consecutive time steps. One ends after every `stride` time steps.
    The first windows begin before the sequence, and the last one can end after it;
    there, a window has zeros. With `every_step`, the output after a time step is that
    of the last window that has ended, and 0 before the first window has ended. A window
    also ends with the last time step of a sequence, and is then filled with zeros.
    """

    layer: RecurrentLayer
    size: int
    stride: int  # at most the size

    def __call__(
        self,
        inputs: jax.Array,
        lengths: jax.Array | None,
        *,
        every_step: bool,
        dropout: Dropout,
    ) -> jax.Array:
        """Runs the recurrence over the windows of whole sequences."""
        time, batch, features = inputs.shape  # time and batch can be symbolic
        zeros_before = self.size - self.stride
        zeros_after = self.stride - 1
        padded = jnp.pad(inputs, ((zeros_before, zeros_after), (0, 0), (0, 0)))
        # The number of windows is the time divided by the stride, rounded up.
        count = (time + zeros_after) // self.stride
        starts = self.stride * jnp.arange(count)
        positions = starts[:, None] + jnp.arange(self.size)[None]  # of padded inputs
        windows = padded[positions].swapaxes(1, 2)
        windows = windows.reshape(count, batch, self.size * features)
        counts = None
        if lengths is not None:
            counts = (lengths + zeros_after) // self.stride
        hidden = self.layer(windows, counts, every_step=every_step, dropout=dropout)
        if not every_step:
            return hidden
        # Element n is the output after n windows, which is 0 after none.
        hidden = jnp.pad(hidden, ((1, 0), (0, 0), (0, 0)))
        times = jnp.arange(1, time + 1)[:, None]
        is_last = times == (time if lengths is None else lengths[None])
        # With the last time step of a sequence, a window ends that is not full, too.
        ended = (times + jnp.where(is_last, zeros_after, 0)) // self.stride  # windows
        return hidden[ended, jnp.arange(batch)]

    def initialize_carry(self, batch: int, features: int) -> WindowsCarry:
        """Returns the carry before the first time step of `batch` sequences."""
        return WindowsCarry(
            layer=self.layer.initialize_carry(batch, self.size * features),
            window=jnp.zeros((batch, self.size, features)),
            time=jnp.zeros((), jnp.int32),
        )

    def read_time_step(
        self, carry: WindowsCarry, inputs: jax.Array
    ) -> tuple[WindowsCarry, jax.Array]:
        """Returns the carry and the output of a sequence that ends with these inputs.

        Only a full window changes the carry of the recurrence.
        """
        position = self.size - self.stride + carry.time % self.stride
        window = carry.window.at[:, position].set(inputs)
        batch = len(window)
        features = window.reshape(batch, -1)
        after, hidden = self.layer.read_time_step(carry.layer, features)
        zeros_after = ((0, 0), (0, self.stride), (0, 0))
        next_window = jnp.pad(window[:, self.stride :], zeros_after)
        layer, window = jax.lax.cond(
            position == self.size - 1,
            lambda: (after, next_window),
            lambda: (carry.layer, window),
        )
        return WindowsCarry(layer, window, carry.time + 1), hidden


class MeanCarry(NamedTuple):
    """What `MeanPooling` remembers of a sequence between two time steps."""

    layer: Carry
    total: jax.Array  # [batch, hidden], the sum of the hidden states so far
    time: jax.Array  # float32, the number of time steps that were read


class MeanPooling(nn.Module):
    """A recurrence whose hidden states are the means of another one's so far."""

    layer: RecurrentLayer
    hidden_size: int  # of the recurrence

    def __call__(
        self,
        inputs: jax.Array,
        lengths: jax.Array | None,
        *,
        every_step: bool,
        dropout: Dropout,
    ) -> jax.Array:
        """Runs the recurrence over whole sequences."""
        hidden = self.layer(inputs, lengths, every_step=True, dropout=dropout)
        if lengths is None and not every_step:
            return hidden.mean(axis=0)
        times = jnp.arange(1, hidden.shape[0] + 1, dtype=hidden.dtype)
        means = hidden.cumsum(axis=0) / times[:, None, None]
        return means if every_step else select_last(means, lengths)

    def initialize_carry(self, batch: int, features: int) -> MeanCarry:
        """Returns the carry before the first time step of `batch` sequences."""
        return MeanCarry(
            layer=self.layer.initialize_carry(batch, features),
            total=jnp.zeros((batch, self.hidden_size)),
            time=jnp.zeros(()),
        )

    def read_time_step(
        self, carry: MeanCarry, inputs: jax.Array
    ) -> tuple[MeanCarry, jax.Array]:
        """Returns the carry and the mean after one time step."""
        layer, hidden = self.layer.read_time_step(carry.layer, inputs)
        total = carry.total + hidden
        time = carry.time + 1
        return MeanCarry(layer, total, time), total / time


class Stack(nn.Module):
    """Stacked recurrent layers: each reads all outputs of the layer before it."""

    layers: Sequence[RecurrentLayer]
    hidden_size: int  # of every layer, in one direction

    def __call__(
        self,
        inputs: jax.Array,
        lengths: jax.Array | None,
        *,
        every_step: bool,
        dropout: Dropout,
    ) -> jax.Array:
        """Runs the layers over whole sequences."""
        *lower, last = self.layers
        for index, layer in enumerate(lower):
            outputs = layer(inputs, lengths, every_step=True, dropout=dropout)
            inputs = dropout.apply(outputs, f"layer_{index}")
        return last(inputs, lengths, every_step=every_step, dropout=dropout)

    def initialize_carry(self, batch: int, features: int) -> list[Carry]:
        """Returns the carries before the first time step of `batch` sequences."""
        return [
            layer.initialize_carry(batch, self.hidden_size if index else features)
            for index, layer in enumerate(self.layers)
        ]

    def read_time_step(
        self, carry: list[Carry], inputs: jax.Array
    ) -> tuple[list[Carry], jax.Array]:
        """Runs the layers on one time step."""
        carries = []
        for layer, before in zip(self.layers, carry, strict=True):
            after, inputs = layer.read_time_step(before, inputs)
            carries.append(after)
        return carries, inputs


class Bidirectional(nn.Module):
    """Two recurrences, one of which reads each sequence from its end.

    Their outputs are concatenated. Without `every_step`, each is the output after the
    last time step that the recurrence reads, which is the first one of the sequence for
    the backward recurrence. With `every_step`, the backward output at time step t has
    read the time steps from the last one down to t. So it depends on later time steps:
    there are no `initialize_carry` and `read_time_step`, and a layer in two directions
    cannot read streams.

    References:
        Schuster and Paliwal, "Bidirectional Recurrent Neural Networks", IEEE
        Transactions on Signal Processing 45(11), 1997.
    """

    forward: RecurrentLayer
    backward: RecurrentLayer

    def __call__(
        self,
        inputs: jax.Array,
        lengths: jax.Array | None,
        *,
        every_step: bool,
        dropout: Dropout,
    ) -> jax.Array:
        """Runs both over whole sequences."""
        flipped = flip_sequences(inputs, lengths, num_batch_dims=1, time_major=True)
        first = self.forward(inputs, lengths, every_step=every_step, dropout=dropout)
        second = self.backward(flipped, lengths, every_step=every_step, dropout=dropout)
        if every_step:  # in the order of the time steps
            second = flip_sequences(second, lengths, num_batch_dims=1, time_major=True)
        return jnp.concatenate([first, second], axis=-1)
