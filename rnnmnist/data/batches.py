"""The batches of a run, as pure functions of its seed and the step.

There is no iterator and no position to save. `step` is the number of finished updates.
Since updates are counted from 0, it is also the index of the next update. With batches
of B examples, update `step` reads the positions `step * B` to `step * B + B - 1` of a
stream of examples. The stream is one epoch after another: each has all N training
examples once, in an order of its own. `shuffling.epoch_order` maps positions of the
stream to examples.

Examples take two forms on their way to the loss:

1. `Examples` (`data/examples.py`): all examples of a split, as NumPy arrays.
2. `Batch`: examples on the devices. `to_batch` in `data/placement.py` converts
   `Examples` to a `Batch`: of the whole split, from which `gather_examples` selects the
   batches of a chunk on the devices, or of a chunk that the host has selected. A chunk
   has the batches of a fixed number of consecutive updates. In each update,
   `BatchTransform` replaces the stored inputs by the inputs of the network.

To give each example a second label:

1. Add a field to `Examples`, an array with one entry for each example or None.
2. Set the field where `Examples` are made: `load` in `data/datasets.py` for the
   embedded images, `_read_split` in `data/images.py` for other images, and `to_dataset`
   in `data/sequences/reading.py` for sequences.
3. Add a field to `Batch`, and set it in `to_batch`.
4. Read the field of the batch in `Objective.__call__` (`training/loss.py`). A
   validation and `train.metrics` see the first label only.

A label that does not follow from the stored data has to be read, too:

- of the embedded images, in `embedded_images` (`data/image_sets.py`), whose callers
  unpack pairs;
- of other images, where `data/images.py` stores them: in `FILES`, with a checksum in
  `data/checksums.tsv`, and in `_info`, `_split_generators` and `_generate_examples` of
  the builder, whose version is raised;
- of sequences, as an argument of `check_arrays` and a field of `Sequences`
  (`data/sequences/checking.py`), and in `data/sequences/reading.py` as a name in
  `ARRAYS`. Where there is such a label, the hash of `read_values` includes it, since a
  resume recognizes its data by the hash. For an argument of `rnnmnist.fit`, hand it on
  in `fitting.py`. For a column of a table, add its role to `COLUMNS` and to
  `_to_arrays` (`data/sequences/tables.py`), which would take it for a feature
  otherwise, and to the setting `data.columns` (`config/schema.py`).
"""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.sharding import NamedSharding

from rnnmnist.config.functions import Function
from rnnmnist.config.resolving import RunConfig
from rnnmnist.config.tasks import Task
from rnnmnist.data.augmentation import (
    ImageAugmentation,
    apply_augmentation,
    sample_transforms,
    transform_images,
)
from rnnmnist.data.examples import View
from rnnmnist.data.shuffling import epoch_order
from rnnmnist.runtime.mesh import BATCH, ENSEMBLE
from rnnmnist.runtime.random_streams import Stream, stream_key


class Batch(NamedTuple):
    """Examples on the devices: a batch, several batches, or a whole split.

    The leading axes of the arrays are [examples] for a split, [ensemble, updates,
    batch] for the batches of a chunk, and [batch] for what the network and its loss
    read.
    """

    # [..., values]: the uint8 pixels of an image, or the float32 values of a sequence.
    # `BatchTransform` replaces them by float32 [batch, time, features].
    inputs: jax.Array
    labels: jax.Array  # int32 [...]
    lengths: jax.Array | None  # int32 [...], in time steps; None: no padding
    weights: jax.Array | None  # float32 [...], of examples in the loss; None: all are 1
    keys: jax.Array | None = None  # [batch], for dropout, which `BatchTransform` sets


class Chunk(NamedTuple):
    """The batches of consecutive updates, on the devices."""

    batches: Batch  # with stored inputs, [ensemble, updates, batch, ...]
    seeds: jax.Array  # uint32 [ensemble]
    start: jax.Array  # int32 [], the number of finished updates before the first one


# How a mesh partitions the batches of a chunk, [ensemble, updates, batch, ...]: the
# ensemble over the mesh axis `ensemble`, and each batch over the mesh axis `batch`.
BATCHES_SPEC = jax.P(ENSEMBLE, None, BATCH)


