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
from rnnmnist.data.shuffling import epoch_order
from rnnmnist.runtime.mesh import device_put, ensemble_spec, replicated
from rnnmnist.runtime.rng import Stream, stream_key


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
    def device_put(
        cls, examples: Examples, config: Config, mesh: Mesh
    ) -> "TrainingSplit":
        """Lays a training split out, the same on every device of a mesh."""
        everywhere = replicated(mesh)
        seeds = np.asarray(config.seeds, np.uint32)
        return cls(
            images=device_put(examples.images, everywhere),
            labels=device_put(examples.labels, everywhere),
            seed=device_put(
                seeds if len(seeds) > 1 else seeds[0],
                NamedSharding(mesh, ensemble_spec(len(seeds))),
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
