"""The order of an epoch: a keyed permutation, computed for any position alone."""

import jax
import jax.numpy as jnp

# Each round swaps at random half of all pairs, paired anew. Six rounds a bit
# are cryptographers' ground; for 55,000 images (16 bits) 48 leave no trace that
# a test of positions or of neighbours can find.
ROUNDS = 48


def epoch_order(key: jax.Array, positions: jax.Array, examples: int) -> jax.Array:
    """Which image stands at each position of an endless run of epochs.

    A swap-or-not shuffle: in each round an image and its partner, `k - image`,
    either both stay or change places, as a hash of the larger of them says. That
    is a bijection for every round key, on any number of images.

    Args:
        key: of the data order.
        positions: int32 [n], ascending, over at most two epochs.
        examples: images in an epoch, of which there are at least as many as
            positions.

    Returns:
        int32 [n], each below `examples`. Over the positions of one epoch every
        image comes exactly once.

    References:
        Hoang, Morris, Rogaway, "An Enciphering Scheme Based on a Card Shuffle",
        CRYPTO 2012. Ethereum shuffles its validators the same way.
    """
    epochs = positions // examples
    pair = epochs[0] + jnp.arange(2)  # the only epochs that a batch can touch
    keys = jax.vmap(jax.random.fold_in, (None, 0))(key, pair)
    words = jax.vmap(lambda key: jax.random.bits(key, (ROUNDS, 2)))(keys)
    words = words[epochs - epochs[0]]  # uint32 [n, rounds, 2]
    size = jnp.uint32(examples)

    def swap_or_not(image: jax.Array, word: jax.Array) -> tuple[jax.Array, None]:
        partner = (word[:, 0] % size + size - image) % size
        heads = _hash(jnp.maximum(image, partner) ^ word[:, 1]) & 1
        return jnp.where(heads == 1, partner, image), None

    image = (positions % examples).astype(jnp.uint32)
    image, _ = jax.lax.scan(swap_or_not, image, words.swapaxes(0, 1), unroll=8)
    return image.astype(jnp.int32)


def _hash(word: jax.Array) -> jax.Array:
    """Mixes 32 bits (C. Wellons' `lowbias32`): every input bit reaches the lowest."""
    word = (word ^ (word >> 16)) * jnp.uint32(0x7FEB352D)
    word = (word ^ (word >> 15)) * jnp.uint32(0x846CA68B)
    return word ^ (word >> 16)
