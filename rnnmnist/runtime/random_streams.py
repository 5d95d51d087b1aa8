"""Derives independent random keys from a seed, one for each use of the seed.

Random bits depend only on the seed, not on JAX settings in the user's process. Keys fix
their PRNG implementation and contain the seed unchanged, whereas `jax.random.key` would
add `jax_random_seed_offset`.
"""

import enum

import jax
import jax.numpy as jnp

# With other PRNG implementations, the bits of vmapped keys depend on the batch size.
PRNG_IMPL = "threefry2x32"


class Stream(enum.IntEnum):
    """The uses of a seed. Changing a number would change all results."""

    PARAMS = 0
    SHUFFLE = 1
    IMAGE_AUGMENTATION = 2
    FILTERS = 3
    DROPOUT = 4
    CUSTOM_AUGMENTATION = 5


def make_key(seed: jax.typing.ArrayLike) -> jax.Array:
    """Returns the key for a uint32 seed."""
    low_word = jnp.asarray(seed, jnp.uint32)
    words = jnp.stack([jnp.zeros_like(low_word), low_word])  # upper 32 bits first
    return jax.random.wrap_key_data(words, impl=PRNG_IMPL)


def stream_key(seed: jax.typing.ArrayLike, stream: Stream) -> jax.Array:
    """Returns the key for one use of a seed."""
    return jax.random.fold_in(make_key(seed), stream)
