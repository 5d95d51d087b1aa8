"""Distortions follow their settings and are a function of a key."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import ndimage

from rnnmnist.data import augmentation
from rnnmnist.data.augmentation import Distortions, Warp

COUNT = 400
apply_warp = jax.jit(augmentation.apply_warp)


def sample(seed: int = 0, **distortions: Any) -> Warp:
    key = jax.random.key(seed)
    return augmentation.sample_warp(key, COUNT, Distortions(**distortions))


def blobs(count: int) -> np.ndarray:
    """Returns smooth images, uint8 [count, 28, 28], with black borders."""
    generator = np.random.default_rng(0)
    noise = generator.random((count, 28, 28)) * (
        np.hypot(*np.mgrid[-14:14, -14:14]) < 9
    )
    smooth = ndimage.gaussian_filter(noise, (0, 1.5, 1.5))
    return (255 * smooth / smooth.max()).astype(np.uint8)


def test_a_shift_moves_whole_pixels_and_fills_with_black() -> None:
    images = np.random.default_rng(1).integers(1, 256, (COUNT, 28, 28), np.uint8)
    moves = sample(max_shift=3)
    results = np.asarray(apply_warp(jnp.asarray(images), moves)) * 255
    offsets = np.asarray(moves.offset).astype(int)
    assert {tuple(offset) for offset in offsets.tolist()} == {
        (row, column) for row in range(-3, 4) for column in range(-3, 4)
    }
    padded = np.pad(images, ((0, 0), (3, 3), (3, 3)))
    for image, result, (row, column) in zip(padded, results, offsets, strict=True):
        expected = image[3 + row : 31 + row, 3 + column : 31 + column]
        np.testing.assert_allclose(result, expected, atol=1e-2)


@pytest.mark.parametrize(
    ("distortions", "most"),
    [({"max_rotation": 20.0}, np.sin(np.deg2rad(20))), ({"max_shear": 0.3}, 0.3)],
    ids=["rotation", "shear"],
)
def test_angles_and_shears_fill_their_range_evenly(
    distortions: dict[str, float], most: float
) -> None:
    entries = np.asarray(sample(0, **distortions).matrix)[:, 1, 0]
    assert np.abs(entries).max() <= most + 1e-6
    counts = np.histogram(entries, bins=8, range=(-most, most))[0]
    expected = COUNT / 8
    assert ((counts - expected) ** 2 / expected).sum() < 26  # chi squared, 1 in 2,000


def test_a_rotation_turns_and_a_scale_scales_without_a_shear() -> None:
    turned = np.asarray(sample(max_rotation=30.0).matrix)
    np.testing.assert_allclose(np.linalg.det(turned), 1, atol=1e-6)
    product = turned @ turned.swapaxes(1, 2)
    np.testing.assert_allclose(product, np.tile(np.eye(2), (COUNT, 1, 1)), atol=1e-6)
    scaled = np.asarray(sample(max_scale=0.25).matrix)
    assert np.all(scaled[:, [0, 1], [1, 0]] == 0)
    factors = scaled[:, 0, 0]
    np.testing.assert_array_equal(factors, scaled[:, 1, 1])
    assert factors.min() >= 0.8 - 1e-6
    assert factors.max() <= 1.25 + 1e-6
    assert factors.max() - factors.min() > 0.4


def test_affine_maps_agree_with_scipy() -> None:
    images = blobs(COUNT)
    maps = sample(max_shift=2, max_rotation=15.0, max_scale=0.2, max_shear=0.2)
    results = np.asarray(apply_warp(jnp.asarray(images), maps))
    for image, result, matrix, offset in zip(
        images[:20], results, np.asarray(maps.matrix), maps.offset, strict=False
    ):
        start = 13.5 + np.asarray(offset) - matrix @ [13.5, 13.5]
        levels = image.astype(np.float32) / 255
        expected = ndimage.affine_transform(levels, matrix, start, order=1)
        np.testing.assert_allclose(result, expected, atol=1e-4)


def test_half_of_the_images_are_mirrored() -> None:
    images = blobs(COUNT)
    results = np.asarray(apply_warp(jnp.asarray(images), sample(flip=True))) * 255
    same = np.isclose(results, images, atol=1e-2).all((1, 2))
    mirrored = np.isclose(results, images[:, :, ::-1], atol=1e-2).all((1, 2))
    assert np.all(same ^ mirrored)
    assert abs(mirrored.sum() - COUNT / 2) < 4 * np.sqrt(COUNT) / 2


def test_elastic_fields_are_smooth_with_the_configured_displacement() -> None:
    field = sample(elastic=1.5)
    across = np.broadcast_to(np.arange(28, dtype=np.uint8)[None, None], (COUNT, 28, 28))
    displacements = []
    for ramp in (across, across.swapaxes(1, 2)):
        # On a ramp, a pixel's new value is the column, or row, of its source.
        sources = np.asarray(apply_warp(jnp.asarray(ramp), field)) * 255
        shifts = (sources - ramp)[:, 6:22, 6:22]  # with sources inside the image
        assert shifts.std(0) == pytest.approx(1.5, rel=0.25)
        assert shifts.std() == pytest.approx(1.5, rel=0.05)
        # The covariance over 4 pixels that a Gaussian of 4.05 pixels gives.
        covariance = 1.5**2 * np.exp(-((4 / 4.05 / 2) ** 2))
        for one in (shifts, shifts.swapaxes(1, 2)):
            found = (one[:, 4:] * one[:, :-4]).mean()
            assert found == pytest.approx(covariance, rel=0.08)
        displacements.append(shifts[:, 8, 8])
    down, across_too = displacements
    assert abs(np.corrcoef(down, across_too)[0, 1]) < 0.2


def test_distortions_are_independent() -> None:
    alone, together = sample(max_shift=2), sample(max_shift=2, max_rotation=9.0)
    np.testing.assert_array_equal(alone.offset, together.offset)
    assert np.any(np.asarray(sample(1, max_shift=2).offset) != alone.offset)
    maps = sample(
        max_rotation=60.0, max_shear=0.9, max_scale=0.9, elastic=1.0, flip=True
    )
    matrix = np.asarray(maps.matrix, float)
    area = np.linalg.det(matrix)  # the square of the factor, negative in a mirror
    matrix[area < 0, :, 1] *= -1
    matrix /= np.sqrt(np.abs(area))[:, None, None]
    angle = np.arctan2(matrix[:, 0, 1], matrix[:, 1, 1])
    back = np.stack(
        [[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]]
    ).transpose(2, 0, 1)
    slant = (back @ matrix)[:, 1, 0]
    assert slant.std() == pytest.approx(0.9 / np.sqrt(3), rel=0.1)
    noise = np.asarray(maps.noise)[:, :, 0, 0].T
    numbers = [angle, np.log(np.abs(area)), slant, np.sign(area), *noise]
    assert np.abs(np.corrcoef(numbers) - np.eye(6)).max() < 0.2
