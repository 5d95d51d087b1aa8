"""Batches are functions of (seed, step) with every image once per epoch."""

import functools
import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from support import TASK, batches_of, mesh_of, random_examples, read_batch, task_of

from rnnmnist.config.resolving import fill_defaults
from rnnmnist.config.schema import Config, DataConfig, TrainConfig
from rnnmnist.config.tasks import Task
from rnnmnist.data.batches import Batch, BatchTransform, batch_indices
from rnnmnist.data.examples import Examples, Normalization
from rnnmnist.data.shuffling import epoch_order

ONE_HUNDRED = Examples(
    np.zeros((100, 28, 28), np.uint8), labels=np.arange(100, dtype=np.int32)
)
DISTORTIONS: dict[str, Any] = {"max_shift": 2, "max_rotation": 10.0}
DISTORTIONS |= {"elastic": 1.0, "flip": True}
# The number of examples is traced, so one program serves all sizes.
any_order = jax.jit(epoch_order)


def order(seed: int, positions: range | np.ndarray, examples: int) -> np.ndarray:
    """Returns the indices at some positions, padded to reuse one program."""
    padding = -len(positions) % 5000
    padded = np.pad(np.asarray(positions), (0, padding), "edge")
    found = any_order(jax.random.key(seed), padded, examples)
    return np.asarray(found)[: len(positions)]


def batches(
    examples: Examples,
    batch_size: int,
    seed: int = 0,
    task: Task = TASK,
    **distortions: Any,
) -> Callable[..., Batch]:
    """Returns the function that reads the batch of a step, or a shard of it."""
    given = Config(
        seed=seed,
        data=DataConfig(**distortions),
        train=TrainConfig(batch_size=batch_size, num_steps=1),
    )
    config = fill_defaults(given, task)
    source = batches_of(examples, config, mesh_of(1))
    return functools.partial(read_batch, source, BatchTransform.create(config, task))


@pytest.mark.parametrize("examples", [1, 2, 3, 97, 4096, 4097, 55_000])
def test_an_epoch_is_a_permutation(examples: int) -> None:
    for epoch in (0, 1, 7):
        positions = np.arange(examples) + epoch * examples
        found = order(3, positions, examples)
        np.testing.assert_array_equal(np.sort(found), np.arange(examples))


def test_every_epoch_has_every_image_once() -> None:
    """Also if epochs end within batches."""
    read = batches(ONE_HUNDRED, 24)
    steps = math.ceil(300 / 24)
    seen = np.concatenate([read(step).labels for step in range(steps)])
    epochs = seen[:300].reshape(3, 100)
    np.testing.assert_array_equal(np.sort(epochs), np.tile(np.arange(100), (3, 1)))
    assert not (epochs[0] == epochs[1]).all()


@pytest.mark.parametrize("generator", ["threefry2x32", "rbg"])
def test_batches_do_not_depend_on_the_generator_of_jax(generator: str) -> None:
    """With others than threefry2x32, the bits of vmapped keys differ."""
    seeds = jnp.arange(2, dtype=jnp.uint32)
    with jax.default_prng_impl(generator):
        # A new function, since the cache of jax ignores the generator.
        found = jax.jit(lambda first: batch_indices(seeds, first, 46, 16, 181))(0)
    for indices in np.asarray(found).swapaxes(0, 1).reshape(2, -1):
        epochs = indices[: 4 * 181].reshape(4, 181)
        np.testing.assert_array_equal(np.sort(epochs), np.tile(np.arange(181), (4, 1)))
    np.testing.assert_array_equal(found[0, 0, :4], [153, 46, 142, 10])


def test_the_order_of_the_published_results() -> None:
    """At the end of an epoch and the start of the next one."""
    expected = [419, 242, 568, 414, 537, 640, 953, 999, 623, 884]
    np.testing.assert_array_equal(order(0, range(995, 1005), 1000), expected)


def test_orders_pass_chi_square_tests() -> None:
    """Indices at a position, and differences of neighbours, are uniform over 20 bins.

    Chi-square with 19 degrees of freedom is below 43.8 with probability 0.999. The keys
    are fixed, so the test is deterministic.
    """
    size, runs = 500, 200
    keys = jax.vmap(jax.random.key)(np.arange(runs))
    draw = jax.jit(jax.vmap(epoch_order, (0, None, None)))
    orders = np.asarray(draw(keys, np.arange(size), size))
    differences = np.diff(orders, axis=1) % size
    for values in (orders[:, 0], orders[:, 250], orders[:, 499], differences.ravel()):
        counts = np.histogram(values, bins=20, range=(0, size))[0]
        expected = len(values) / 20
        assert ((counts - expected) ** 2 / expected).sum() < 43.8
    fixed = (orders == np.arange(size)).sum(axis=1)
    assert 0.6 < fixed.mean() < 1.4  # 1 on average in a uniform permutation


def test_a_batch_is_the_same_on_any_number_of_devices() -> None:
    shards = 8
    read = batches(random_examples(100), 24, **DISTORTIONS)
    whole = read(5)
    parts = [read(5, shard, shards) for shard in range(shards)]
    joined = jax.tree.map(lambda *leaves: np.concatenate(leaves), *parts)
    # Up to rounding: the interpolation is compiled for each size of shard.
    np.testing.assert_allclose(whole.inputs, joined.inputs, atol=1e-5)
    np.testing.assert_array_equal(whole.labels, joined.labels)


def test_labels_and_lengths_stay_with_their_sequences() -> None:
    """Of the sequences of a split, which are part of those that are stored."""
    generator = np.random.default_rng(0)
    stored = generator.normal(size=(90, 6, 2))
    indices = generator.permutation(90)[:40]
    labels, lengths = generator.integers(1, 7, (2, 40), np.int32)
    normalization = Normalization(np.array([1.0, 2.0]), np.array([0.5, 4.0]), "error")
    examples = Examples(stored, lengths, indices, normalization, labels=labels)
    batch = batches(examples, 24, task=task_of(6, 2, 7))(1)  # of two epochs
    assert batch.lengths is not None
    by_inputs = {}
    for index, label, length in zip(indices, labels, lengths, strict=True):
        expected = ((stored[index] - [1, 2]) / [0.5, 4]).astype(np.float32)
        expected[length:] = 0
        by_inputs[expected.tobytes()] = (label, length)
    arrays = (batch.inputs, batch.labels, batch.lengths)
    for inputs, label, length in zip(*arrays, strict=True):
        assert by_inputs[inputs.tobytes()] == (label, length)


def test_distortions_follow_seed_and_step() -> None:
    image = random_examples(1).stored
    examples = Examples(image.repeat(100, 0), labels=np.zeros(100, np.int32))
    drawn = {
        batches(examples, 24, seed, **DISTORTIONS)(step).inputs.tobytes()
        for seed in (0, 1)
        for step in (1, 2)
    }
    assert len(drawn) == 4
