"""The ensemble axis: one program for the networks of several seeds."""

from collections.abc import Callable
from typing import Any

import jax
from jax.sharding import Mesh

from rnnmnist.runtime.mesh import SEEDS


def map_ensemble(function: Callable[..., Any], has_axis: bool) -> Callable[..., Any]:
    """Maps a function of one network's trees of arrays over the leading ensemble axis.

    On an accelerator, `jax.vmap` computes all networks together. On a CPU, where one
    network already uses every core, `jax.lax.map` computes them in turn, which is
    faster. If the arrays have no ensemble axis, the function itself is returned.
    """
    if not has_axis:
        return function
    if uses_vmap():
        return jax.vmap(function)
    return lambda *trees: jax.lax.map(lambda network: function(*network), trees)


def uses_vmap() -> bool:
    """Whether the devices compute all networks of an ensemble together."""
    return jax.default_backend() != "cpu"


def gather_ensemble(tree: Any, mesh: Mesh) -> Any:
    """Gathers the shards of an ensemble's sums within `shard_map`.

    Scalars, which have no ensemble axis, are returned as they are.
    """
    if mesh.shape[SEEDS] == 1:
        return tree
    return jax.tree.map(
        lambda leaf: jax.lax.all_gather(leaf, SEEDS, tiled=True) if leaf.ndim else leaf,
        tree,
    )
