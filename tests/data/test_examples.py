"""The inputs of networks: views of images, and normalized sequences."""

import dataclasses
import hashlib
import struct
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from support import (
    inputs_of,
    run_config,
)

from rnnmnist.data.examples import (
    Examples,
    Normalization,
    View,
    padding_mask,
    permutation,
    permutation_sha256,
)
from rnnmnist.errors import UserError
from rnnmnist.runtime.jax_defaults import double_precision

# Hashes of pixel orders of MNIST; a change would make trained networks useless.
BIT_REVERSAL = "603ce0307a3e869ba1d4f56adbb046417267d7b6b8a6075328679e2f00979a80"
RANDOM = "d3fd1bb9662071eba85754c13a6997c1380c4d9254f7bef467276654217bcca8"


@pytest.mark.parametrize(
    ("view", "expected"),
    [
        (View("rows"), [[0, 1, 2], [3, 4, 5]]),
        (View("columns"), [[0, 3], [1, 4], [2, 5]]),
        (View("pixels"), [[0], [1], [2], [3], [4], [5]]),
        (View("permuted", "bit_reversal"), [[0], [4], [2], [1], [5], [3]]),
    ],
)
def test_a_view_reads_pixels_in_its_order(
    view: View, expected: list[list[int]]
) -> None:
    pixels = np.arange(6, dtype=np.uint8).reshape(1, 2, 3)
    levels = inputs_of(pixels)
    read = jax.jit(lambda images: view(images))
    for images in (pixels, levels):
        found = read(images)
        assert found.dtype == jnp.float32
        # Programs differ in the last bit of a division by 255.
        np.testing.assert_allclose(found[0], np.array(expected) / 255, rtol=1.2e-7)


def test_a_permutation_needs_the_permuted_view() -> None:
    settings = {"data.view": "pixels", "data.permutation": "random:1"}
    with pytest.raises(UserError, match=r"^data\.permutation: .*permuted"):
        run_config(settings)


@pytest.mark.parametrize(
    ("name", "sha256"), [("bit_reversal", BIT_REVERSAL), ("random:0", RANDOM)]
)
def test_a_permutation_is_the_same_on_every_machine(name: str, sha256: str) -> None:
    indices = struct.pack("<784i", *permutation(name, 784).tolist())
    assert hashlib.sha256(indices).hexdigest() == sha256
    assert permutation_sha256(name, 784) == sha256


def test_a_selection_keeps_all_fields_of_its_examples() -> None:
    """This also holds for the fields of subclasses."""

    @dataclasses.dataclass(frozen=True, eq=False, kw_only=True)
    class Ranked(Examples):
        ranks: np.ndarray

    order = np.arange(6, dtype=np.int32)
    names = "labels", "lengths", "digests", "weights", "ranks"
    fields: dict[str, Any] = dict.fromkeys(names, order)
    examples = Ranked(order[:, None], groups=order[::-1] // 2, **fields)
    for selected in (examples.select(order[::-2]), examples.sort_by_group()):
        for position, label in enumerate(selected.labels):
            assert selected.raw(position) == label
            assert selected.name(position) == str(label)
        for name in names:
            np.testing.assert_array_equal(getattr(selected, name), selected.labels)
        np.testing.assert_array_equal(selected.groups, (5 - selected.labels) // 2)


@pytest.mark.parametrize(
    ("missing", "expected"),
    [("forward_fill", [0, 3, 3, -1, -1, 0]), ("zero", [0, 3, 0, -1, 0, 0])],
)
def test_a_missing_value_is_filled(missing: str, expected: list[float]) -> None:
    """The previous value or the mean replaces it. The last time step is padding."""
    normalization = Normalization(np.array([5.0]), np.array([2.0]), missing)
    values = np.array([np.nan, 11, np.nan, 3, np.nan, 7]).reshape(1, 6, 1)
    found = normalization(values, np.array([5]))
    np.testing.assert_array_equal(found.ravel(), expected)


@pytest.mark.parametrize("missing", ["error", "forward_fill", "zero"])
def test_compiled_programs_and_the_host_normalize_equally(missing: str) -> None:
    """Results are bitwise equal, even for large means and any padding."""
    mean, std = np.array([1e6 + 0.3, 1.767e9, -3.0]), np.array([1.0, 6e6, 0.1])
    normalization = Normalization(mean, std, missing)
    generator = np.random.default_rng(0)
    values = generator.normal(mean, std, (50, 9, 3)).astype(np.float32)
    lengths = generator.integers(1, 10, 50, np.int32)
    if missing != "error":
        values[generator.random(values.shape) < 0.3] = np.nan
    padding = padding_mask(9, lengths)
    values[padding] = generator.choice([np.nan, np.inf, 1e30], (padding.sum(), 3))

    @jax.jit
    def normalize(values: jax.Array, lengths: jax.Array) -> jax.Array:
        with double_precision():
            standardized = normalization.standardize(values)
        return normalization.fill(standardized, lengths)

    found = np.asarray(normalize(values, lengths))
    assert found.dtype == np.float32
    assert np.isfinite(found).all()
    np.testing.assert_array_equal(found, normalization(values, lengths))
