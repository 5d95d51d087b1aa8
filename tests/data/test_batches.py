"""Batches depend only on seed and step. Each epoch contains every image once."""

import functools
import math
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
import pytest
from support import TASK, batches_of, mesh_of, random_examples, read_batch, task_of

from rnnmnist.config.resolving import fill_defaults
from rnnmnist.config.schema import Config, DataConfig, TrainConfig
from rnnmnist.config.tasks import Task
from rnnmnist.data.batches import Batch, BatchTransform
from rnnmnist.data.examples import Examples, Normalization
from rnnmnist.data.shuffling import epoch_order

ONE_HUNDRED = Examples(
    np.zeros((100, 28, 28), np.uint8), labels=np.arange(100, dtype=np.int32)
)
AUGMENTATION: dict[str, Any] = {"max_shift": 2, "max_rotation": 10.0}
AUGMENTATION |= {"elastic": 1.0, "flip": True}
# The number of examples is traced, so one program serves all sizes.
any_order = jax.jit(epoch_order)


def order(seed: int, positions: range | np.ndarray, examples: int) -> np.ndarray:
    """Returns the indices at `positions`, which are padded to reuse one program."""
    padding = -len(positions) % 5000
    padded = np.pad(np.asarray(positions), (0, padding), "edge")
    found = any_order(jax.random.key(seed), padded, examples)
    return np.asarray(found)[: len(positions)]


def batches(
    examples: Examples,
    batch_size: int,
    seed: int = 0,
    task: Task = TASK,
    **augmentation: Any,
) -> Callable[..., Batch]:
    """Returns a function that reads the batch of a step, or a shard of the batch."""
    given = Config(
        seed=seed,
        data=DataConfig(**augmentation),
        train=TrainConfig(batch_size=batch_size, num_steps=1),
    )
    config = fill_defaults(given, task)
    source = batches_of(examples, config, mesh_of(1))
    return functools.partial(read_batch, source, BatchTransform.create(config, task))


@pytest.mark.parametrize("examples", [1, 3, 4096, 4097, 55_000])
def test_an_epoch_is_a_permutation(examples: int) -> None:
    for epoch in (0, 1, 7):
        positions = np.arange(examples) + epoch * examples
        found = order(3, positions, examples)
        np.testing.assert_array_equal(np.sort(found), np.arange(examples))


def test_every_epoch_contains_every_image_once() -> None:
    """Batches cross the ends of epochs."""
    read = batches(ONE_HUNDRED, 24)
    steps = math.ceil(300 / 24)
    seen = np.concatenate([read(step).labels for step in range(steps)])
    epochs = seen[:300].reshape(3, 100)
    np.testing.assert_array_equal(np.sort(epochs), np.tile(np.arange(100), (3, 1)))
    assert not (epochs[0] == epochs[1]).all()


def test_the_order_of_examples_in_the_published_results_is_kept() -> None:
    """The positions are at the end of an epoch and the start of the next epoch."""
    expected = [419, 242, 568, 414, 537, 640, 953, 999, 623, 884]
    np.testing.assert_array_equal(order(0, range(995, 1005), 1000), expected)


def test_labels_and_lengths_stay_with_their_sequences() -> None:
    """The split contains only some of the stored sequences."""
    generator = np.random.default_rng(0)
    stored = generator.normal(size=(90, 6, 2))
    indices = generator.permutation(90)[:40]
    labels, lengths = generator.integers(1, 7, (2, 40), np.int32)
    normalization = Normalization(np.array([1.0, 2.0]), np.array([0.5, 4.0]), "error")
    examples = Examples(stored, lengths, indices, normalization, labels=labels)
    batch = batches(examples, 24, task=task_of(6, 2, 7))(1)  # a batch of two epochs
    assert batch.lengths is not None
    by_inputs = {}
    for index, label, length in zip(indices, labels, lengths, strict=True):
        expected = ((stored[index] - [1, 2]) / [0.5, 4]).astype(np.float32)
        expected[length:] = 0
        by_inputs[expected.tobytes()] = (label, length)
    arrays = (batch.inputs, batch.labels, batch.lengths)
    for inputs, label, length in zip(*arrays, strict=True):
        assert by_inputs[inputs.tobytes()] == (label, length)


def test_augmentation_depends_on_the_seed_and_the_step() -> None:
    image = random_examples(1).stored
    examples = Examples(image.repeat(100, 0), labels=np.zeros(100, np.int32))
    drawn = {
        batches(examples, 24, seed, **AUGMENTATION)(step).inputs.tobytes()
        for seed in (0, 1)
        for step in (1, 2)
    }
    assert len(drawn) == 4
