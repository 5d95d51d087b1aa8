"""Wrappers that change the inputs or outputs of recurrent layers."""

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
    previous_inputs: jax.Array  # [batch, features], from the previous time step
    is_first: jax.Array  # bool [], True before the first time step


class Deltas(nn.Module):
    """Appends delta features: the change of each feature since the previous time step.

    The wrapped layer reads the inputs and deltas, [time, batch, 2 x features]. Deltas
    are divided by their standard deviation in the training data. They are 0 at the
    first time step and in the padding.

    References:
        Furui, "Speaker-Independent Isolated Word Recognition Using Dynamic Features of
        Speech Spectrum", IEEE Transactions on Acoustics, Speech, and Signal Processing
        34(1), 1986.
    """

    layer: RecurrentLayer
    features: int  # number of input features, without deltas

    def setup(self) -> None:
        """Declares the standard deviation of the deltas, which `init_params` sets.

        The standard deviation is a parameter, although it is not trained. A constant
        would be compiled into the program, so each data set would need a new program.
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
        """Runs the layer over whole sequences and their deltas."""
        inputs = self.append_deltas(inputs, lengths)
        return self.layer(inputs, lengths, every_step=every_step, dropout=dropout)

    def initialize_carry(self, batch: int, features: int) -> DeltasCarry:
        """Returns the carry before the first time step of `batch` sequences."""
        return DeltasCarry(
            layer=self.layer.initialize_carry(batch, 2 * features),
            previous_inputs=jnp.zeros((batch, features)),
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
        times = jnp.arange(inputs.shape[0])
        # Slices like `inputs[:-1]` fail in exports, where the number of time steps is
        # symbolic.
        previous = inputs[jnp.maximum(times - 1, 0)]
        if lengths is not None:
            # Without this mask, the first delta in the padding would not be 0, because
            # the inputs drop to 0.
            is_valid = times[:, None, None] < lengths[None, :, None]
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
    time: jax.Array  # int32 [], number of time steps read so far


class Windows(nn.Module):
    """Groups time steps into windows; the wrapped layer reads windows as time steps.

    A window contains `size` consecutive time steps, and a window ends after every
    `stride` time steps. Before the start and after the end of the sequence, windows are
    filled with zeros. The last time step of a sequence always completes a window, which
    is padded with zeros.

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
        time, batch, features = inputs.shape  # time and batch may be symbolic
        zeros_before = self.size - self.stride
        zeros_after = self.stride - 1
        padded = jnp.pad(inputs, ((zeros_before, zeros_after), (0, 0), (0, 0)))
        num_windows = (time + zeros_after) // self.stride  # time / stride, rounded up
        starts = self.stride * jnp.arange(num_windows)
        positions = starts[:, None] + jnp.arange(self.size)[None]  # in `padded`
        windows = padded[positions].swapaxes(1, 2)
        windows = windows.reshape(num_windows, batch, self.size * features)
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
        times = jnp.arange(1, time + 1)[:, None]
        is_last = times == (time if lengths is None else lengths[None])
        # At the last time step of a sequence, an incomplete window also counts.
        windows_read = (times + jnp.where(is_last, zeros_after, 0)) // self.stride
        return hidden[windows_read, jnp.arange(batch)]

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
        """Reads one time step, and returns the output as if the sequence ended there.

        The carry of the wrapped layer changes only when a window is complete.
        """
        position = self.size - self.stride + carry.time % self.stride
        window = carry.window.at[:, position].set(inputs)
        batch = len(window)
        features = window.reshape(batch, -1)
        next_carry, hidden = self.layer.read_time_step(carry.layer, features)
        zeros_after = ((0, 0), (0, self.stride), (0, 0))
        next_window = jnp.pad(window[:, self.stride :], zeros_after)
        layer_carry, window = jax.lax.cond(
            position == self.size - 1,
            lambda: (next_carry, next_window),
            lambda: (carry.layer, window),
        )
        return WindowsCarry(layer_carry, window, carry.time + 1), hidden


class MeanCarry(NamedTuple):
    """The carry of `MeanPooling`."""

    layer: Carry
    total: jax.Array  # [batch, hidden], the sum of the hidden states so far
    time: jax.Array  # float32 [], number of time steps read so far


class MeanPooling(nn.Module):
    """Mean pooling: outputs the running mean of the wrapped layer's hidden states."""

    layer: RecurrentLayer
    hidden_size: int  # number of outputs of the wrapped layer

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
        """Reads one time step, and returns the new carry and the mean."""
        layer_carry, hidden = self.layer.read_time_step(carry.layer, inputs)
        total = carry.total + hidden
        time = carry.time + 1
        return MeanCarry(layer_carry, total, time), total / time


class Stack(nn.Module):
    """Stacked recurrent layers: each layer reads all outputs of the previous layer."""

    layers: Sequence[RecurrentLayer]
    hidden_size: int  # number of outputs of each layer, per direction

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
        new_carries = []
        for layer, layer_carry in zip(self.layers, carry, strict=True):
            new_carry, inputs = layer.read_time_step(layer_carry, inputs)
            new_carries.append(new_carry)
        return new_carries, inputs


class Bidirectional(nn.Module):
    """Concatenates the outputs of a forward and a backward layer.

    The backward layer reads each sequence from its end. If `every_step` is False, each
    layer returns its output after the whole sequence: the forward output at the last
    time step, and the backward output at the first time step.

    If `every_step` is True, the backward output at time step t depends on t and all
    later time steps. Streams are therefore not supported: there is no
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
