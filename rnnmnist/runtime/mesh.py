"""The mesh of devices: its axes, the networks of an ensemble and their batches.

On the devices and in checkpoints, the parameters and the optimizer state of a run have
the ensemble axis first, of length 1 for a single seed, whose result files and exports
do not have it.
"""

import functools
import operator
from collections.abc import Callable
from typing import Any, TypeVar

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, Sharding

T = TypeVar("T")

# The axes of the mesh: over the networks, and over the shards of their batches.
ENSEMBLE = "ensemble"
BATCH = "batch"
OVER_ENSEMBLE = jax.P(
    ENSEMBLE
)  # how the mesh partitions arrays with an ensemble axis first


def ensemble_sharding(mesh: Mesh) -> NamedSharding:
    """Returns the sharding of the leading ensemble axis over the mesh."""
    return NamedSharding(mesh, OVER_ENSEMBLE)


def platform_of(mesh: Mesh) -> str:
    """Returns the platform of a mesh's devices, which need not be present."""
    return str(mesh.devices.flat[0].platform)


def replicated_sharding(mesh: Mesh) -> NamedSharding:
    """Returns the sharding with a copy of the array on every device."""
    return NamedSharding(mesh, jax.P())


def local_sharding() -> Sharding:
    """Returns the sharding on one device of this process."""
    return jax.sharding.SingleDeviceSharding(jax.local_devices()[0])


def put_global(array: np.ndarray | np.generic, sharding: Sharding) -> jax.Array:
    """Distributes an array over devices, including those of other processes.

    The array must be the same on all processes; each copies its own devices' shards.
    """
    whole = np.asarray(array)
    with jax.transfer_guard_host_to_device("allow"):  # an intended copy
        return jax.make_array_from_callback(
            whole.shape, sharding, lambda index: whole[index]
        )


@functools.partial(jax.jit, static_argnames="mesh")
def replicate(tree: T, mesh: Mesh) -> T:
    """Copies the arrays of a tree to every device of a mesh, so to every process."""
    return jax.lax.with_sharding_constraint(tree, replicated_sharding(mesh))


def map_ensemble(function: Callable[..., T], vectorize: bool) -> Callable[..., T]:
    """Maps a function of one network's trees of arrays over the ensemble axis.

    With `vectorize`, all members are computed together, by `jax.vmap`; otherwise in
    turn, by `jax.lax.map`. A single network needs neither, and is faster without.
    """

    def map_trees(*trees: Any) -> T:  # Python has no type for trees of arrays
        results: T
        if len(jax.tree.leaves(trees)[0]) == 1:
            network = jax.tree.map(lambda leaf: leaf[0], trees)
            result = function(*network)
            results = jax.tree.map(lambda leaf: leaf[None], result)
        elif vectorize:
            results = jax.vmap(function)(*trees)
        else:
            results = jax.lax.map(lambda network: function(*network), trees)
        return results

    return map_trees


def split_ensemble(tree: T) -> list[T]:
    """Returns the tree of each member, without the ensemble axis."""
    size = len(jax.tree.leaves(tree)[0])
    return [jax.tree.map(operator.itemgetter(i), tree) for i in range(size)]


def abstract_ensemble(tree: T, num_seeds: int) -> T:
    """Returns the shapes and types of an ensemble from those of one network."""
    return jax.tree.map(lambda leaf: leaf.update(shape=(num_seeds, *leaf.shape)), tree)
