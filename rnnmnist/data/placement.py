"""Places training examples in device or host memory, and supplies chunks of batches.

If the examples fit, each device holds a copy and gathers the chunks itself. Otherwise,
a host thread selects the examples of each chunk. Both placements give bit-identical
batches.
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
from rnnmnist.runtime.mesh import (
    ensemble_sharding,
    local_sharding,
    put_global,
    replicated_sharding,
)

CHUNK_UPDATES = 100
CHUNK_BYTES = 1 << 24  # exceeded only if a single update needs more
MAX_DEVICE_BYTES = 1 << 29  # of training examples on each device


class BatchSource(NamedTuple):
    """Supplies the batches of a run in chunks of consecutive updates."""

    gather: Callable[[int], Chunk]  # maps the index of its first update to a chunk
    updates_per_chunk: int

    def chunks(self, step: int, target: int) -> Iterator[tuple[Chunk, int, int]]:
        """Yields the chunks that cover the updates from `step` to `target`.

        Yields:
            A chunk, and the start and end (exclusive) of the updates within the chunk.
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
    """Opens a source of batches, with examples on the devices or on the host.

    If `execution.placement` is `auto`, examples stay on the host if a copy would take
    more than `MAX_DEVICE_BYTES`.
    """
    example_bytes = examples.take(np.arange(1)).nbytes
    num_updates = updates_for_chunk(
        example_bytes * config.num_seeds * config.train.batch_size
    )
    placement = config.execution.placement
    if placement == "auto":
        is_large = example_bytes * len(examples) > MAX_DEVICE_BYTES
        placement = "host" if is_large else "device"
    seeds = put_global(np.asarray(config.seeds, np.uint32), ensemble_sharding(mesh))
    with ThreadPoolExecutor(1) as thread:  # started on first use
        if placement == "host":
            read = _host_reader(examples, config, mesh, num_updates, thread)
        else:
            read = _device_reader(examples, config, mesh, num_updates, seeds)

        @functools.lru_cache(1)  # validating or saving can split a chunk into several
        def gather(start: int) -> Chunk:
            step = put_global(np.int32(start), replicated_sharding(mesh))
            return Chunk(read(start), seeds=seeds, start=step)

        yield BatchSource(gather, num_updates)


def to_batch(examples: Examples, indices: np.ndarray, sharding: Sharding) -> Batch:
    """Copies selected examples to the devices, as uint8 images or normalized sequences.

    Args:
        examples: the examples of a split.
        indices: int array of any shape, which becomes the leading shape of the batch.
        sharding: the sharding of the arrays.
    """
    selected = examples.select(indices)
    # Gathering flat rows is faster than gathering images [28, 28].
    inputs = examples.take(indices.ravel()).reshape(*indices.shape, -1)
    arrays = {
        "inputs": inputs,
        "labels": selected.labels,
        "lengths": selected.lengths,
        "weights": selected.weights,
    }
    return Batch(**jax.tree.map(lambda array: put_global(array, sharding), arrays))


def updates_for_chunk(update_bytes: int) -> int:
    """Returns the number of updates per chunk; `update_bytes` is for all members."""
    return min(CHUNK_UPDATES, max(1, CHUNK_BYTES // update_bytes))


def _device_reader(
    examples: Examples,
    config: RunConfig,
    mesh: Mesh,
    num_updates: int,
    seeds: jax.Array,
) -> Callable[[int], Batch]:
    replicated = replicated_sharding(mesh)
    split = to_batch(examples, np.arange(len(examples)), replicated)

    def read(start: int) -> Batch:
        return gather_examples(
            split,
            seeds,
            put_global(np.int32(start), replicated),
            num_updates=num_updates,
            batch_size=config.train.batch_size,
            sharding=NamedSharding(mesh, BATCHES_SPEC),
        )

    return read


def _host_reader(
    examples: Examples,
    config: RunConfig,
    mesh: Mesh,
    num_updates: int,
    thread: Executor,
) -> Callable[[int], Batch]:
    """Selects the examples of each chunk in a host thread.

    The thread prepares the next chunk while the devices train on the current one.
    """
    # Indices are computed on a local device, because other threads use the mesh.
    local = local_sharding()
    seeds = put_global(np.asarray(config.seeds, np.uint32), local)
    num_examples = put_global(np.int32(len(examples)), local)
    select_indices = jax.jit(batch_indices, static_argnums=(2, 3))
    sharding = NamedSharding(mesh, BATCHES_SPEC)

    @jax_defaults()
    def read(start: int) -> Batch:
        step = put_global(np.int32(start), local)
        indices = select_indices(
            seeds, step, num_updates, config.train.batch_size, num_examples
        )
        return to_batch(examples, jax.device_get(indices), sharding)

    @functools.lru_cache(2)  # the chunk in use and the next one
    def submit(start: int) -> Future[Batch]:
        return thread.submit(read, start)

    def read_and_prefetch(start: int) -> Batch:
        batches = submit(start)
        submit(start + num_updates)
        return batches.result()

    return read_and_prefetch
