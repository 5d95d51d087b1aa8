"""Wrappers that change the inputs or outputs of recurrent layers."""

from collections.abc import Sequence
from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax.linen.recurrent import flip_sequences

from rnnmnist.models.recurrent_layer import (
    Carry,
    Dropout,
    RecurrentLayer,
    select_last,
)


class DeltasCarry(NamedTuple):
    """The carry of `Deltas`."""

    layer: Carry
    previous_inputs: jax.Array  # [batch, features], from the previous time step
    is_first: jax.Array  # bool [], True in the initial carry


class Deltas(nn.Module):
    """Appends delta features: the change of each feature since the previous time step.

    The wrapped layer reads the inputs and deltas, [time, batch, 2 x features]. Deltas
    are divided by their standard deviation in the training data. At the first time step
    and in the padding, deltas are 0.

    References:
        Furui, "Speaker-Independent Isolated Word Recognition Using Dynamic Features of
        Speech Spectrum", IEEE Transactions on Acoustics, Speech, and Signal Processing
        34(1), 1986.
    """

    layer: RecurrentLayer
    num_features: int  # of the inputs, without deltas

    def setup(self) -> None:
        """Declares the standard deviation of the deltas, which `init_params` sets.

        The standard deviation is a parameter, although it is not trained. A constant
        would be compiled into the program, so each data set would need a new program.
        """
        self.std = self.param("std", nn.initializers.ones, (self.num_features,))

    def __call__(
        self,
        inputs: jax.Array,
        lengths: jax.Array | None,
        *,
        every_step: bool,
        dropout: Dropout,
    ) -> jax.Array:
        """Runs the layer over whole sequences and their deltas."""
        inputs = self.append_deltas(inputs, lengths)
        return self.layer(inputs, lengths, every_step=every_step, dropout=dropout)

    def initialize_carry(self, batch_size: int, num_features: int) -> DeltasCarry:
        """Returns the initial carry for `batch_size` sequences."""
        return DeltasCarry(
            layer=self.layer.initialize_carry(batch_size, 2 * num_features),
            previous_inputs=jnp.zeros((batch_size, num_features)),
            is_first=jnp.array(True),
        )

    def read_time_step(
        self, carry: DeltasCarry, inputs: jax.Array
    ) -> tuple[DeltasCarry, jax.Array]:
        """Runs the layer on one time step and its deltas."""
        previous = jnp.where(carry.is_first, inputs, carry.previous_inputs)
        with_deltas = self._concatenate(inputs[None], previous[None])[0]
        layer_carry, hidden = self.layer.read_time_step(carry.layer, with_deltas)
        return DeltasCarry(layer_carry, inputs, jnp.array(False)), hidden

    def append_deltas(self, inputs: jax.Array, lengths: jax.Array | None) -> jax.Array:
        """Returns whole sequences with their deltas, [time, batch, 2 x features]."""
        positions = jnp.arange(inputs.shape[0])
        # Slices like `inputs[:-1]` fail in exports, where the number of time steps is
        # symbolic.
        previous = inputs[jnp.maximum(positions - 1, 0)]
        if lengths is not None:
            # Without this mask, the first delta in the padding would not be 0, because
            # the inputs drop to 0.
            is_valid = positions[:, None, None] < lengths[None, :, None]
            previous = jnp.where(is_valid, previous, inputs)
        return self._concatenate(inputs, previous)

    def _concatenate(self, inputs: jax.Array, previous: jax.Array) -> jax.Array:
        std = jax.lax.stop_gradient(self.std)  # not trained
        deltas = (inputs - previous) / std[None, None]
        return jnp.concatenate([inputs, deltas], axis=-1)


class WindowsCarry(NamedTuple):
    """The carry of `Windows`."""

    layer: Carry  # after the last complete window
    window: jax.Array  # [batch, size, features], 0 for time steps not yet read
    num_read: jax.Array  # int32 [], number of time steps read so far


