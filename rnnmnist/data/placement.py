"""Where training examples stay, and how chunks of their batches reach the devices.

A chunk is gathered on the devices from a copy of the examples, or, if that would take
too much memory, by a thread of the host. Both give the same bits.
"""

import contextlib
import functools
from collections.abc import Callable, Iterator
from concurrent.futures import Executor, ThreadPoolExecutor
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, Sharding

from rnnmnist.config.resolving import RunConfig
from rnnmnist.data.batches import SHARDED, Batch, Chunk, batch_indices, gather_batches
from rnnmnist.data.examples import Examples
from rnnmnist.runtime.jax_defaults import jax_defaults
from rnnmnist.runtime.machine import main_memory
from rnnmnist.runtime.mesh import device_put, local_sharding, over_seeds, replicated

CHUNK_UPDATES = 100
CHUNK_BYTES = 1 << 24  # of a chunk; a single update can have more
MAX_MEMORY_FRACTION = 0.25  # of a device, for the training examples


class BatchSource(NamedTuple):
    """Divides the updates of a run into chunks of batches."""

    gather: Callable[[int], Chunk]  # from the number of updates before the chunk
    updates: int  # in a chunk
    on_host: bool  # where the examples stay

    def chunks(self, first: int, last: int) -> Iterator[tuple[Chunk, int]]:
        """Yields chunks, each with the number of updates to take from it."""
        while first < last:
            start = first // self.updates * self.updates
            end = min(last, start + self.updates)
            yield self.gather(start), end - first
            first = end


@contextlib.contextmanager
def open_batches(
    examples: Examples, config: RunConfig, mesh: Mesh
) -> Iterator[BatchSource]:
    """Copies training examples to the devices, or keeps them on the host.

    `execution.placement=auto` keeps them on the host if their copies on all devices of
    this process would take more than `MAX_MEMORY_FRACTION` of the memory.
    """
    size = examples.take(np.arange(1)).nbytes
    updates = chunk_updates(size * config.num_seeds * config.train.batch_size)
    on_host = config.execution.placement == "host"
    if config.execution.placement == "auto":
        stats = mesh.local_devices[0].memory_stats() or {}
        shared = main_memory().total / len(
            mesh.local_devices
        )  # by the devices of a CPU
        memory = stats.get("bytes_limit", shared)
        on_host = size * len(examples) > MAX_MEMORY_FRACTION * memory
    with ThreadPoolExecutor(1) as thread:  # not started if unused
        if on_host:
            gather = _host_gatherer(examples, config, mesh, updates, thread)
        else:
            gather = _device_gatherer(examples, config, mesh, updates)
        yield BatchSource(gather, updates, on_host)


def chunk_updates(update_bytes: int) -> int:
    """Returns the number of updates in a chunk whose batches have these bytes."""
    return min(CHUNK_UPDATES, max(1, CHUNK_BYTES // update_bytes))


def _device_gatherer(
    examples: Examples, config: RunConfig, mesh: Mesh, updates: int
) -> Callable[[int], Chunk]:
    """Copies examples to every device, which gathers its own shards of a chunk."""
    values = examples.take(slice(None))
    rows = values.reshape(len(values), -1)  # gathered faster than [28, 28]
    arrays: Any = jax.tree.map(
        lambda array: device_put(array, replicated(mesh)),
        Batch(rows, examples.labels, examples.lengths),  # type: ignore[arg-type]
    )
    seeds = device_put(np.asarray(config.seeds, np.uint32), over_seeds(mesh))

    @functools.lru_cache(1)  # several events can fall into a chunk
    def gather(start: int) -> Chunk:
        first = device_put(np.int32(start), replicated(mesh))
        batches = gather_batches(
            arrays,
            seeds,
            first,
            updates=updates,
            batch_size=config.train.batch_size,
            sharding=NamedSharding(mesh, SHARDED),
        )
        return Chunk(batches, seeds, first)

    return gather


def _host_gatherer(
    examples: Examples, config: RunConfig, mesh: Mesh, updates: int, thread: Executor
) -> Callable[[int], Chunk]:
    """Takes this process's shards of a chunk from examples on the host, in a thread.

    It begins the next chunk while the devices use one.
    """
    seeds = np.asarray(config.seeds, np.uint32)
    # On this process's own device: other threads use the mesh.
    local_seeds = device_put(seeds, local_sharding())
    count = device_put(np.int32(len(examples)), local_sharding())
    indices_of = jax.jit(batch_indices, static_argnums=(2, 3))
    sharding = NamedSharding(mesh, SHARDED)

    @jax_defaults()
    def gather(start: int) -> Chunk:
        first = device_put(np.int32(start), local_sharding())
        indices = jax.device_get(
            indices_of(local_seeds, first, updates, config.train.batch_size, count)
        )
        put = functools.partial(_put_shards, indices, sharding)
        batches = Batch(
            put(lambda at: examples.take(at.ravel()).reshape(*at.shape, -1)),
            put(examples.labels.__getitem__),
            None if examples.lengths is None else put(examples.lengths.__getitem__),
        )
        first = device_put(np.int32(start), replicated(mesh))
        return Chunk(batches, device_put(seeds, over_seeds(mesh)), first)

    submit = functools.lru_cache(2)(lambda start: thread.submit(gather, start))

    def gather_ahead(start: int) -> Chunk:
        gathered = submit(start)
        submit(start + updates)
        return gathered.result()

    return gather_ahead


def _put_shards(
    indices: np.ndarray, sharding: Sharding, take: Callable[[np.ndarray], np.ndarray]
) -> jax.Array:
    """Puts what `take` returns for indices on the devices, by shards."""

    def take_shard(index: Any) -> np.ndarray:
        return take(indices[index[: indices.ndim]])

    shape = indices.shape + take(np.zeros(1, int)).shape[1:]
    with jax.transfer_guard_host_to_device("allow"):
        return jax.make_array_from_callback(shape, sharding, take_shard)
