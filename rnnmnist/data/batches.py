"""The batches of a run, as pure functions of its seed and the step.

No iterator position needs to be saved. `step` is the number of completed updates, and
therefore also the zero-based index of the next update. If the batch size is B, update
`step` uses positions `step * B` to `step * B + B - 1` of a stream of examples.
The stream concatenates epochs; each epoch contains all N training examples once, in a
new random order. `shuffling.epoch_order` maps stream positions to examples.

Examples are represented in two ways:

1. `Examples` (`data/examples.py`): all examples of a split, as NumPy arrays.
2. `Batch`: examples on the devices. `to_batch` (`data/placement.py`) copies either a
   whole split or one chunk from the host to the devices. A chunk contains the batches
   of a fixed number of consecutive updates. If the whole split is on the devices,
   `gather_examples` gathers each chunk from the split. In each update, `BatchTransform`
   converts the stored inputs to the inputs of the network.
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
    batch] for a chunk, and [batch] for the network and the loss.
    """

    # [..., values]: uint8 pixels of an image, or float32 values of a sequence, until
    # `BatchTransform` replaces them with float32 [batch, time, features].
    inputs: jax.Array
    labels: jax.Array  # int32 [...]
    lengths: jax.Array | None  # int32 [...], time steps; None if nothing is padded
    weights: jax.Array | None  # float32 [...], example weights in the loss; None: all 1
    keys: jax.Array | None = None  # [batch], for dropout; set by `BatchTransform`


class Chunk(NamedTuple):
    """The batches of consecutive updates, on the devices."""

    batches: Batch  # with stored inputs, [ensemble, updates, batch, ...]
    seeds: jax.Array  # uint32 [ensemble]
    start: jax.Array  # int32 [], the index of the first update


# Partitions the arrays of a chunk, [ensemble, updates, batch, ...], over the mesh axes.
BATCHES_SPEC = jax.P(ENSEMBLE, None, BATCH)


class BatchTransform(NamedTuple):
    """Converts the stored inputs of a batch to the inputs of the network.

    A `BatchTransform` is a static argument of compiled programs: transforms with equal
    fields share a program.
    """

    batch_size: int  # global, over all devices
    shape: tuple[int, ...]  # of an example: (rows, columns) or (time, features)
    augmentation: ImageAugmentation
    view: View
    augment: Function | None  # the custom augmentation
    needs_keys: bool  # whether the network can use dropout

    @classmethod
    def create(cls, config: RunConfig, task: Task) -> "BatchTransform":
        """Creates the transform from the settings of a run."""
        # `ImageAugmentation` has the same field names as the settings.
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
        batch: Batch,
        seed: jax.Array,
        step: jax.Array | int,
        shard: jax.Array | int,
    ) -> Batch:
        """Prepares one shard of an ensemble member's batch for update `step`.

        A batch is divided into consecutive shards of equal size, one for each device
        along the mesh axis `batch`.

        Args:
            batch: the examples of the shard, [size, ...].
            seed: the seed of the member, uint32 [].
            step: the number of completed updates, int32 [].
            shard: the index of the shard, int32 [].
        """
        size = len(batch.labels)  # of the shard
        values = batch.inputs.reshape(size, *self.shape)
        if self.augmentation != ImageAugmentation():
            key = jax.random.fold_in(stream_key(seed, Stream.IMAGE_AUGMENTATION), step)
            # By default, accelerators multiply matrices at reduced precision, which
            # would displace pixels.
            with jax.default_matmul_precision("float32"):
                # The transforms are sampled for the whole batch, so that they do not
                # depend on the number of devices. Unlike `example_keys`, a single key
                # is used; with one key per example, published runs would change.
                all_transforms = sample_transforms(
                    key, self.batch_size, self.augmentation
                )
                transforms = jax.tree.map(
                    lambda leaf: jax.lax.dynamic_slice_in_dim(leaf, shard * size, size),
                    all_transforms,
                )
                values = transform_images(values, transforms)
        inputs = self.view(values)  # also scales pixels to [0, 1]

        def example_keys(stream: Stream) -> jax.Array:
            # The key depends on the position in the whole batch, so that random numbers
            # do not depend on the number of devices.
            key = jax.random.fold_in(stream_key(seed, stream), step)
            positions = shard * size + jnp.arange(size)
            return jax.vmap(jax.random.fold_in, (None, 0))(key, positions)

        if self.augment is not None:
            inputs = apply_augmentation(
                self.augment,
                example_keys(Stream.CUSTOM_AUGMENTATION),
                inputs,
                batch.lengths,
            )
        keys = example_keys(Stream.DROPOUT) if self.needs_keys else None
        return batch._replace(inputs=inputs, keys=keys)


def batch_indices(
    seeds: jax.Array,
    start: jax.Array,
    num_updates: int,
    batch_size: int,
    num_examples: jax.Array | int,
) -> jax.Array:
    """Returns the indices of the examples in the batches of consecutive updates.

    Args:
        seeds: uint32 [ensemble].
        start: int32 [], the index of the first update.
        num_updates: the number of updates.
        batch_size: the number of examples per batch.
        num_examples: the number of training examples.

    Returns:
        Indices, int32 [ensemble, updates, batch].
    """

    def update_indices(seed: jax.Array, step: jax.Array) -> jax.Array:
        positions = step * batch_size + jnp.arange(batch_size)
        return epoch_order(stream_key(seed, Stream.SHUFFLE), positions, num_examples)

    member_indices = jax.vmap(update_indices, (None, 0))
    ensemble_indices = jax.vmap(member_indices, (0, None))
    return ensemble_indices(seeds, start + jnp.arange(num_updates))


@functools.partial(jax.jit, static_argnames=("num_updates", "batch_size", "sharding"))
def gather_examples(
    split: Batch,
    seeds: jax.Array,
    start: jax.Array,
    *,
    num_updates: int,
    batch_size: int,
    sharding: NamedSharding,
) -> Batch:
    """Gathers the batches of a chunk from a split on the devices.

    `split` contains all training examples, and `sharding` is the sharding of the
    result. `batch_indices` documents the other arguments.

    Returns:
        Examples, [ensemble, updates, batch, ...].
    """
    num_examples = len(split.labels)
    indices = batch_indices(seeds, start, num_updates, batch_size, num_examples)
    indices = jax.lax.with_sharding_constraint(indices, sharding)
    gathered = jax.tree.map(lambda array: array[indices], split)
    return jax.lax.with_sharding_constraint(gathered, sharding)
