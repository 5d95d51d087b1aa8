"""Training images, each changed a little: a pure function of a key.

All changes are one map from the places of the new image to those of the old one, which
is then sampled once, so that nothing is blurred twice.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.scipy.ndimage import map_coordinates

from rnnmnist.config.schema import DataConfig

# An elastic field is noise at some points, down and across, and between them what a
# Gaussian makes of it, whose standard deviation is given in their distance.
POINTS, SMOOTHING = 5, 0.6


class Distortions(NamedTuple):
    """How strongly images may be changed; a zero leaves that out."""

    max_shift: int = 0  # pixels, before the rest
    max_rotation: float = 0.0  # degrees
    max_scale: float = 0.0  # an image grows or shrinks by up to 1 + this
    max_shear: float = 0.0  # columns for each row
    elastic: float = 0.0  # standard deviation of a pixel's way down, and across
    flip: bool = False  # whether half of the images are mirrored, left and right

    @classmethod
    def of(cls, config: DataConfig) -> "Distortions":
        """Those of a configuration."""
        return cls(*(getattr(config, name) for name in cls._fields))


class Warp(NamedTuple):
    """Where each pixel of some images is taken from, about their middle."""

    matrix: jax.Array  # float32 [n, 2, 2], from (row, column) to (row, column)
    offset: jax.Array  # float32 [n, 2], pixels
    noise: jax.Array | None  # float32 [n, 2, POINTS, POINTS], pixels down and across


def draw(key: jax.Array, count: int, distortions: Distortions) -> Warp:
    """Draws what happens to each of some images.

    Shifts are whole pixels of the image as it was, each as likely as the others;
    angles, shears and the logarithms of factors are uniform.

    Args:
        key: for all of them.
        count: images.
        distortions: how strong.
    """
    shift_key, noise_key, *keys = jax.random.split(key, 6)
    angle, growth, slant, side = (
        jax.random.uniform(key, (count,), minval=-1.0) for key in keys
    )
    angle *= jnp.deg2rad(distortions.max_rotation)
    one, zero = jnp.ones(count), jnp.zeros(count)
    turn = _matrices(jnp.cos(angle), jnp.sin(angle), -jnp.sin(angle), jnp.cos(angle))
    shear = _matrices(one, zero, slant * distortions.max_shear, one)
    mirror = jnp.where(distortions.flip & (side < 0), -one, one)
    scale = jnp.exp(growth * jnp.log1p(distortions.max_scale))
    most = distortions.max_shift
    offset = jax.random.randint(shift_key, (count, 2), -most, most + 1)
    noise = None
    if distortions.elastic:
        noise = jax.random.normal(noise_key, (count, 2, POINTS, POINTS))
        noise *= distortions.elastic
    matrix = turn @ shear @ _matrices(scale, zero, zero, scale * mirror)
    return Warp(matrix, offset.astype(jnp.float32), noise)


def warp(images: jax.Array, warp: Warp) -> jax.Array:
    """Moves the pixels of each image; what comes in from outside is black.

    Args:
        images: uint8 [n, rows, columns].
        warp: of each of them.

    Returns:
        float32 [n, rows, columns], from 0 to 1, each pixel interpolated linearly
        between the four about its place.

    References:
        Elastic distortions: Simard, Steinkraus, Platt, "Best Practices for
        Convolutional Neural Networks Applied to Visual Document Analysis", ICDAR
        2003, whose Gaussian has 4 pixels, too.
    """
    size = images.shape[1:]
    middle = (jnp.array(size, jnp.float32) - 1) / 2  # [2]
    pixels = jnp.stack(jnp.meshgrid(*map(jnp.arange, size), indexing="ij"))
    about = pixels - middle[:, None, None]  # [2, rows, columns]

    def warp_one(image: jax.Array, warp: Warp) -> jax.Array:
        places = jnp.einsum("ij,jrc->irc", warp.matrix, about)
        places += (middle + warp.offset)[:, None, None]
        if warp.noise is not None:
            down, across = map(_smoothing, size)
            places += jnp.einsum("rp,kpq,cq->krc", down, warp.noise, across)
        return map_coordinates(image, list(places), order=1)

    return jax.vmap(warp_one)(images.astype(jnp.float32) / 255, warp)


def _matrices(*entries: jax.Array) -> jax.Array:
    """[n, 2, 2] from its four entries, each [n]."""
    return jnp.stack(entries, -1).reshape(-1, 2, 2)


def _smoothing(pixels: int) -> jax.Array:
    """What each point's noise counts for at each pixel, float32 [pixels, POINTS].

    Squares sum to 1, so that a field has the noise's standard deviation everywhere.
    """
    places = jnp.linspace(0, POINTS - 1, pixels)
    apart = places[:, None] - jnp.arange(POINTS)[None]
    weights = jnp.exp(-((apart / SMOOTHING) ** 2) / 2)
    return weights / jnp.linalg.norm(weights, axis=1, keepdims=True)
