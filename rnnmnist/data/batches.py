"""The batch of a step: a pure function of (seed, step), computed on the device.

There is no iterator state. Example number *p* of a run is at position `p % examples`
of epoch `p // examples`, and the order of an epoch is a keyed bijection. The cost of a
batch is proportional to its size, batches continue across epoch boundaries, and every
epoch contains every example exactly once.
"""

import dataclasses
from typing import NamedTuple

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from jax.sharding import PartitionSpec as P

from rnnmnist.config.schema import Config
from rnnmnist.data.augmentation import Distortions, apply_warp, sample_warp
from rnnmnist.data.datasets import Examples
from rnnmnist.data.shuffling import epoch_order
from rnnmnist.runtime.mesh import SEEDS, device_put, over_seeds, replicated
from rnnmnist.runtime.rng import Stream, stream_key


class Batch(NamedTuple):
    """Images and labels of one step, or of one device's shard of it."""

    images: jax.Array  # [batch, rows, columns], uint8, or float32 from 0 to 1
    labels: jax.Array  # int32 [batch]


@flax.struct.dataclass
class TrainingSplit:
    """A training split on the devices, and how batches are drawn from it."""

    images: jax.Array  # uint8 [examples, rows, columns]
    labels: jax.Array  # uint8 [examples]
    seed: jax.Array  # uint32 [seeds], each with its own batches
    batch_size: int = flax.struct.field(pytree_node=False)
    distortions: Distortions = flax.struct.field(pytree_node=False)

    @classmethod
    def device_put(
        cls, examples: Examples, config: Config, mesh: Mesh
    ) -> "TrainingSplit":
        """Copies a training split to the devices of a mesh, replicated."""
        return cls(
            images=device_put(examples.images, replicated(mesh)),
            labels=device_put(examples.labels, replicated(mesh)),
            seed=device_put(np.asarray(config.seeds, np.uint32), over_seeds(mesh)),
            batch_size=config.train.batch_size,
            distortions=Distortions.from_config(config.data),
        )

    @property
    def specs(self) -> "TrainingSplit":
        """The partition of the split over a mesh, one spec for each array."""
        return dataclasses.replace(self, images=P(), labels=P(), seed=P(SEEDS))  # type: ignore[arg-type]

    def batch(
        self,
        seed: jax.Array,
        step: jax.Array | int,
        shard: jax.Array | int,
        num_shards: int,
    ) -> Batch:
        """Returns one of `num_shards` shards of a step's batch.

        The whole batch is the same for any number of shards.

        Args:
            seed: of the network, uint32 [].
            step: number of finished updates, int32 [].
            shard: index of the shard, int32 [].
            num_shards: a divisor of the batch size.
        """
        size = self.batch_size // num_shards
        first = step * self.batch_size + shard * size
        indices = epoch_order(
            stream_key(seed, Stream.ORDER),
            first + jnp.arange(size),
            len(self.labels),
        )
        images = self.images[indices]
        if self.distortions != Distortions():
            key = jax.random.fold_in(stream_key(seed, Stream.DISTORTION), step)
            # Positions of pixels are never rounded to the precision of a layer.
            with jax.default_matmul_precision("float32"):
                warp = jax.tree.map(
                    lambda leaf: jax.lax.dynamic_slice_in_dim(leaf, shard * size, size),
                    sample_warp(key, self.batch_size, self.distortions),
                )
                images = apply_warp(images, warp)
        return Batch(images, self.labels[indices].astype(jnp.int32))