class BatchTransform(NamedTuple):
    """Converts the stored inputs of a batch to the inputs of the network.

    It is a static argument of compiled programs, which compare its fields.
    """

    batch_size: int  # of all devices together
    shape: tuple[int, ...]  # of an example: rows and columns, or time and features
    augmentation: (
        ImageAugmentation  # limits of random transforms of images; by default, none
    )
    view: View
    augment: Function | None  # changes the inputs of each example
    needs_keys: bool  # whether the network draws random numbers

    @classmethod
    def create(cls, config: RunConfig, task: Task) -> "BatchTransform":
        """Returns the transform of a run's batches."""
        # The fields of `ImageAugmentation` are settings of the same names.
        limits = {
            name: getattr(config.data, name) for name in ImageAugmentation._fields
        }
        return cls(
            batch_size=config.train.batch_size,
            shape=task.image_shape or (task.time_steps, task.features),
            augmentation=ImageAugmentation(**limits),
            view=View(config.data.view, config.data.permutation),
            augment=config.data.augment,  # type: ignore[arg-type]
            needs_keys=config.model.dropout > 0 or config.model.network is not None,
        )

    def __call__(
        self,
        stored: Batch,
        seed: jax.Array,
        step: jax.Array | int,
        shard: jax.Array | int,
    ) -> Batch:
        """Returns one shard of a network's batch in update `step`.

        A batch is divided into consecutive shards of equal size, one for each device
        along the axis `batch` of the mesh.

        Args:
            stored: the examples of the shard, [shard, ...].
            seed: the seed of the network, uint32 [].
            step: the number of finished updates, int32 [].
            shard: the index of the shard, int32 [].
        """
        size = len(stored.labels)  # of the shard
        values = stored.inputs.reshape(size, *self.shape)
        if self.augmentation != ImageAugmentation():
            key = jax.random.fold_in(stream_key(seed, Stream.IMAGE_AUGMENTATION), step)
            # On an accelerator, a matrix product is less precise by default, and would
            # move pixels.
            with jax.default_matmul_precision("float32"):
                # Sampled for the whole batch, so that the transforms do not depend on
                # the number of devices.
                all_transforms = sample_transforms(
                    key, self.batch_size, self.augmentation
                )
                transforms = jax.tree.map(
                    lambda leaf: jax.lax.dynamic_slice_in_dim(leaf, shard * size, size),
                    all_transforms,
                )
                values = transform_images(values, transforms)
        inputs = self.view(values)  # also scales pixels to [0, 1]

        def keys_of(stream: Stream) -> jax.Array:
            # A key for each example, by its position in the whole batch, so that its
            # random numbers do not depend on the number of devices.
            key = jax.random.fold_in(stream_key(seed, stream), step)
            positions = shard * size + jnp.arange(size)
            return jax.vmap(jax.random.fold_in, (None, 0))(key, positions)

        if self.augment is not None:
            inputs = apply_augmentation(
                self.augment, keys_of(Stream.AUGMENTATION), inputs, stored.lengths
            )
        keys = keys_of(Stream.DROPOUT) if self.needs_keys else None
        return stored._replace(inputs=inputs, keys=keys)


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
        start: int32 [], the number of finished updates before the first of these.
        updates: the number of these updates.
        batch_size: the number of examples in a batch.
        num_examples: the number of training examples.

    Returns:
        Indices, int32 [ensemble, updates, batch].
    """

    def batch_of_update(seed: jax.Array, step: jax.Array) -> jax.Array:
        positions = step * batch_size + jnp.arange(batch_size)
        return epoch_order(stream_key(seed, Stream.ORDER), positions, num_examples)

    batches_of_member = jax.vmap(batch_of_update, (None, 0))
    batches_of_ensemble = jax.vmap(batches_of_member, (0, None))
    return batches_of_ensemble(seeds, start + jnp.arange(updates))


@functools.partial(jax.jit, static_argnames=("updates", "batch_size", "sharding"))
def gather_examples(
    split: Batch,
    seeds: jax.Array,
    start: jax.Array,
    *,
    updates: int,
    batch_size: int,
    sharding: NamedSharding,
) -> Batch:
    """Selects the batches of a chunk on the devices, [ensemble, updates, batch, ...].

    `split` has all training examples, and the result has the given sharding. The other
    arguments are those of `batch_indices`.
    """
    num_examples = len(split.labels)
    indices = batch_indices(seeds, start, updates, batch_size, num_examples)
    indices = jax.lax.with_sharding_constraint(indices, sharding)
    gathered = jax.tree.map(lambda array: array[indices], split)
    return jax.lax.with_sharding_constraint(gathered, sharding)
