"""Seeds: their random streams, and the ensemble axis of their networks.

On the devices, the parameters and the optimizer state of a run have this axis first, of
length 1 for a single seed, whose checkpoints and result files do not have it.
"""

import enum
import operator
from collections.abc import Callable
from typing import Any

import jax
from jax.sharding import Sharding

from rnnmnist.runtime.mesh import device_put


class Stream(enum.IntEnum):
    """The independent uses of a seed. Every result depends on these numbers."""

    WEIGHTS = 0
    ORDER = 1
    DISTORTION = 2


def stream_key(seed: int | jax.Array, stream: Stream) -> jax.Array:
    """Returns the key of one stream of a seed."""
    return jax.random.fold_in(jax.random.key(seed), stream)


def map_ensemble(function: Callable[..., Any], vectorize: bool) -> Callable[..., Any]:
    """Maps a function of one network's trees of arrays over the ensemble axis.

    `vectorize` computes all members together, by `jax.vmap`, not in turn, by
    `jax.lax.map`. A single network needs neither, and is faster without.
    """

    def mapped(*trees: Any) -> Any:
        if len(jax.tree.leaves(trees)[0]) == 1:
            result = function(*jax.tree.map(operator.itemgetter(0), trees))
            return jax.tree.map(lambda leaf: leaf[None], result)
        if vectorize:
            return jax.vmap(function)(*trees)
        return jax.lax.map(lambda networks: function(*networks), trees)

    return mapped


def split_ensemble(tree: Any) -> list[Any]:
    """Returns the tree of each member, without the ensemble axis."""
    size = len(jax.tree.leaves(tree)[0])
    return [jax.tree.map(operator.itemgetter(i), tree) for i in range(size)]


def squeeze(tree: Any) -> Any:
    """Removes the ensemble axis of a single network; other trees keep it."""
    return jax.tree.map(lambda leaf: leaf[0] if len(leaf) == 1 else leaf, tree)


def abstract_ensemble(tree: Any, num_seeds: int) -> Any:
    """Returns the shapes and types of checkpoints from those of one network."""
    if num_seeds == 1:
        return tree
    return jax.tree.map(lambda leaf: leaf.update(shape=(num_seeds, *leaf.shape)), tree)


def put_ensemble(tree: Any, num_seeds: int, sharding: Sharding) -> Any:
    """Copies NumPy arrays to devices, with the ensemble axis that `squeeze` removed."""
    if num_seeds == 1:
        tree = jax.tree.map(lambda leaf: leaf[None], tree)
    return jax.tree.map(lambda leaf: device_put(leaf, sharding), tree)
