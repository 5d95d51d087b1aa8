"""The batches of a run, as pure functions of its seed and the step.

There is no iterator and no position to save. `step` is the number of finished updates.
Since updates are counted from 0, it is also the index of the next update. With batches
of B examples, update `step` reads the positions `step * B` to `step * B + B - 1` of a
stream of examples. The stream is one epoch after another: each has all N training
examples once, in an order of its own. `shuffling.epoch_order` maps positions of the
stream to examples.

Examples take three forms on their way to the loss:

1. `Examples` (`data/examples.py`): all examples of a split, as NumPy arrays.
2. `StoredExamples`: the examples on the devices, all of the split or those of a chunk.
   A chunk has the examples of a fixed number of consecutive updates. `gather_examples`
   selects them on the devices, or `data/placement.py` on the host.
3. `Batch`: what the network and its loss read. In each update, `BatchTransform`
   computes it from the stored examples.

To give examples a second label, add a field beside `labels` to all three, and set it
where they are made: `Examples` in `data/images.py` or `data/sequences/reading.py`,
`StoredExamples` in `data/placement.py`, `Batch` in `BatchTransform.__call__`. The loss
reads it in `Objective` (`training/loss.py`).
"""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.sharding import NamedSharding

from rnnmnist.config.resolving import RunConfig
from rnnmnist.config.tasks import Task
from rnnmnist.data.augmentation import Distortions, apply_warp, sample_warp
from rnnmnist.data.examples import View
from rnnmnist.data.shuffling import epoch_order
from rnnmnist.runtime.mesh import BATCH, OVER_SEEDS, REPLICATED, SEEDS, Specs
from rnnmnist.runtime.random_streams import Stream, stream_key


class StoredExamples(NamedTuple):
    """Examples as they are stored, with any leading axes."""

    values: jax.Array  # [..., n]: the uint8 pixels of an image, or a float32 sequence
    labels: jax.Array  # int32 [...]
    lengths: jax.Array | None  # int32 [...], in time steps; None: no padding


class Batch(NamedTuple):
    """The examples of a batch, as a network and its loss read them."""

    inputs: jax.Array  # float32 [batch, time, features]
    labels: jax.Array  # int32 [batch]
    lengths: jax.Array | None  # int32 [batch], in time steps; None: no padding


class Chunk(NamedTuple):
    """The examples of consecutive updates, on the devices."""

    examples: StoredExamples  # [updates, ensemble, batch, ...]
    seeds: jax.Array  # uint32 [ensemble]
    start: jax.Array  # int32 [], the step of the first of these updates

    def examples_at(self, step: jax.Array) -> StoredExamples:
        """Returns the examples of update `step`, [ensemble, batch, ...]."""
        return jax.tree.map(lambda array: array[step - self.start], self.examples)


# How the arrays of a chunk are partitioned over a mesh. Arrays of examples are
# [updates, ensemble, batch, ...]: their second axis is divided over the mesh axis
# `seeds`, and their third one over the mesh axis `batch`.
EXAMPLES_SPEC: Specs = jax.P(None, SEEDS, BATCH)
CHUNK_SPECS = Chunk(examples=EXAMPLES_SPEC, seeds=OVER_SEEDS, start=REPLICATED)


class BatchTransform(NamedTuple):
    """Computes batches from stored examples.

    It is a static argument of compiled programs, which compare its fields.
    """

    batch_size: int  # of all devices together
    shape: tuple[int, ...]  # of an example: rows and columns, or time and features
    distortions: Distortions  # limits of random distortions; by default, none
    view: View

    @classmethod
    def create(cls, config: RunConfig, task: Task) -> "BatchTransform":
        """Returns the transform of a run's batches."""
        # The fields of `Distortions` are settings of the same names in `config.data`.
        limits = {name: getattr(config.data, name) for name in Distortions._fields}
        return cls(
            batch_size=config.train.batch_size,
            shape=task.image_shape or (task.time_steps, task.features),
            distortions=Distortions(**limits),
            view=View(config.data.view, config.data.permutation),
        )

    def __call__(
        self,
        examples: StoredExamples,
        seed: jax.Array,
        step: jax.Array | int,
        shard: jax.Array | int,
    ) -> Batch:
        """Returns one shard of a network's batch in update `step`.

        A batch is divided into consecutive shards of equal size, one for each device
        along the axis `batch` of the mesh. `shard` is the index of this shard, and
        `examples` are its examples.
        """
        size = len(examples.labels)  # of the shard
        values = examples.values.reshape(size, *self.shape)
        if self.distortions != Distortions():
            key = jax.random.fold_in(stream_key(seed, Stream.DISTORTION), step)
            # On an accelerator, a matrix product is less precise by default, and would
            # move pixels.
            with jax.default_matmul_precision("float32"):
                # Sampled for the whole batch, so that the distortions do not depend on
                # the number of devices.
                whole_warp = sample_warp(key, self.batch_size, self.distortions)
                warp = jax.tree.map(
                    lambda leaf: jax.lax.dynamic_slice_in_dim(leaf, shard * size, size),
                    whole_warp,
                )
                values = apply_warp(values, warp)
        inputs = self.view(values)  # also scales pixels to [0, 1]
        return Batch(inputs=inputs, labels=examples.labels, lengths=examples.lengths)


def batch_indices(
    seeds: jax.Array,
    start: jax.Array,
    updates: int,
    batch_size: int,
    num_examples: jax.Array | int,
) -> jax.Array:
    """Returns which examples are in the batches of some consecutive updates.

    Args:
        seeds: uint32 [ensemble].
        start: int32 [], the step of the first of these updates.
        updates: the number of these updates.
        batch_size: the number of examples in a batch.
        num_examples: the number of training examples.

    Returns:
        Indices, int32 [updates, ensemble, batch].
    """

    def batch_of_network(step: jax.Array, seed: jax.Array) -> jax.Array:
        positions = step * batch_size + jnp.arange(batch_size)
        return epoch_order(stream_key(seed, Stream.ORDER), positions, num_examples)

    batches_of_update = jax.vmap(batch_of_network, (None, 0))
    batches_of_chunk = jax.vmap(batches_of_update, (0, None))
    return batches_of_chunk(start + jnp.arange(updates), seeds)


@functools.partial(jax.jit, static_argnames=("updates", "batch_size", "sharding"))
def gather_examples(
    examples: StoredExamples,
    seeds: jax.Array,
    start: jax.Array,
    *,
    updates: int,
    batch_size: int,
    sharding: NamedSharding,
) -> StoredExamples:
    """Selects the examples of a chunk, [updates, ensemble, batch, ...], on the devices.

    `examples` are all of the training split, and `sharding` is that of the result. The
    other arguments are those of `batch_indices`.
    """
    num_examples = len(examples.labels)
    indices = batch_indices(seeds, start, updates, batch_size, num_examples)
    indices = jax.lax.with_sharding_constraint(indices, sharding)
    gathered = jax.tree.map(lambda array: array[indices], examples)
    return jax.lax.with_sharding_constraint(gathered, sharding)
