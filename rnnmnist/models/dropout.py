"""Dropout whose masks do not depend on the number of devices."""

import zlib
from typing import NamedTuple

import jax
import jax.numpy as jnp


class Dropout(NamedTuple):
    """Dropout for layer outputs in one training step.

    `BatchTransform` (`data/batches.py`) derives a key for each example from the seed,
    the step and the position of the example in the global batch. The masks of an
    example depend only on this key: under `vmap`, the random bits do not depend on the
    number of examples (`runtime/random_streams.py`). An example therefore gets the same
    masks on any number of devices.

    Dropout is applied between layers and before the head:

    - As in `torch.nn.LSTM`, every time step has an independent mask.
    - Unlike in `torch.nn.LSTM`, dropout is also applied to the inputs of the head,
      after pooling over time.
    - In a residual layer, dropout is applied after the skip connection. The S5 code
      (`s5/layers.py`) applies dropout inside the layer, before the gate and the skip
      connection, with the same mask at all time steps.

    References:
        Srivastava, Hinton, Krizhevsky, Sutskever, Salakhutdinov, "Dropout: A Simple Way
        to Prevent Neural Networks from Overfitting", JMLR 15, 2014.
    """

    rate: float  # probability of dropping an output
    keys: jax.Array | None  # one per example, [batch]; None disables dropout

    def apply(self, outputs: jax.Array, layer: str) -> jax.Array:
        """Applies dropout to the outputs of a layer, [..., batch, hidden]."""
        if self.keys is None:
            return outputs
        *leading, _, size = outputs.shape
        return outputs * self.draw_mask(layer, (*leading, size))

    def draw_mask(self, layer: str, shape: tuple[int, ...]) -> jax.Array:
        """Draws a mask: 0 for dropped outputs, 1 / (1 - rate) for kept outputs.

        `keys` must not be None.

        Args:
            layer: the name of the layer. Its hash is folded into the keys, so renaming
                a layer changes its masks.
            shape: the shape of one example's outputs, [..., hidden].

        Returns:
            The mask, float32 [..., batch, hidden].
        """

        def draw(key: jax.Array) -> jax.Array:
            layer_key = jax.random.fold_in(key, zlib.crc32(layer.encode()))
            is_kept = jax.random.bernoulli(layer_key, 1 - self.rate, shape)
            return jnp.where(is_kept, 1 / (1 - self.rate), 0.0)

        return jax.vmap(draw, out_axes=-2)(self.keys)  # type: ignore[arg-type]


NO_DROPOUT = Dropout(rate=0.0, keys=None)
