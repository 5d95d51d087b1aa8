"""The keys of random numbers: a stream of a seed for each use of them.

Their bits depend on the seed only, not on the settings of a user's process: the keys
name their generator, and have the seed as it is, where `jax.random.key` would add
`jax_random_seed_offset` to it.
"""

import enum

import jax
import jax.numpy as jnp

# With other generators, the bits of vmapped keys depend on the size of the batch.
GENERATOR = "threefry2x32"


class Stream(enum.IntEnum):
    """The independent uses of a seed. Every result depends on these numbers."""

    WEIGHTS = 0
    ORDER = 1
    IMAGE_AUGMENTATION = 2
    FILTERS = 3
    DROPOUT = 4
    AUGMENTATION = 5


def make_key(seed: jax.typing.ArrayLike) -> jax.Array:
    """Returns the key of a seed, uint32."""
    low = jnp.asarray(seed, jnp.uint32)
    words = jnp.stack([jnp.zeros_like(low), low])  # the upper 32 bits come first
    return jax.random.wrap_key_data(words, impl=GENERATOR)


def stream_key(seed: jax.typing.ArrayLike, stream: Stream) -> jax.Array:
    """Returns the key of one stream of a seed."""
    return jax.random.fold_in(make_key(seed), stream)
