"""The batches of a run: pure functions of (seed, step), gathered in chunks.

There is no iterator state. Example number *p* of a run is at position `p % examples`
of epoch `p // examples`, and the order of an epoch is a keyed bijection. The cost of a
batch is proportional to its size, batches continue across epoch boundaries, and every
epoch contains every example exactly once.

A chunk is gathered on the devices from a copy of the examples, or, if that would take
too much memory, by a thread of the host. Both give the same bits.
"""

import concurrent.futures
import contextlib
import dataclasses
import functools
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from rnnmnist.config.schema import Config
from rnnmnist.config.tasks import Task
from rnnmnist.data.augmentation import Distortions, apply_warp, sample_warp
from rnnmnist.data.examples import Examples, View
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

# The security proof asks for six rounds per bit of the size. For 55,000 images
# (16 bits), statistical tests of positions and neighbours find no bias after 48.
ROUNDS = 48
CHUNK_UPDATES = 100
CHUNK_BYTES = 1 << 24  # of a chunk; a single update can have more
MAX_MEMORY_FRACTION = 0.25  # of a device, for the training examples
SHARDED = P(None, SEEDS, BATCH)  # the partition of [updates, ensemble, batch, ...]


def epoch_order(key: jax.Array, positions: jax.Array, examples: Any) -> jax.Array:
    """Returns the index of the example at each position of consecutive epochs.

    The positions, int32 [n], are ascending and within at most two epochs of at least n
    `examples`, an int or int32 []. Those of one epoch give every index exactly once.

    Implements the swap-or-not shuffle: in each round, an index and its partner
    `k - index` are swapped or not, depending on a hash of the larger of the two. Each
    round is a bijection for any round key and any number of examples.

    References:
        Hoang, Morris, Rogaway, "An Enciphering Scheme Based on a Card Shuffle",
        CRYPTO 2012. Ethereum shuffles its validators in the same way.
    """
    epochs = positions // examples
    keys = jax.vmap(jax.random.fold_in, (None, 0))(key, epochs[0] + jnp.arange(2))
    bits = jax.vmap(lambda key: jax.random.bits(key, (ROUNDS, 2)))(keys)
    later = epochs > epochs[0]  # a batch is within two epochs
    bits = jnp.where(later, bits[1, ..., None], bits[0, ..., None])  # [rounds, 2, n]
    size = jnp.uint32(examples)
    round_keys = bits[:, 0] % size, bits[:, 1]

    def swap_or_not(
        index: jax.Array, keys: tuple[jax.Array, jax.Array]
    ) -> tuple[jax.Array, None]:
        partner = keys[0] - index
        partner = jnp.where(index > keys[0], partner + size, partner)  # modulo size
        swap = _hash(jnp.maximum(index, partner) ^ keys[1]) & 1
        return jnp.where(swap == 1, partner, index), None

    index = (positions % examples).astype(jnp.uint32)
    index, _ = jax.lax.scan(swap_or_not, index, round_keys)
    return index.astype(jnp.int32)


def _hash(bits: jax.Array) -> jax.Array:
    """Mixes 32 bits with C. Wellons' `lowbias32`."""
    bits = (bits ^ (bits >> 16)) * jnp.uint32(0x7FEB352D)
    bits = (bits ^ (bits >> 15)) * jnp.uint32(0x846CA68B)
    return bits ^ (bits >> 16)


class BatchTransform(NamedTuple):
    """Turns stored examples into inputs; static in compiled programs."""

    batch_size: int
    shape: tuple[int, ...]  # of an example, as `Examples.take` returns it
    distortions: Distortions
    view: View | None  # of images; None for sequences

    @classmethod
    def create(cls, config: Config, task: Task) -> "BatchTransform":
        """Returns the transform of a run's batches."""
        limits = (getattr(config.data, name) for name in Distortions._fields)
        return cls(
            config.train.batch_size,
            task.image_shape or (task.time_steps, task.features),
            Distortions(*limits),
            View.of(config.data, task),
        )

    def __call__(
        self,
        stored: jax.Array,
        seed: jax.Array,
        step: jax.Array | int,
        shard: jax.Array | int,
    ) -> jax.Array:
        """Returns the inputs of a shard of a batch, float32 [n, time, features].

        The examples are stored as rows [n, values].
        """
        size = len(stored)
        stored = stored.reshape(size, *self.shape)
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


