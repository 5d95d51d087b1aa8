"""Training data that stay on the host, which gathers batches ahead of the devices.

The batches are those of `TrainingSplit`, bit for bit.
"""

import concurrent.futures
import contextlib
import dataclasses
import functools
from collections.abc import Iterator
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from rnnmnist.config.schema import Config
from rnnmnist.data.batches import Batch, BatchTransform, TrainingSplit
from rnnmnist.data.examples import Examples
from rnnmnist.data.shuffling import epoch_order
from rnnmnist.data.views import View
from rnnmnist.runtime.ensemble import Stream, stream_key
from rnnmnist.runtime.machine import main_memory
from rnnmnist.runtime.mesh import (
    BATCH,
    SEEDS,
    device_put,
    local_sharding,
    over_seeds,
    replicated,
)

CHUNK_BYTES = 1 << 24  # of the batches that the host gathers at a time
MAX_MEMORY_FRACTION = 0.25  # of a device, for the training examples


@flax.struct.dataclass
class Chunk:
    """The batches of consecutive updates, on the devices.

    Arrays are [updates, ensemble, batch, ...], without `updates` in `networks`.
    """

    stored: jax.Array  # as `Examples.take` returns them
    labels: jax.Array  # int32
    lengths: jax.Array | None  # int32
    seed: jax.Array  # uint32 [ensemble]
    first: jax.Array  # int32 [], the number of updates before the first of the chunk
    transform: BatchTransform = flax.struct.field(pytree_node=False)

    @property
    def specs(self) -> "Chunk":
        """The partition of the chunk over a mesh, one spec for each array."""
        specs: Any = dict.fromkeys(("stored", "labels"), P(None, SEEDS, BATCH))
        specs |= {"seed": P(SEEDS), "first": P()}
        if self.lengths is not None:
            specs["lengths"] = specs["labels"]
        return dataclasses.replace(self, **specs)

    def networks(self, step: jax.Array) -> tuple[Any, ...]:
        """Returns what a batch depends on, with the ensemble axis."""
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
        return Batch(self.transform(stored, seed, step, shard), labels, lengths)


class HostSplit:
    """A training split on the host, from which batches are copied to the devices."""

    def __init__(
        self,
        examples: Examples,
        view: View | None,
        config: Config,
        mesh: Mesh,
        thread: concurrent.futures.Executor,
    ) -> None:
        """Takes a thread that gathers batches ahead of the devices."""
        self._examples = examples
        self._mesh = mesh
        self._transform = BatchTransform.create(config, view)
        self._seed = np.asarray(config.seeds, np.uint32)
        one = examples.take(np.arange(1)).nbytes * len(config.seeds)
        self._size = max(1, CHUNK_BYTES // (one * config.train.batch_size))
        self._thread = thread
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
        starts = (start, start + self._size)
        self._gathered = {
            step: self._gathered.get(step) or self._thread.submit(self._gather, step)
            for step in starts
        }
        return self._gathered[start].result()

    def _gather(self, start: int) -> Chunk:
        first = device_put(np.int32(start), replicated(self._mesh))
        seed = device_put(self._seed, over_seeds(self._mesh))
        indices = jax.device_get(
            _indices(
                # On this process's own device: other threads use the mesh.
                device_put(self._seed, local_sharding()),
                device_put(np.int32(start), local_sharding()),
                updates=self._size,
                batch_size=self._transform.batch_size,
                examples=len(self._examples.labels),
            )
        )
        sharding = NamedSharding(self._mesh, P(None, SEEDS, BATCH))

        def device_put_shards(values: Any) -> jax.Array:
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
            stored=device_put_shards(self._examples.take),
            labels=device_put_shards(self._examples.labels.__getitem__),
            lengths=None if lengths is None else device_put_shards(lengths.__getitem__),
            seed=seed,
            first=first,
            transform=self._transform,
        )


@functools.partial(jax.jit, static_argnames=("updates", "batch_size", "examples"))
def _indices(
    seeds: jax.Array, first: jax.Array, *, updates: int, batch_size: int, examples: int
) -> jax.Array:
    """Returns the examples of batches, int32 [updates, ensemble, batch]."""

    def one(seed: jax.Array, update: jax.Array) -> jax.Array:
        positions = update * batch_size + jnp.arange(batch_size)
        return epoch_order(stream_key(seed, Stream.ORDER), positions, examples)

    steps = first + jnp.arange(updates)
    return jax.vmap(lambda step: jax.vmap(one, (0, None))(seeds, step))(steps)


@contextlib.contextmanager
def open_training_split(
    examples: Examples, view: View | None, config: Config, mesh: Mesh
) -> Iterator[TrainingSplit | HostSplit]:
    """Copies a training split to the devices, or keeps it on the host.

    `execution.placement=auto` keeps it on the host if its copies on all devices of this
    process would take more than `MAX_MEMORY_FRACTION` of the memory. A split on the
    host has a thread, which ends with the context.
    """
    placement = config.execution.placement
    if placement == "auto":
        size = len(examples.labels) * examples.take(np.arange(1)).nbytes
        fits = size <= MAX_MEMORY_FRACTION * _device_memory(mesh)
        placement = "device" if fits else "host"
    if placement == "device":
        yield TrainingSplit.device_put(examples, view, config, mesh)
    else:
        with concurrent.futures.ThreadPoolExecutor(1) as thread:
            yield HostSplit(examples, view, config, mesh, thread)


def _device_memory(mesh: Mesh) -> float:
    """Returns the bytes of memory of a device; those of CPUs share the main memory."""
    stats = mesh.local_devices[0].memory_stats() or {}
    return stats.get("bytes_limit", main_memory() / len(mesh.local_devices))
