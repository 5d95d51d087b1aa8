"""Random transforms of images depend only on their settings and a key."""

import itertools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import ndimage

from rnnmnist.data import augmentation
from rnnmnist.data.augmentation import ImageAugmentation, Transforms

COUNT = 400
IMAGES = np.random.default_rng(0).integers(0, 256, (COUNT, 28, 28), np.uint8)
transform_images = jax.jit(augmentation.transform_images)


def sample(seed: int = 0, **limits: Any) -> Transforms:
    key = jax.random.key(seed)
    return augmentation.sample_transforms(key, COUNT, ImageAugmentation(**limits))


def test_shifts_are_whole_pixels() -> None:
    offsets = np.asarray(sample(max_shift=3).offset)
    shifts = range(-3, 4)
    assert {*map(tuple, offsets.tolist())} == {*itertools.product(shifts, shifts)}


@pytest.mark.parametrize(
    ("limits", "most"),
    [({"max_rotation": 20.0}, np.sin(np.deg2rad(20))), ({"max_shear": 0.3}, 0.3)],
    ids=["rotation", "shear"],
)
def test_angles_and_shears_are_uniform_in_their_range(
    limits: dict[str, float], most: float
) -> None:
    entries = np.asarray(sample(0, **limits).matrix)[:, 1, 0]
    assert np.abs(entries).max() <= most + 1e-6
    counts = np.histogram(entries, bins=8, range=(-most, most))[0]
    expected = COUNT / 8
    assert ((counts - expected) ** 2 / expected).sum() < 26  # chi squared, 1 in 2,000


def test_rotations_are_orthogonal_and_scalings_are_isotropic() -> None:
    turned = np.asarray(sample(max_rotation=30.0).matrix)
    np.testing.assert_allclose(np.linalg.det(turned), 1, atol=1e-6)
    product = turned @ turned.swapaxes(1, 2)
    np.testing.assert_allclose(product, np.tile(np.eye(2), (COUNT, 1, 1)), atol=1e-6)
    scaled = np.asarray(sample(max_scale=0.25).matrix)
    factors = scaled[:, 0, 0]
    np.testing.assert_array_equal(scaled, factors[:, None, None] * np.eye(2))
    assert 0.8 - 1e-6 <= factors.min() < 0.85
    assert 1.2 < factors.max() <= 1.25 + 1e-6


def test_affine_transforms_agree_with_scipy() -> None:
    """Pixels outside of an image are black."""
    transforms = sample(max_shift=2, max_rotation=15.0, max_scale=0.2, max_shear=0.2)
    results = np.asarray(transform_images(IMAGES, transforms))
    for image, result, matrix, offset in zip(
        IMAGES[:20],
        results,
        np.asarray(transforms.matrix),
        transforms.offset,
        strict=False,
    ):
        start = 13.5 + np.asarray(offset) - matrix @ [13.5, 13.5]
        levels = image.astype(np.float32) / 255
        expected = ndimage.affine_transform(
            levels, matrix, start, order=1, mode="grid-constant"
        )
        np.testing.assert_allclose(result, expected, atol=1e-4)


def test_half_of_the_images_are_mirrored() -> None:
    results = np.asarray(transform_images(IMAGES, sample(flip=True))) * 255
    same = np.isclose(results, IMAGES, atol=1e-2).all((1, 2))
    mirrored = np.isclose(results, IMAGES[:, :, ::-1], atol=1e-2).all((1, 2))
    assert np.all(same ^ mirrored)
    assert abs(mirrored.sum() - COUNT / 2) < 4 * np.sqrt(COUNT) / 2


def test_elastic_transforms_are_smooth_with_the_configured_displacement() -> None:
    field = sample(elastic=1.5)
    across = np.broadcast_to(np.arange(28, dtype=np.uint8)[None, None], (COUNT, 28, 28))
    for ramp in (across, across.swapaxes(1, 2)):
        # On a ramp, a pixel's new value is the column, or row, of its source.
        sources = np.asarray(transform_images(jnp.asarray(ramp), field)) * 255
        shifts = (sources - ramp)[:, 6:22, 6:22]  # with sources inside the image
        assert shifts.std() == pytest.approx(1.5, rel=0.05)
        # The covariance at a distance of 4 pixels for a Gaussian of 4.05 pixels.
        covariance = 1.5**2 * np.exp(-((4 / 4.05 / 2) ** 2))
        for one in (shifts, shifts.swapaxes(1, 2)):
            found = (one[:, 4:] * one[:, :-4]).mean()
            assert found == pytest.approx(covariance, rel=0.08)


def test_kinds_of_transforms_are_independent() -> None:
    """Each kind has its own key, which does not depend on the other kinds."""
    alone, together = sample(max_shift=2), sample(max_shift=2, max_rotation=9.0)
    np.testing.assert_array_equal(alone.offset, together.offset)
    assert np.any(np.asarray(sample(1, max_shift=2).offset) != alone.offset)
    turned, sheared = sample(max_rotation=60.0).matrix, sample(max_shear=0.9).matrix
    numbers = [turned[:, 1, 0], sheared[:, 1, 0], *alone.offset.T]
    assert np.abs(np.corrcoef(numbers) - np.eye(4)).max() < 0.2
