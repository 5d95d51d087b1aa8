"""Dropout with masks that do not depend on the number of devices."""

import zlib
from typing import NamedTuple

import jax
import jax.numpy as jnp


class Dropout(NamedTuple):
    """Drops outputs of layers in one update of the training.

    Each example has a key, which `BatchTransform` (`data/batches.py`) derives from the
    seed, the step and the position of the example in the whole batch. Each mask is
    drawn from the key of its example alone, by a generator whose bits do not depend on
    `vmap` (`runtime/random_streams.py`). So an example has the same masks on any number
    of devices.

    Dropout applies to the outputs of a layer where the next layer or the head reads
    them. As in `torch.nn.LSTM`, outputs at different time steps are dropped
    independently. Unlike there, dropout also applies to the inputs of the head, after
    the pooling over time. Of a residual layer, the sum with its inputs is dropped. The
    code of S5 (`s5/layers.py`) instead drops outputs inside of a residual layer, before
    the gate and before the sum, and the same units at all time steps.

    References:
        Srivastava, Hinton, Krizhevsky, Sutskever, Salakhutdinov, "Dropout: A Simple Way
        to Prevent Neural Networks from Overfitting", JMLR 15, 2014.
    """

    rate: float  # the probability with which an output is dropped
    keys: jax.Array | None  # of random numbers, [batch]; None: nothing is dropped

    def apply(self, outputs: jax.Array, layer: str) -> jax.Array:
        """Drops outputs of a layer, [..., batch, hidden]."""
        if self.keys is None:
            return outputs
        *leading, _, size = outputs.shape
        return outputs * self.draw_mask(layer, (*leading, size))

    def draw_mask(self, layer: str, shape: tuple[int, ...]) -> jax.Array:
        """Returns a mask: 0 where an output is dropped, and 1 / (1 - rate) elsewhere.

        Requires `keys`.

        Args:
            layer: the name that seeds the mask. A renamed layer has another mask.
            shape: of the outputs of one example, [..., hidden].

        Returns:
            The mask, float32 [..., batch, hidden].
        """

        def draw(key: jax.Array) -> jax.Array:
            layer_key = jax.random.fold_in(key, zlib.crc32(layer.encode()))
            is_kept = jax.random.bernoulli(layer_key, 1 - self.rate, shape)
            return jnp.where(is_kept, 1 / (1 - self.rate), 0.0)

        return jax.vmap(draw, out_axes=-2)(self.keys)  # type: ignore[arg-type]


NO_DROPOUT = Dropout(rate=0.0, keys=None)
