"""Values in training that are far from all others."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support import data_warnings

from rnnmnist.config.schema import DataConfig
from rnnmnist.data.sequences import moments
from rnnmnist.data.sequences.checking import check_arrays
from rnnmnist.data.sequences.reading import to_dataset

FILL = 9.969209968386869e36  # NetCDF's, of float32
SHAPE = 300, 40  # sequences, time steps
SIZE = 300 * 40
Draw = Callable[[np.random.Generator], np.ndarray]
# Features whose values are rare, large, equal or missing, but not far from all others.
VARIED: dict[str, Draw] = {
    "normal": lambda rng: rng.normal(size=SIZE),
    "densities": lambda rng: 1e21 * rng.lognormal(size=SIZE),
    "timestamps": lambda rng: 1.767e9 + rng.normal(0, 6000, SIZE),
    "rain": lambda rng: rng.exponential(size=SIZE) * (rng.random(SIZE) < 0.3),
    "heavy tails": lambda rng: rng.standard_t(2, SIZE),
    "gaps": lambda rng: np.where(rng.random(SIZE) < 0.8, np.nan, rng.random(SIZE)),
}
EVENTS: dict[str, Draw] = {
    "rare events": lambda rng: rng.random(SIZE) < 1e-3,
    "rounded": lambda rng: (offset := rng.normal(size=SIZE)) + 7 - offset,
}
EQUAL: dict[str, Draw] = {
    "event": lambda rng: np.arange(SIZE) == 7,
    "constant": lambda rng: np.full(SIZE, 1013.25),
    "missing": lambda rng: np.full(SIZE, np.nan),
}


def load(values: np.ndarray, **arrays: Any) -> list[str]:
    """Checks the values of labelled sequences, of which all are for training.

    Returns the warnings.
    """
    sequences = check_arrays(values, np.arange(len(values)) % 2, **arrays)
    with data_warnings() as messages:
        to_dataset(
            Path("mine"), sequences, DataConfig(missing="zero", validation=False)
        )
    return messages


@pytest.mark.parametrize("count", [0, 1, 1000])
@pytest.mark.parametrize("name", [*VARIED, *EVENTS, *EQUAL])
def test_a_feature_with_far_values_is_named(name: str, count: int) -> None:
    """One is enough. Most of the values that differ from the median must not be far."""
    generator = np.random.default_rng(0)
    values = (VARIED | EVENTS | EQUAL)[name](generator).astype(np.float64)
    chosen = generator.choice(np.flatnonzero(np.arange(SIZE) != 7), count, False)
    values[chosen] = generator.choice([-1, 1], count) * FILL
    warned = load(values.reshape(SHAPE), feature_names=[name])
    named = {0: {}, 1: VARIED | EVENTS, 1000: VARIED}[count]
    assert (f"{name} (" in "".join(warned)) == (name in named)


def test_clocks_counters_and_numbers_of_sequences_are_named() -> None:
    """Also with rounding errors and gaps, but not what has a value now and then."""
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
    assert message.startswith("clock, row, age, gaps changes by the same amount")


def test_a_feature_without_a_value_is_named() -> None:
    values = np.random.default_rng(0).normal(size=(*SHAPE, 2))
    values[..., 1] = np.nan
    (message,) = load(values, feature_names=["u", "v"])
    assert message.startswith("v has no value in training")


def test_a_sample_is_enough(monkeypatch: pytest.MonkeyPatch) -> None:
    """The far value itself is not in it; padding and time steps after it are not."""
    monkeypatch.setattr(moments, "SAMPLED_VALUES", 2 * 200)
    generator = np.random.default_rng(0)
    values = generator.normal(size=(*SHAPE, 2))
    lengths = generator.integers(1, 40, 300)
    values[np.arange(40) >= lengths[:, None]] = FILL
    assert load(values, lengths=lengths) == []
    lengths[101] = 40
    values[101] = values[102, 0]
    values[101, 39, 1:] = -FILL
    (message,) = load(values, lengths=lengths)
    assert message.endswith(": 1 (-9.97e+36)")
