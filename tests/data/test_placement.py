"""Chunks of batches have the same bits from the devices and from the host."""

import functools
import threading

import jax
import numpy as np
import pytest
from support import mesh_of

from rnnmnist.config.schema import Config
from rnnmnist.data import placement
from rnnmnist.data.examples import Examples, Normalization
from rnnmnist.data.placement import open_batches


def test_the_host_gathers_the_chunks_of_the_devices(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """In a thread that ends with the context, for sequences of several lengths."""
    monkeypatch.setattr(placement, "CHUNK_UPDATES", 3)
    generator = np.random.default_rng(0)
    lengths, labels = generator.integers(1, 7, (2, 20), np.int32)
    normalization = Normalization(np.zeros(2), np.ones(2), "error")
    stored = generator.normal(size=(20, 6, 2))
    examples = Examples(stored, lengths, None, normalization, labels=labels)
    found = []
    config = Config(num_seeds=2).replace({"train.batch_size": 8})
    copies = 4 * stored.nbytes // 2  # float32 on each device
    for memory in (4 * copies, 4 * copies - 1):  # of which they take a quarter
        monkeypatch.setattr(placement, "main_memory", functools.partial(int, memory))
        threads = threading.active_count()
        with open_batches(examples, config, mesh_of(4)) as source:
            assert source.on_host == (memory < 4 * copies)
            found.append(list(source.chunks(2, 8)))
        assert threading.active_count() == threads
    for (one, count), (other, same) in zip(*found, strict=True):
        assert count == same
        jax.tree.map(np.testing.assert_array_equal, one, other)
        assert one.batches.inputs.shape == (3, 2, 8, 12)
        shardings = one.batches.inputs.sharding, other.batches.inputs.sharding
        assert shardings[0].is_equivalent_to(shardings[1], 4)
    assert [(int(chunk.first), count) for chunk, count in found[0]] == [
        (0, 1),
        (3, 3),
        (6, 2),
    ]
