"""The batch of an update: a pure function of (seed, step), computed on the device.

There is no iterator state. Example number *p* of a run is at position `p % examples`
of epoch `p // examples`, and the order of an epoch is a keyed bijection. The cost of a
batch is proportional to its size, batches continue across epoch boundaries, and every
epoch contains every example exactly once.

The training examples are copied to the devices, or stay on the host (`data/host.py`).
"""

import dataclasses
from collections.abc import Iterator
from typing import Any, NamedTuple

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from jax.sharding import PartitionSpec as P

from rnnmnist.config.schema import Config
from rnnmnist.data.augmentation import Distortions, apply_warp, sample_warp
from rnnmnist.data.examples import Examples
from rnnmnist.data.shuffling import epoch_order
from rnnmnist.data.views import View
from rnnmnist.runtime.ensemble import Stream, stream_key
from rnnmnist.runtime.mesh import SEEDS, device_put, over_seeds, replicated


class Batch(NamedTuple):
    """The examples of one update, or of one device's shard of it."""

    inputs: jax.Array  # float32 [batch, time, features]
    labels: jax.Array  # int32 [batch]
    lengths: jax.Array | None  # int32 [batch]; None: no padding


class BatchTransform(NamedTuple):
    """Turns stored examples into inputs; static in compiled programs."""

    batch_size: int
    distortions: Distortions
    view: View | None  # of images; None for sequences

    @classmethod
    def create(cls, config: Config, view: View | None) -> "BatchTransform":
        """Returns the transform of a run's batches."""
        distortions = Distortions.from_config(config.data)
        return cls(config.train.batch_size, distortions, view)

    def __call__(
        self,
        stored: jax.Array,
        seed: jax.Array,
        step: jax.Array | int,
        shard: jax.Array | int,
    ) -> jax.Array:
        """Returns the inputs of a shard of a batch, float32 [n, time, features].

        The examples are stored as `Examples.take` returns them.
        """
        size = len(stored)
        if self.distortions != Distortions():
            key = jax.random.fold_in(stream_key(seed, Stream.DISTORTION), step)
            # Positions of pixels are never rounded to the precision of a layer.
            with jax.default_matmul_precision("float32"):
                warp = jax.tree.map(
                    lambda leaf: jax.lax.dynamic_slice_in_dim(leaf, shard * size, size),
                    sample_warp(key, self.batch_size, self.distortions),
                )
                stored = apply_warp(stored, warp)
        return stored if self.view is None else self.view(stored)


@flax.struct.dataclass
class TrainingSplit:
    """A training split on the devices, and how batches are drawn from it."""

    stored: jax.Array  # as `Examples.take` returns them
    labels: jax.Array  # int32 [examples]
    lengths: jax.Array | None  # int32 [examples]
    seed: jax.Array  # uint32 [ensemble], each with its own batches
    transform: BatchTransform = flax.struct.field(pytree_node=False)

    @classmethod
    def device_put(
        cls, examples: Examples, view: View | None, config: Config, mesh: Mesh
    ) -> "TrainingSplit":
        """Copies a training split to the devices of a mesh, replicated."""
        lengths = None
        if examples.lengths is not None:
            lengths = device_put(examples.lengths, replicated(mesh))
        return cls(
            stored=device_put(examples.take(slice(None)), replicated(mesh)),
            labels=device_put(examples.labels, replicated(mesh)),
            lengths=lengths,
            seed=device_put(np.asarray(config.seeds, np.uint32), over_seeds(mesh)),
            transform=BatchTransform.create(config, view),
        )

    @property
    def specs(self) -> "TrainingSplit":
        """The partition of the split over a mesh, one spec for each array."""
        specs: Any = {"stored": P(), "labels": P(), "seed": P(SEEDS)}
        if self.lengths is not None:
            specs["lengths"] = P()
        return dataclasses.replace(self, **specs)

    def chunks(self, first: int, last: int) -> Iterator[tuple["TrainingSplit", int]]:
        """Yields this split for the updates from `first` to `last`, all together."""
        yield self, last - first

    def networks(self, step: jax.Array) -> jax.Array:
        """Returns what a batch depends on, with the ensemble axis."""
        del step
        return self.seed

    def batch(
        self,
        seed: jax.Array,
        step: jax.Array | int,
        shard: jax.Array | int,
        num_shards: int,
    ) -> Batch:
        """Returns one of `num_shards` shards of an update's batch.

        The whole batch is the same for any number of shards.
        """
        batch_size = self.transform.batch_size
        size = batch_size // num_shards
        positions = step * batch_size + shard * size + jnp.arange(size)
        indices = epoch_order(
            stream_key(seed, Stream.ORDER), positions, len(self.labels)
        )
        inputs = self.transform(self.stored[indices], seed, step, shard)
        lengths = None if self.lengths is None else self.lengths[indices]
        return Batch(inputs, self.labels[indices], lengths)
