"""Recurrences that wrap others: windows, means over time, and both directions."""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax.linen.recurrent import flip_sequences

from rnnmnist.arithmetic import ceil_div
from rnnmnist.models.recurrences import last_of, scan_to_longest


class Windows(nn.Module):
    """A recurrence that reads windows of another one's inputs.

    A window is `size` consecutive time steps. One ends after every `stride` time steps;
    the last one can end later than the sequence, around which are zeros. With
    `every_step`, the output after a time step is that of the last window that has
    ended: nothing of the future. It is 0 before the first one ends.
    """

    recurrence: nn.Module
    size: int
    stride: int  # at most the size

    def __call__(
        self, inputs: jax.Array, lengths: jax.Array | None, *, every_step: bool
    ) -> jax.Array:
        """Runs the recurrence over windows of inputs [time, batch, features]."""
        time, batch, features = inputs.shape  # time and batch can be symbolic
        around = (self.size - self.stride, self.stride - 1)
        padded = jnp.pad(inputs, (around, (0, 0), (0, 0)))
        count = ceil_div(time, self.stride)
        starts = self.stride * jnp.arange(count)
        positions = starts[:, None] + jnp.arange(self.size)[None]  # of padded inputs
        windows = padded[positions].swapaxes(1, 2)
        windows = windows.reshape(count, batch, self.size * features)
        counts = None if lengths is None else ceil_div(lengths, self.stride)
        hidden = self.recurrence(windows, counts, every_step=every_step)
        if not every_step:
            return hidden
        hidden = jnp.pad(hidden, ((1, 0), (0, 0), (0, 0)))
        read = jnp.arange(1, time + 1)[:, None]
        is_last = read == (time if lengths is None else lengths[None])
        ended = jnp.where(is_last, ceil_div(read, self.stride), read // self.stride)
        return hidden[ended, jnp.arange(batch)]

    def start(self, batch: int, features: int) -> Any:
        """Returns the carry before the first time step of `batch` sequences."""
        inner = self.recurrence.start(batch, self.size * features)
        window = jnp.zeros((batch, self.size, features))
        return inner, window, jnp.zeros((), jnp.int32)

    def step(self, carry: Any, inputs: jax.Array) -> tuple[Any, jax.Array]:
        """Returns the carry and the output for a sequence that ends here.

        Inputs are [batch, features].
        """
        inner, window, time = carry
        position = self.size - self.stride + time % self.stride
        window = window.at[:, position].set(inputs)
        new, hidden = self.recurrence.step(inner, window.reshape(len(window), -1))
        moved = jnp.pad(window[:, self.stride :], ((0, 0), (0, self.stride), (0, 0)))
        is_full = position == self.size - 1
        kept = jax.lax.cond(is_full, lambda: (new, moved), lambda: (inner, window))
        return (*kept, time + 1), hidden


class MeanPooling(nn.Module):
    """A recurrence whose outputs are the means of another's hidden states so far."""

    recurrence: nn.Module
    hidden_size: int  # of the recurrence
    skip_padding: bool = False  # as of the recurrence

    def __call__(
        self, inputs: jax.Array, lengths: jax.Array | None, *, every_step: bool
    ) -> jax.Array:
        """Runs the recurrence over inputs [time, batch, features]."""
        hidden = self.recurrence(inputs, lengths, every_step=True)
        if lengths is None and not every_step:
            return hidden.mean(axis=0)
        times = jnp.arange(1, hidden.shape[0] + 1, dtype=hidden.dtype)[:, None, None]
        if lengths is not None and self.skip_padding:

            def add(total: jax.Array, hidden: jax.Array) -> tuple[jax.Array, jax.Array]:
                total += hidden
                return total, total

            total = jnp.zeros_like(hidden[0])
            ends = lengths[:, None]
            totals = scan_to_longest(add, total, hidden, ends, every_step=every_step)
            return totals / (times if every_step else ends.astype(hidden.dtype))
        means = hidden.cumsum(axis=0) / times
        return means if every_step else last_of(means, lengths)

    def start(self, batch: int, features: int) -> Any:
        """Returns the carry before the first time step of `batch` sequences."""
        total = jnp.zeros((batch, self.hidden_size))
        return self.recurrence.start(batch, features), total, jnp.zeros(())

    def step(self, carry: Any, inputs: jax.Array) -> tuple[Any, jax.Array]:
        """Returns the carry and the mean after inputs [batch, features]."""
        inner, total, time = carry
        inner, hidden = self.recurrence.step(inner, inputs)
        total += hidden
        time += 1
        return (inner, total, time), total / time


class Bidirectional(nn.Module):
    """Two recurrences, one of which reads each sequence from its end.

    Their outputs, [batch, hidden] each, are concatenated.

    References:
        Schuster and Paliwal, "Bidirectional Recurrent Neural Networks", IEEE
        Transactions on Signal Processing 45(11), 1997.
    """

    forward: nn.Module
    backward: nn.Module

    def __call__(
        self, inputs: jax.Array, lengths: jax.Array | None, *, every_step: bool
    ) -> jax.Array:
        """Runs both over inputs [time, batch, features]."""
        if every_step:
            raise ValueError("both directions are read at the end of a sequence only")
        flipped = flip_sequences(inputs, lengths, num_batch_dims=1, time_major=True)
        after = self.forward(inputs, lengths, every_step=False)
        before = self.backward(flipped, lengths, every_step=False)
        return jnp.concatenate([after, before], axis=-1)
