"""Named streams of random numbers, so that no two uses of a seed meet."""

import enum

import jax


class Stream(enum.IntEnum):
    """What a seed is drawn upon for. The numbers are part of every result."""

    WEIGHTS = 0
    ORDER = 1
    DISTORTION = 2


def stream_key(seed: int | jax.Array, stream: Stream) -> jax.Array:
    """The key of one stream of a seed."""
    return jax.random.fold_in(jax.random.key(seed), stream)