class Windows(nn.Module):
    """Groups time steps into windows; the wrapped layer reads windows as time steps.

    A window contains `size` consecutive time steps, and a window ends after every
    `stride` time steps. Positions before the start or after the end of the sequence are
    0. The last time step always completes a window, padded with zeros if necessary.

    If `every_step` is True, the output after a time step is the output after the last
    complete window, or 0 before the first window is complete.
    """

    layer: RecurrentLayer
    size: int
    stride: int  # at most `size`

    def __call__(
        self,
        inputs: jax.Array,
        lengths: jax.Array | None,
        *,
        every_step: bool,
        dropout: Dropout,
    ) -> jax.Array:
        """Runs the layer over the windows of whole sequences."""
        # The first two sizes can be symbolic.
        time_steps, batch_size, num_features = inputs.shape
        zeros_before = self.size - self.stride
        zeros_after = self.stride - 1
        padded = jnp.pad(inputs, ((zeros_before, zeros_after), (0, 0), (0, 0)))
        num_windows = (time_steps + zeros_after) // self.stride  # rounded up
        starts = self.stride * jnp.arange(num_windows)
        positions = starts[:, None] + jnp.arange(self.size)[None]  # in `padded`
        windows = padded[positions].swapaxes(1, 2)
        windows = windows.reshape(num_windows, batch_size, self.size * num_features)
        window_counts = None
        if lengths is not None:
            window_counts = (lengths + zeros_after) // self.stride
        hidden = self.layer(
            windows, window_counts, every_step=every_step, dropout=dropout
        )
        if not every_step:
            return hidden
        # After padding, `hidden[n]` is the output after n windows; `hidden[0]` is 0.
        hidden = jnp.pad(hidden, ((1, 0), (0, 0), (0, 0)))
        num_read = jnp.arange(1, time_steps + 1)[:, None]
        is_last = num_read == (time_steps if lengths is None else lengths[None])
        # At the last time step of a sequence, an incomplete window also counts.
        num_windows_read = (
            num_read + jnp.where(is_last, zeros_after, 0)
        ) // self.stride
        return hidden[num_windows_read, jnp.arange(batch_size)]

    def initialize_carry(self, batch_size: int, num_features: int) -> WindowsCarry:
        """Returns the initial carry for `batch_size` sequences."""
        return WindowsCarry(
            layer=self.layer.initialize_carry(batch_size, self.size * num_features),
            window=jnp.zeros((batch_size, self.size, num_features)),
            num_read=jnp.zeros((), jnp.int32),
        )

    def read_time_step(
        self, carry: WindowsCarry, inputs: jax.Array
    ) -> tuple[WindowsCarry, jax.Array]:
        """Reads one time step, and returns the new carry and the output.

        The output is the same as if the sequence ended at this time step. The carry of
        the wrapped layer changes only when a window is complete.
        """
        position = self.size - self.stride + carry.num_read % self.stride
        window = carry.window.at[:, position].set(inputs)
        batch_size = len(window)
        features = window.reshape(batch_size, -1)
        next_carry, hidden = self.layer.read_time_step(carry.layer, features)
        zeros_after = ((0, 0), (0, self.stride), (0, 0))
        next_window = jnp.pad(window[:, self.stride :], zeros_after)
        layer_carry, window = jax.lax.cond(
            position == self.size - 1,
            lambda: (next_carry, next_window),
            lambda: (carry.layer, window),
        )
        return WindowsCarry(layer_carry, window, carry.num_read + 1), hidden


class MeanCarry(NamedTuple):
    """The carry of `MeanPooling`."""

    layer: Carry
    total: jax.Array  # [batch, hidden], the sum of the hidden states so far
    num_read: jax.Array  # float32 [], number of time steps read so far