class Chunk(NamedTuple):
    """The batches of consecutive updates, on the devices.

    `stored`, `labels` and `lengths` are [updates, ensemble, batch, ...].
    """

    stored: jax.Array  # as `Examples.take` returns them, each as one row of values
    labels: jax.Array  # int32
    lengths: jax.Array | None  # int32; None: no padding
    seed: jax.Array  # uint32 [ensemble]
    first: jax.Array  # int32 [], the number of updates before the first of the chunk
    class_weights: jax.Array | None = None  # float32 [classes], of the loss; None: 1

    @property
    def specs(self) -> "Chunk":
        """The partition of the chunk over a mesh, one spec for each array."""
        lengths: Any = None if self.lengths is None else SHARDED
        weights: Any = None if self.class_weights is None else P()
        specs: Any = (SHARDED, SHARDED, lengths, P(SEEDS), P(), weights)
        return Chunk(*specs)

    def networks(self, step: jax.Array) -> Any:
        """Returns what the batches after `step` updates depend on, by network."""
        arrays = (self.stored, self.labels, self.lengths)
        return self.seed, jax.tree.map(lambda array: array[step - self.first], arrays)


@dataclasses.dataclass(frozen=True)
class BatchSource:
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
    examples: Examples,
    config: Config,
    mesh: Mesh,
    class_weights: Sequence[float] | None = None,
) -> Iterator[BatchSource]:
    """Copies training examples to the devices, or keeps them on the host.

    `execution.placement=auto` keeps them on the host if their copies on all devices of
    this process would take more than `MAX_MEMORY_FRACTION` of the memory. Then a thread
    gathers each chunk while the devices compute with the one before; it ends with the
    context.
    """
    one = examples.take(np.arange(1))
    updates = chunk_updates(one.nbytes * config.num_seeds * config.train.batch_size)
    on_host = config.execution.placement == "host"
    if config.execution.placement == "auto":
        stats = mesh.local_devices[0].memory_stats() or {}
        shared = main_memory() / len(mesh.local_devices)  # by the devices of a CPU
        memory = stats.get("bytes_limit", shared)
        on_host = one.nbytes * len(examples) > MAX_MEMORY_FRACTION * memory
    gatherer = _gatherer_of_host if on_host else _gatherer_of_devices
    unweighted = gatherer(examples, config, mesh, updates)
    weights: jax.Array | None = None
    if class_weights is not None:
        weights = device_put(np.array(class_weights, np.float32), replicated(mesh))

    def gather(start: int) -> Chunk:
        return unweighted(start)._replace(class_weights=weights)

    if on_host:
        with concurrent.futures.ThreadPoolExecutor(1) as thread:
            yield BatchSource(_ahead(gather, updates, thread), updates, on_host)
    else:
        # Several events can fall into a chunk.
        yield BatchSource(functools.lru_cache(1)(gather), updates, on_host)


