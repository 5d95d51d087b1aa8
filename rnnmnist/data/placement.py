"""Where training examples stay, and how those of a chunk reach the devices.

A chunk is gathered on the devices from a copy of the examples, or, if that would take
too much memory, by a thread of the host. Both give the same bits.
"""

import contextlib
import functools
from collections.abc import Callable, Iterator
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from typing import NamedTuple

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, Sharding

from rnnmnist.config.resolving import RunConfig
from rnnmnist.data.batches import (
    BATCHES_SPEC,
    Batch,
    Chunk,
    batch_indices,
    gather_examples,
)
from rnnmnist.data.examples import Examples
from rnnmnist.runtime.jax_defaults import jax_defaults
from rnnmnist.runtime.machine import main_memory
from rnnmnist.runtime.mesh import (
    ensemble_sharding,
    local_sharding,
    put_global,
    replicated_sharding,
)

CHUNK_UPDATES = 100
CHUNK_BYTES = 1 << 24  # of a chunk; a single update can have more
MAX_MEMORY_FRACTION = 0.25  # of a device, for the training examples


class BatchSource(NamedTuple):
    """Divides the updates of a run into chunks."""

    gather: Callable[[int], Chunk]  # from the step of the first update of the chunk
    updates_per_chunk: int

    def chunks(self, step: int, target: int) -> Iterator[tuple[Chunk, int, int]]:
        """Yields the chunks of the updates that lead from a step to a later one.

        With each chunk come the positions in it of the first of these updates, and
        after the last of them.
        """
        while step < target:
            start = step - step % self.updates_per_chunk
            end = min(target, start + self.updates_per_chunk)
            yield self.gather(start), step - start, end - start
            step = end


@contextlib.contextmanager
def open_batches(
    examples: Examples, config: RunConfig, mesh: Mesh
) -> Iterator[BatchSource]:
    """Copies training examples to the devices, or keeps them on the host.

    `execution.placement=auto` keeps them on the host if their copies on all devices of
    this process would take more than `MAX_MEMORY_FRACTION` of the memory.
    """
    example_bytes = examples.take(np.arange(1)).nbytes
    updates = chunk_updates(example_bytes * config.num_seeds * config.train.batch_size)
    on_host = config.execution.placement == "host"
    if config.execution.placement == "auto":
        stats = mesh.local_devices[0].memory_stats() or {}
        # The devices of a CPU share its memory.
        shared_bytes = main_memory().total / len(mesh.local_devices)
        device_bytes = stats.get("bytes_limit", shared_bytes)
        on_host = example_bytes * len(examples) > MAX_MEMORY_FRACTION * device_bytes
    with ThreadPoolExecutor(1) as thread:  # not started if unused
        if on_host:
            gather = _host_gatherer(examples, config, mesh, updates, thread)
        else:
            gather = _device_gatherer(examples, config, mesh, updates)
        yield BatchSource(gather, updates)


def to_batch(examples: Examples, indices: np.ndarray, sharding: Sharding) -> Batch:
    """Copies examples with stored inputs to the devices.

    The leading axes of the arrays are those of the indices.
    """
    chosen = examples.select(indices)
    # Rows are gathered faster than images of [28, 28].
    inputs = examples.take(indices.ravel()).reshape(*indices.shape, -1)
    arrays = {
        "inputs": inputs,
        "labels": chosen.labels,
        "lengths": chosen.lengths,
        "weights": chosen.weights,
    }
    return Batch(**jax.tree.map(lambda array: put_global(array, sharding), arrays))


def chunk_updates(update_bytes: int) -> int:
    """Returns the number of updates in a chunk whose batches have these bytes."""
    return min(CHUNK_UPDATES, max(1, CHUNK_BYTES // update_bytes))


def _device_gatherer(
    examples: Examples, config: RunConfig, mesh: Mesh, updates: int
) -> Callable[[int], Chunk]:
    whole = replicated_sharding(mesh)
    split = to_batch(examples, np.arange(len(examples)), whole)
    seeds = put_global(np.asarray(config.seeds, np.uint32), ensemble_sharding(mesh))

    @functools.lru_cache(1)  # several events can fall into a chunk
    def gather(start: int) -> Chunk:
        step = put_global(np.int32(start), whole)
        batches = gather_examples(
            split,
            seeds,
            step,
            updates=updates,
            batch_size=config.train.batch_size,
            sharding=NamedSharding(mesh, BATCHES_SPEC),
        )
        return Chunk(batches=batches, seeds=seeds, start=step)

    return gather


def _host_gatherer(
    examples: Examples, config: RunConfig, mesh: Mesh, updates: int, thread: Executor
) -> Callable[[int], Chunk]:
    """Selects the examples of a chunk on the host, in a thread.

    The thread begins the next chunk while the devices use one.
    """
    seeds = np.asarray(config.seeds, np.uint32)
    # On this process's own device: other threads use the mesh.
    local_seeds = put_global(seeds, local_sharding())
    count = put_global(np.int32(len(examples)), local_sharding())
    choose = jax.jit(batch_indices, static_argnums=(2, 3))
    sharding = NamedSharding(mesh, BATCHES_SPEC)

    @jax_defaults()
    def gather(start: int) -> Chunk:
        step = put_global(np.int32(start), local_sharding())
        chosen = choose(local_seeds, step, updates, config.train.batch_size, count)
        return Chunk(
            to_batch(examples, jax.device_get(chosen), sharding),
            seeds=put_global(seeds, ensemble_sharding(mesh)),
            start=put_global(np.int32(start), replicated_sharding(mesh)),
        )

    @functools.lru_cache(2)  # the chunk in use and the next one
    def submit(start: int) -> Future[Chunk]:
        return thread.submit(gather, start)

    def gather_ahead(start: int) -> Chunk:
        chunk = submit(start)
        submit(start + updates)
        return chunk.result()

    return gather_ahead
