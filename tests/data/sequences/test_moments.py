"""Warnings about suspicious features of the training sequences."""

from typing import Any

import numpy as np
from support import data_warnings

from rnnmnist.config.schema import Config, DataConfig
from rnnmnist.data.sequences.checking import check_arrays
from rnnmnist.data.sequences.reading import to_dataset

SHAPE = 300, 40  # sequences, time steps
SIZE = 300 * 40


def load(values: np.ndarray, **arrays: Any) -> list[str]:
    """Returns the warnings about labelled training sequences."""
    sequences = check_arrays(values, np.arange(len(values)) % 2, **arrays)
    with data_warnings() as messages:
        to_dataset(
            "mine", sequences, Config(data=DataConfig(missing="zero", validation=False))
        )
    return messages


def test_clocks_counters_and_sequence_numbers_are_named() -> None:
    """Rounding and gaps are tolerated. Features that are often missing are valid."""
    generator = np.random.default_rng(0)
    count, time_steps = SHAPE
    start = generator.normal(1.7e9, 1e7, (count, 1))
    noise = generator.normal(size=SHAPE)
    features = {
        "walk": noise.cumsum(axis=1),
        "rise": generator.exponential(size=SHAPE).cumsum(axis=1),
        "rare": np.where(np.arange(time_steps) % 2, np.nan, noise),
        "clock": start + 0.1 * np.arange(time_steps),
        "row": np.arange(SIZE).reshape(SHAPE),
        "age": np.broadcast_to(start, SHAPE),
        "gaps": np.where(generator.random(SHAPE) < 0.3, np.nan, np.arange(time_steps)),
    }
    values = np.stack(list(features.values()), axis=2)
    (message,) = load(values, feature_names=list(features))
    assert "by a constant amount" in message
    assert ": clock, row, age, gaps; exclude" in message


def test_a_feature_without_a_value_is_named() -> None:
    values = np.random.default_rng(0).normal(size=(*SHAPE, 2))
    values[..., 1] = np.nan
    (message,) = load(values, feature_names=["u", "v"])
    assert message.startswith(
        "features that have no values in the training sequences: v;"
    )
