"""The ensemble axis: one program for the networks of several seeds."""

from collections.abc import Callable
from typing import Any

import jax
from jax.sharding import Mesh

from rnnmnist.runtime.mesh import SEEDS


def map_ensemble(function: Callable[..., Any], stacked: bool) -> Callable[..., Any]:
    """A function of one network's arrays, for every member of a stack of them.

    All members at once where that fills an accelerator, by `vmap`; one after the
    other on a CPU, whose cores a single network fills already: there the products
    of a batch of networks are slower.

    Args:
        function: of trees of arrays.
        stacked: whether its arguments and results have a leading axis of members;
            without one it is the function itself.
    """
    if not stacked:
        return function
    return jax.vmap(function) if at_once() else _one_by_one(function)


def at_once() -> bool:
    """Whether the devices compute all members of a stack at the same time."""
    return jax.default_backend() != "cpu"


def _one_by_one(function: Callable[..., Any]) -> Callable[..., Any]:
    def every(*stacked: Any) -> Any:
        return jax.lax.map(lambda member: function(*member), stacked)

    return every


def gather_ensemble(tree: Any, mesh: Mesh) -> Any:
    """A device's part of a stack's sums, as the whole stack's; `[]` stays as it is."""
    if mesh.shape[SEEDS] == 1:
        return tree  # which is the whole already
    return jax.tree.map(
        lambda leaf: jax.lax.all_gather(leaf, SEEDS, tiled=True) if leaf.ndim else leaf,
        tree,
    )
