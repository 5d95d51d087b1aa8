"""The batches of a run: pure functions of (seed, step), gathered in chunks.

There is no iterator state. Example number *p* of a run is at position `p % examples`
of epoch `p // examples`, and the order of an epoch is a keyed bijection. The cost of a
batch is proportional to its size, batches continue across epoch boundaries, and every
epoch contains every example exactly once.
"""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.sharding import NamedSharding

from rnnmnist.config.resolving import RunConfig
from rnnmnist.config.tasks import Task
from rnnmnist.data.augmentation import Distortions, apply_warp, sample_warp
from rnnmnist.data.examples import View
from rnnmnist.runtime.mesh import BATCH, SEEDS
from rnnmnist.runtime.random_streams import Stream, stream_key

# The security proof asks for six rounds per bit of the size. For 55,000 images
# (16 bits), statistical tests of positions and neighbours find no bias after 48.
ROUNDS = 48
SHARDED = jax.P(None, SEEDS, BATCH)  # the partition of [updates, ensemble, batch, ...]


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
    view: View

    @classmethod
    def create(cls, config: RunConfig, task: Task) -> "BatchTransform":
        """Returns the transform of a run's batches."""
        limits = (getattr(config.data, name) for name in Distortions._fields)
        return cls(
            config.train.batch_size,
            task.image_shape or (task.time_steps, task.features),
            Distortions(*limits),
            View(config.data.view, config.data.permutation),
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
        return self.view(stored)


class Batch(NamedTuple):
    """The examples of one or more batches."""

    inputs: jax.Array  # rows [..., batch, values], which `BatchTransform` reads
    labels: jax.Array  # int32 [..., batch]
    lengths: jax.Array | None  # int32 [..., batch]; None: no padding


class Chunk(NamedTuple):
    """The batches of consecutive updates, on the devices."""

    batches: Batch  # [updates, ensemble, batch, ...]
    seed: jax.Array  # uint32 [ensemble]
    first: jax.Array  # int32 [], the number of updates before the first of the chunk

    def batch(self, step: jax.Array | int) -> Batch:
        """Returns the batch after `step` updates, [ensemble, batch, ...]."""
        return jax.tree.map(lambda array: array[step - self.first], self.batches)


# The partition of a chunk over a mesh, one spec for each field.
CHUNK_SPECS: Any = Chunk(SHARDED, jax.P(SEEDS), jax.P())  # type: ignore[arg-type]


@functools.partial(jax.jit, static_argnames=("updates", "batch_size", "sharding"))
def gather_batches(
    examples: Batch,
    seeds: jax.Array,
    first: jax.Array,
    *,
    updates: int,
    batch_size: int,
    sharding: NamedSharding,
) -> Batch:
    """Gathers the batches of a chunk on the devices from all examples."""
    indices = batch_indices(seeds, first, updates, batch_size, len(examples.labels))
    indices = jax.lax.with_sharding_constraint(indices, sharding)
    batches = jax.tree.map(lambda array: array[indices], examples)
    return jax.lax.with_sharding_constraint(batches, sharding)


def batch_indices(
    seeds: jax.Array, first: jax.Array, updates: int, batch_size: int, examples: Any
) -> jax.Array:
    """Returns the examples of batches, int32 [updates, ensemble, batch]."""

    def of_batch(seed: jax.Array, update: jax.Array) -> jax.Array:
        positions = update * batch_size + jnp.arange(batch_size)
        return epoch_order(stream_key(seed, Stream.ORDER), positions, examples)

    of_ensemble = jax.vmap(of_batch, (0, None))
    return jax.vmap(of_ensemble, (None, 0))(seeds, first + jnp.arange(updates))
