"""Random augmentation of training examples, as pure functions of a PRNG key.

All transforms of an image are combined into one map from output pixels to source
positions, so each image is interpolated only once.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.scipy.ndimage import map_coordinates

from rnnmnist.config.functions import Function

# An elastic transform samples noise on a GRID x GRID lattice and smooths it with a
# Gaussian whose standard deviation is SIGMA lattice spacings.
GRID = 5
SIGMA = 0.6


class ImageAugmentation(NamedTuple):
    """Limits of the random image transforms; 0 disables a transform."""

    max_shift: int = 0  # pixels; applied before the other transforms
    max_rotation: float = 0.0  # degrees
    max_scale: float = 0.0  # scale factors from 1 / (1 + max_scale) to 1 + max_scale
    max_shear: float = 0.0  # columns per row
    elastic: float = 0.0  # standard deviation of displacements in pixels, per axis
    flip: bool = False  # mirror half of the images horizontally


class Transforms(NamedTuple):
    """Maps from output pixels to source positions, relative to the image centre."""

    matrix: jax.Array  # float32 [n, 2, 2], from (row, column) to (row, column)
    offset: jax.Array  # float32 [n, 2], pixels
    noise: jax.Array | None  # float32 [n, 2, GRID, GRID], row and column displacements


def sample_transforms(
    key: jax.Array, num_images: int, augmentation: ImageAugmentation
) -> Transforms:
    """Samples one transform for each of `num_images` images.

    Angles, shears, logarithms of scale factors, and integer shifts in pixels are
    uniformly distributed.
    """
    shift_key, noise_key, *keys = jax.random.split(key, 6)
    angle, log_scale, shear, flip = (
        jax.random.uniform(key, (num_images,), minval=-1.0) for key in keys
    )
    angle *= jnp.deg2rad(augmentation.max_rotation)
    ones = jnp.ones(num_images)
    zeros = jnp.zeros(num_images)
    cos = jnp.cos(angle)
    sin = jnp.sin(angle)
    rotation = _matrices(cos, sin, -sin, cos)
    shear_matrix = _matrices(ones, zeros, shear * augmentation.max_shear, ones)
    mirror = jnp.where(augmentation.flip & (flip < 0), -ones, ones)
    scale = jnp.exp(log_scale * jnp.log1p(augmentation.max_scale))
    limit = augmentation.max_shift
    offset = jax.random.randint(shift_key, (num_images, 2), -limit, limit + 1)
    noise = None
    if augmentation.elastic:
        noise = jax.random.normal(noise_key, (num_images, 2, GRID, GRID))
        noise = augmentation.elastic * noise
    matrix = rotation @ shear_matrix @ _matrices(scale, zeros, zeros, scale * mirror)
    return Transforms(matrix, offset.astype(jnp.float32), noise)


def transform_images(images: jax.Array, transforms: Transforms) -> jax.Array:
    """Applies transforms to images with bilinear interpolation.

    Source positions outside the image are black.

    Args:
        images: uint8 [n, rows, columns].
        transforms: one transform per image.

    Returns:
        Float32 [n, rows, columns] from 0 to 1.

    References:
        Elastic transforms: Simard, Steinkraus, Platt, "Best Practices for
        Convolutional Neural Networks Applied to Visual Document Analysis", ICDAR
        2003. Their Gaussian, like ours for 28 x 28 pixels, has a standard deviation of
        4 pixels.
    """
    shape = images.shape[1:]
    centre = (jnp.array(shape, jnp.float32) - 1) / 2  # [2]
    pixels = jnp.indices(shape, jnp.float32)  # [2, rows, columns]
    relative = pixels - centre[:, None, None]

    def transform_image(image: jax.Array, transform: Transforms) -> jax.Array:
        source = jnp.einsum("ij,jrc->irc", transform.matrix, relative)
        source += (centre + transform.offset)[:, None, None]
        if transform.noise is not None:
            rows, columns = map(_smoothing_weights, shape)
            source += jnp.einsum("rp,kpq,cq->krc", rows, transform.noise, columns)
        return map_coordinates(image, list(source), order=1)

    return jax.vmap(transform_image)(images.astype(jnp.float32) / 255, transforms)


def apply_augmentation(
    augment: Function, keys: jax.Array, inputs: jax.Array, lengths: jax.Array | None
) -> jax.Array:
    """Applies a custom augmentation to each example of a batch.

    Args:
        augment: called as `augment(key, inputs, length)` for each example; maps inputs
            of shape [time, features] to new inputs of the same shape. `length` is the
            number of time steps, excluding padding.
        keys: PRNG keys, [batch].
        inputs: float32 [batch, time, features].
        lengths: int32 [batch]; None if no sequence is padded.

    Returns:
        Float32 [batch, time, features], with zeros in the padding.
    """
    batch_size, time_steps, _ = inputs.shape
    if lengths is None:
        lengths = jnp.full(batch_size, time_steps, jnp.int32)
    augmented = jnp.asarray(jax.vmap(augment)(keys, inputs, lengths), jnp.float32)
    mask = jnp.arange(time_steps)[None] < lengths[:, None]
    return jnp.where(mask[..., None], augmented, 0)


def _matrices(*entries: jax.Array) -> jax.Array:
    """Builds matrices [n, 2, 2] from four entries, each [n], in row-major order."""
    return jnp.stack(entries, -1).reshape(-1, 2, 2)


def _smoothing_weights(num_pixels: int) -> jax.Array:
    """Returns the Gaussian weights of the lattice points, float32 [pixels, GRID].

    The squared weights of each pixel sum to 1, so smoothing preserves the standard
    deviation of the noise at every pixel.
    """
    positions = jnp.linspace(0, GRID - 1, num_pixels)
    distances = positions[:, None] - jnp.arange(GRID, dtype=jnp.float32)[None]
    weights = jnp.exp(-((distances / SIGMA) ** 2) / 2)
    return weights / jnp.linalg.norm(weights, axis=1, keepdims=True)
