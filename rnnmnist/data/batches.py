"""The batch of an update: a pure function of (seed, step), computed on the device.

There is no iterator state. Example number *p* of a run is at position `p % examples`
of epoch `p // examples`, and the order of an epoch is a keyed bijection. The cost of a
batch is proportional to its size, batches continue across epoch boundaries, and every
epoch contains every example exactly once.

The training examples are copied to the devices (`TrainingSplit`), or stay on the host,
which gathers the same batches ahead of the devices (`HostSplit`).
"""

import concurrent.futures
import dataclasses
import functools
from collections.abc import Iterator
from typing import Any, NamedTuple

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from rnnmnist.config.schema import Config
from rnnmnist.data.augmentation import Distortions, apply_warp, sample_warp
from rnnmnist.data.examples import Examples
from rnnmnist.data.shuffling import epoch_order
from rnnmnist.data.views import View
from rnnmnist.runtime.hardware import device_memory
from rnnmnist.runtime.mesh import (
    BATCH,
    SEEDS,
    device_put,
    local_sharding,
    over_seeds,
    replicated,
)
from rnnmnist.runtime.rng import Stream, stream_key

CHUNK_BYTES = 1 << 24  # of the batches that the host gathers at a time
MAX_MEMORY_FRACTION = 0.25  # of a device, for the training examples


class Batch(NamedTuple):
    """The examples of one update, or of one device's shard of it."""

    inputs: jax.Array  # float32 [batch, time, features]
    labels: jax.Array  # int32 [batch]
    lengths: jax.Array | None  # int32 [batch]; None: all steps


