"""The batch of a step: a pure function of (seed, step), drawn on the device.

There is no iterator and no position to save. Image number *p* of a run is the
image at place `p % examples` of epoch `p // examples`, and an epoch's order is
a keyed bijection, so that a batch costs its own size only, runs on across an
epoch's end, and every epoch sees every image exactly once.
"""

from typing import NamedTuple

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding

from rnnmnist.config.schema import Config
from rnnmnist.data.augmentation import Distortions, draw, warp
from rnnmnist.data.datasets import Examples
from rnnmnist.runtime.mesh import by_member, put, replicated
from rnnmnist.runtime.rng import Stream, stream_key

# Each round swaps at random half of all pairs, paired anew. Six rounds a bit
# are cryptographers' ground; for 55,000 images (16 bits) 48 leave no trace that
# a test of positions or of neighbours can find.
ROUNDS = 48


class Batch(NamedTuple):
    """Images and labels of one step, or a device's share of them."""

    images: jax.Array  # [batch, rows, columns], uint8, or float32 from 0 to 1
    labels: jax.Array  # int32 [batch]


@flax.struct.dataclass
class TrainingSplit:
    """A training split that lies on the device, and how batches are drawn from it."""

    images: jax.Array  # uint8 [examples, rows, columns]
    labels: jax.Array  # uint8 [examples]
    seed: jax.Array  # uint32 [], or [members] of a stack, each with its own batches
    batch_size: int = flax.struct.field(pytree_node=False)
    distortions: Distortions = flax.struct.field(pytree_node=False)

    @classmethod
    def put(cls, examples: Examples, config: Config, mesh: Mesh) -> "TrainingSplit":
        """Lays a training split out, the same on every device of a mesh."""
        everywhere = replicated(mesh)
        seeds = np.asarray(config.seeds, np.uint32)
        return cls(
            images=put(examples.images, everywhere),
            labels=put(examples.labels, everywhere),
            seed=put(
                seeds if len(seeds) > 1 else seeds[0],
                NamedSharding(mesh, by_member(len(seeds))),
            ),
            batch_size=config.train.batch_size,
            distortions=Distortions.of(config.data),
        )

    def batch(self, step: jax.Array | int, shard: jax.Array, num_shards: int) -> Batch:
        """The share of one device in the batch of a step, for a single seed.

        Args:
            step: updates finished before this one, int32 [].
            shard: which share, int32 [], below `num_shards`.
            num_shards: shares of equal size that make up the batch.

        Returns:
            Rows `shard * size` to `(shard + 1) * size` of the step's batch, so
            that the batch itself is the same for any number of devices.
        """
        size = self.batch_size // num_shards
        first = step * self.batch_size + shard * size
        indices = epoch_order(
            stream_key(self.seed, Stream.ORDER),
            first + jnp.arange(size),
            len(self.labels),
        )
        images = self.images[indices]
        if self.distortions != Distortions():
            key = jax.random.fold_in(stream_key(self.seed, Stream.DISTORTION), step)
            whole = draw(key, self.batch_size, self.distortions)
            own = jax.tree.map(
                lambda leaf: jax.lax.dynamic_slice_in_dim(leaf, shard * size, size),
                whole,
            )
            images = warp(images, own)
        return Batch(images, self.labels[indices].astype(jnp.int32))


def epoch_order(key: jax.Array, positions: jax.Array, examples: int) -> jax.Array:
    """Which image stands at each position of an endless run of epochs.

    A swap-or-not shuffle: in each round an image and its partner, `k - image`,
    either both stay or change places, as a hash of the larger of them says. That
    is a bijection for every round key, on any number of images.

    Args:
        key: of the data order.
        positions: int32 [n], ascending, over at most two epochs.
        examples: images in an epoch, of which there are at least as many as
            positions.

    Returns:
        int32 [n], each below `examples`. Over the positions of one epoch every
        image comes exactly once.

    References:
        Hoang, Morris, Rogaway, "An Enciphering Scheme Based on a Card Shuffle",
        CRYPTO 2012. Ethereum shuffles its validators the same way.
    """
    epochs = positions // examples
    pair = epochs[0] + jnp.arange(2)  # the only epochs that a batch can touch
    keys = jax.vmap(jax.random.fold_in, (None, 0))(key, pair)
    words = jax.vmap(lambda key: jax.random.bits(key, (ROUNDS, 2)))(keys)
    words = words[epochs - epochs[0]]  # uint32 [n, rounds, 2]
    size = jnp.uint32(examples)

    def swap_or_not(image: jax.Array, word: jax.Array) -> tuple[jax.Array, None]:
        partner = (word[:, 0] % size + size - image) % size
        heads = _hash(jnp.maximum(image, partner) ^ word[:, 1]) & 1
        return jnp.where(heads == 1, partner, image), None

    image = (positions % examples).astype(jnp.uint32)
    image, _ = jax.lax.scan(swap_or_not, image, words.swapaxes(0, 1), unroll=8)
    return image.astype(jnp.int32)


def _hash(word: jax.Array) -> jax.Array:
    """Mixes 32 bits (C. Wellons' `lowbias32`): every input bit reaches the lowest."""
    word = (word ^ (word >> 16)) * jnp.uint32(0x7FEB352D)
    word = (word ^ (word >> 15)) * jnp.uint32(0x846CA68B)
    return word ^ (word >> 16)
