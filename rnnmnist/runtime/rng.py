"""Independent streams of random numbers from one seed."""

import enum

import jax


class Stream(enum.IntEnum):
    """The uses of a seed. Every result depends on these numbers."""

    WEIGHTS = 0
    ORDER = 1
    DISTORTION = 2


def stream_key(seed: int | jax.Array, stream: Stream) -> jax.Array:
    """Returns the key of one stream of a seed."""
    return jax.random.fold_in(jax.random.key(seed), stream)