class Preparation(NamedTuple):
    """Turns stored examples into inputs; static in compiled programs."""

    batch_size: int
    distortions: Distortions
    view: View | None  # of images; None for sequences

    @classmethod
    def create(cls, config: Config, view: View | None) -> "Preparation":
        """Returns the preparation of a run's batches."""
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

        Args:
            stored: as `Examples.take` returns them.
            seed: of the network, uint32 [].
            step: number of finished updates, int32 [].
            shard: index of the shard, int32 [].
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
    seed: jax.Array  # uint32 [seeds], each with its own batches
    preparation: Preparation = flax.struct.field(pytree_node=False)

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
            preparation=Preparation.create(config, view),
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
        """Returns what a batch depends on, with a leading axis of networks."""
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

        Args:
            seed: of a network, from `networks`, uint32 [].
            step: number of finished updates, int32 [].
            shard: index of the shard, int32 [].
            num_shards: a divisor of the batch size.
        """
        batch_size = self.preparation.batch_size
        size = batch_size // num_shards
        positions = step * batch_size + shard * size + jnp.arange(size)
        indices = epoch_order(
            stream_key(seed, Stream.ORDER), positions, len(self.labels)
        )
        inputs = self.preparation(self.stored[indices], seed, step, shard)
        lengths = None if self.lengths is None else self.lengths[indices]
        return Batch(inputs, self.labels[indices], lengths)


@flax.struct.dataclass
class Chunk:
    """The batches of consecutive updates, on the devices.

    Arrays are [updates, seeds, batch, ...], and [seeds, batch, ...] in `networks`.
    """

    stored: jax.Array  # as `Examples.take` returns them
    labels: jax.Array  # int32
    lengths: jax.Array | None  # int32
    seed: jax.Array  # uint32 [seeds]
    first: jax.Array  # int32 [], the number of updates before the first of the chunk
    preparation: Preparation = flax.struct.field(pytree_node=False)

    @property
    def specs(self) -> "Chunk":
        """The partition of the chunk over a mesh, one spec for each array."""
        specs: Any = dict.fromkeys(("stored", "labels"), P(None, SEEDS, BATCH))
        specs |= {"seed": P(SEEDS), "first": P()}
        if self.lengths is not None:
            specs["lengths"] = specs["labels"]
        return dataclasses.replace(self, **specs)

    def networks(self, step: jax.Array) -> tuple[Any, ...]:
        """Returns what a batch depends on, with a leading axis of networks."""
        arrays = (self.stored, self.labels, self.lengths)
        return self.seed, jax.tree.map(lambda array: array[step - self.first], arrays)

    def batch(
        self,
        network: tuple[Any, ...],
        step: jax.Array | int,
        shard: jax.Array | int,
        num_shards: int,
    ) -> Batch:
        """Returns this device's shard of an update's batch."""
        del num_shards  # the chunk is divided over the devices
        seed, (stored, labels, lengths) = network
        return Batch(self.preparation(stored, seed, step, shard), labels, lengths)


class HostSplit:
    """A training split on the host, from which batches are copied to the devices."""

    def __init__(
        self, examples: Examples, view: View | None, config: Config, mesh: Mesh
    ) -> None:
        """Starts a thread that gathers batches ahead of the devices."""
        self._examples, self._mesh = examples, mesh
        self._preparation = Preparation.create(config, view)
        self._seed = np.asarray(config.seeds, np.uint32)
        one = examples.take(np.arange(1)).nbytes * len(config.seeds)
        self._size = max(1, CHUNK_BYTES // (one * config.train.batch_size))
        self._thread = concurrent.futures.ThreadPoolExecutor(1)
        self._gathered: dict[int, concurrent.futures.Future[Chunk]] = {}

    def chunks(self, first: int, last: int) -> Iterator[tuple[Chunk, int]]:
        """Yields chunks, each with the number of updates to take from it."""
        while first < last:
            start = first // self._size * self._size
            end = min(last, start + self._size)
            yield self._chunk(start), end - first
            first = end

    def _chunk(self, start: int) -> Chunk:
        """Returns the chunk at a step, and begins to gather the next one."""
        wanted = (start, start + self._size)
        self._gathered = {
            step: self._gathered.get(step) or self._thread.submit(self._gather, step)
            for step in wanted
        }
        return self._gathered[start].result()

    def _gather(self, start: int) -> Chunk:
        mesh, batch_size = self._mesh, self._preparation.batch_size
        first = device_put(np.int32(start), replicated(mesh))
        seed = device_put(self._seed, over_seeds(mesh))
        indices = jax.device_get(
            _indices(
                # On this process's own device: other threads use the mesh.
                device_put(self._seed, local_sharding()),
                device_put(np.int32(start), local_sharding()),
                updates=self._size,
                batch_size=batch_size,
                examples=len(self._examples.labels),
            )
        )
        sharding = NamedSharding(mesh, P(None, SEEDS, BATCH))

        def put(values: Any) -> jax.Array:
            """Copies each device's shard; `values` returns those of indices."""

            def shard(index: Any) -> np.ndarray:
                own = indices[index[:3]]
                return values(own.ravel()).reshape(*own.shape, *shape)

            shape = values(np.arange(1)).shape[1:]
            with jax.transfer_guard_host_to_device("allow"):
                return jax.make_array_from_callback(
                    (*indices.shape, *shape), sharding, shard
                )

        lengths = self._examples.lengths
        return Chunk(
            stored=put(self._examples.take),
            labels=put(self._examples.labels.__getitem__),
            lengths=None if lengths is None else put(lengths.__getitem__),
            seed=seed,
            first=first,
            preparation=self._preparation,
        )


@functools.partial(jax.jit, static_argnames=("updates", "batch_size", "examples"))
def _indices(
    seeds: jax.Array,
    first: jax.Array,
    *,
    updates: int,
    batch_size: int,
    examples: int,
) -> jax.Array:
    """Returns the examples of batches, int32 [updates, seeds, batch]."""

    def one(seed: jax.Array, update: jax.Array) -> jax.Array:
        positions = update * batch_size + jnp.arange(batch_size)
        return epoch_order(stream_key(seed, Stream.ORDER), positions, examples)

    steps = first + jnp.arange(updates)
    return jax.vmap(lambda step: jax.vmap(one, (0, None))(seeds, step))(steps)


def put_split(
    examples: Examples, view: View | None, config: Config, mesh: Mesh
) -> TrainingSplit | HostSplit:
    """Copies a training split to the devices, or keeps it on the host.

    `data.placement=auto` keeps it on the host if its copies on all devices of this
    process would take more than `MAX_MEMORY_FRACTION` of the memory.
    """
    placement = config.data.placement
    if placement == "auto":
        size = len(examples.labels) * examples.take(np.arange(1)).nbytes
        fits = size <= MAX_MEMORY_FRACTION * device_memory(mesh)
        placement = "device" if fits else "host"
    split = TrainingSplit.device_put if placement == "device" else HostSplit
    return split(examples, view, config, mesh)