class MeanPooling(nn.Module):
    """Mean pooling: outputs the running mean of the wrapped layer's hidden states."""

    layer: RecurrentLayer
    hidden_size: int  # output size of the wrapped layer

    def __call__(
        self,
        inputs: jax.Array,
        lengths: jax.Array | None,
        *,
        every_step: bool,
        dropout: Dropout,
    ) -> jax.Array:
        """Runs the layer over whole sequences and averages its hidden states."""
        hidden = self.layer(inputs, lengths, every_step=True, dropout=dropout)
        if lengths is None and not every_step:
            return hidden.mean(axis=0)
        num_read = jnp.arange(1, hidden.shape[0] + 1, dtype=hidden.dtype)
        means = hidden.cumsum(axis=0) / num_read[:, None, None]
        return means if every_step else select_last(means, lengths)

    def initialize_carry(self, batch_size: int, num_features: int) -> MeanCarry:
        """Returns the initial carry for `batch_size` sequences."""
        return MeanCarry(
            layer=self.layer.initialize_carry(batch_size, num_features),
            total=jnp.zeros((batch_size, self.hidden_size)),
            num_read=jnp.zeros(()),
        )

    def read_time_step(
        self, carry: MeanCarry, inputs: jax.Array
    ) -> tuple[MeanCarry, jax.Array]:
        """Reads one time step, and returns the new carry and the running mean."""
        layer_carry, hidden = self.layer.read_time_step(carry.layer, inputs)
        total = carry.total + hidden
        num_read = carry.num_read + 1
        return MeanCarry(layer_carry, total, num_read), total / num_read


class Stack(nn.Module):
    """Stacks recurrent layers: each layer reads all outputs of the previous layer."""

    layers: Sequence[RecurrentLayer]
    hidden_size: int  # output size of each layer, per direction

    def __call__(
        self,
        inputs: jax.Array,
        lengths: jax.Array | None,
        *,
        every_step: bool,
        dropout: Dropout,
    ) -> jax.Array:
        """Runs the layers over whole sequences."""
        *inner, last = self.layers
        for index, layer in enumerate(inner):
            outputs = layer(inputs, lengths, every_step=True, dropout=dropout)
            inputs = dropout.apply(outputs, f"layer_{index}")
        return last(inputs, lengths, every_step=every_step, dropout=dropout)

    def initialize_carry(self, batch_size: int, num_features: int) -> list[Carry]:
        """Returns the initial carry of each layer, for `batch_size` sequences."""
        return [
            layer.initialize_carry(
                batch_size, self.hidden_size if index else num_features
            )
            for index, layer in enumerate(self.layers)
        ]

    def read_time_step(
        self, carry: list[Carry], inputs: jax.Array
    ) -> tuple[list[Carry], jax.Array]:
        """Runs the layers on one time step."""
        new_carries = []
        for layer, layer_carry in zip(self.layers, carry, strict=True):
            new_carry, inputs = layer.read_time_step(layer_carry, inputs)
            new_carries.append(new_carry)
        return new_carries, inputs


class Bidirectional(nn.Module):
    """Concatenates the outputs of a forward and a backward layer.

    The backward layer reads each sequence from the end to the start. If `every_step` is
    False, each layer returns its output after the whole sequence: the forward output at
    the last time step, and the backward output at the first time step.

    If `every_step` is True, the backward output at time step t depends on time step t
    and all later time steps. Streams are therefore not supported: there is no
    `initialize_carry` or `read_time_step`.

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
        """Runs both layers over whole sequences."""
        flipped = flip_sequences(inputs, lengths, num_batch_dims=1, time_major=True)
        forward = self.forward(inputs, lengths, every_step=every_step, dropout=dropout)
        backward = self.backward(
            flipped, lengths, every_step=every_step, dropout=dropout
        )
        if every_step:  # restore the order of time steps
            backward = flip_sequences(
                backward, lengths, num_batch_dims=1, time_major=True
            )
        return jnp.concatenate([forward, backward], axis=-1)