def chunk_updates(update_bytes: int) -> int:
    """Returns the number of updates in a chunk whose batches have these bytes."""
    return min(CHUNK_UPDATES, max(1, CHUNK_BYTES // update_bytes))


def _ahead(
    gather: Callable[[int], Chunk],
    updates: int,
    thread: concurrent.futures.Executor,
) -> Callable[[int], Chunk]:
    """Gathers in a thread, which begins the next chunk while one is used."""
    gathered: dict[int, concurrent.futures.Future[Chunk]] = {}

    def chunk(start: int) -> Chunk:
        nonlocal gathered
        gathered = {
            step: gathered.get(step) or thread.submit(gather, step)
            for step in (start, start + updates)
        }
        return gathered[start].result()

    return chunk


def _gatherer_of_devices(
    examples: Examples, config: Config, mesh: Mesh, updates: int
) -> Callable[[int], Chunk]:
    """Copies examples to every device, which gathers its own shards of a chunk."""
    arrays = jax.tree.map(
        lambda array: device_put(array, replicated(mesh)),
        (_rows(examples, slice(None)), examples.labels, examples.lengths),
    )
    seed = device_put(np.asarray(config.seeds, np.uint32), over_seeds(mesh))

    def gather(start: int) -> Chunk:
        first = device_put(np.int32(start), replicated(mesh))
        stored, labels, lengths = gather_batches(
            arrays,
            seed,
            first,
            updates=updates,
            batch_size=config.train.batch_size,
            sharding=NamedSharding(mesh, SHARDED),
        )
        return Chunk(stored, labels, lengths, seed, first)

    return gather


@functools.partial(jax.jit, static_argnames=("updates", "batch_size", "sharding"))
def gather_batches(
    arrays: Any,
    seeds: jax.Array,
    first: jax.Array,
    *,
    updates: int,
    batch_size: int,
    sharding: NamedSharding,
) -> Any:
    """Gathers batches on the devices, with the arrays of `Chunk` before `seed`."""
    indices = _indices(seeds, first, updates, batch_size, len(arrays[0]))
    indices = jax.lax.with_sharding_constraint(indices, sharding)
    return jax.tree.map(
        lambda array: jax.lax.with_sharding_constraint(array[indices], sharding), arrays
    )


def _gatherer_of_host(
    examples: Examples, config: Config, mesh: Mesh, updates: int
) -> Callable[[int], Chunk]:
    """Takes the shards of a chunk from examples on the host."""
    batch_size = config.train.batch_size
    seeds = np.asarray(config.seeds, np.uint32)
    # On this process's own device: other threads use the mesh.
    local_seeds = device_put(seeds, local_sharding())
    count = device_put(np.int32(len(examples)), local_sharding())
    indices_of = jax.jit(_indices, static_argnums=(2, 3))

    def gather(start: int) -> Chunk:
        local_first = device_put(np.int32(start), local_sharding())
        indices = jax.device_get(
            indices_of(local_seeds, local_first, updates, batch_size, count)
        )

        def put(values: Callable[[np.ndarray], np.ndarray]) -> jax.Array:
            def shard(index: Any) -> np.ndarray:
                own = indices[index[:3]]
                return values(own.ravel()).reshape(*own.shape, *shape)

            shape = values(np.arange(1)).shape[1:]
            with jax.transfer_guard_host_to_device("allow"):
                return jax.make_array_from_callback(
                    (*indices.shape, *shape), NamedSharding(mesh, SHARDED), shard
                )

        lengths = examples.lengths
        return Chunk(
            stored=put(functools.partial(_rows, examples)),
            labels=put(examples.labels.__getitem__),
            lengths=None if lengths is None else put(lengths.__getitem__),
            seed=device_put(seeds, over_seeds(mesh)),
            first=device_put(np.int32(start), replicated(mesh)),
        )

    return gather


def _rows(examples: Examples, positions: slice | np.ndarray) -> np.ndarray:
    """Takes examples as rows [n, values], which are gathered faster than [28, 28]."""
    values = examples.take(positions)
    return values.reshape(len(values), -1)


def _indices(
    seeds: jax.Array, first: jax.Array, updates: int, batch_size: int, examples: Any
) -> jax.Array:
    """Returns the examples of batches, int32 [updates, ensemble, batch]."""

    def one(seed: jax.Array, update: jax.Array) -> jax.Array:
        positions = update * batch_size + jnp.arange(batch_size)
        return epoch_order(stream_key(seed, Stream.ORDER), positions, examples)

    steps = first + jnp.arange(updates)
    return jax.vmap(lambda step: jax.vmap(one, (0, None))(seeds, step))(steps)
