"""The axes and shardings of the device mesh, and functions over the ensemble axis.

On devices and in checkpoints, the parameters and the optimizer state have a leading
ensemble axis, whose length is 1 for a single seed. Result files and exports omit the
ensemble axis of a single seed.
"""

import functools
import operator
from collections.abc import Callable
from typing import Any, TypeVar

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, Sharding

T = TypeVar("T")

# Mesh axes: `ensemble` shards the members, and `batch` shards each member's batch.
ENSEMBLE = "ensemble"
BATCH = "batch"
ENSEMBLE_SPEC = jax.P(ENSEMBLE)  # partitions the leading ensemble axis


def ensemble_sharding(mesh: Mesh) -> NamedSharding:
    """Returns the sharding that partitions the leading ensemble axis over the mesh."""
    return NamedSharding(mesh, ENSEMBLE_SPEC)


def mesh_platform(mesh: Mesh) -> str:
    """Returns the platform of the devices of a mesh."""
    return str(mesh.devices.flat[0].platform)


def replicated_sharding(mesh: Mesh) -> NamedSharding:
    """Returns the sharding that replicates an array on all devices of the mesh."""
    return NamedSharding(mesh, jax.P())


def local_sharding() -> Sharding:
    """Returns the sharding that places an array on one device of this process."""
    return jax.sharding.SingleDeviceSharding(jax.local_devices()[0])


def put_global(array: np.ndarray | np.generic, sharding: Sharding) -> jax.Array:
    """Places an array on devices, including devices of other processes.

    All processes must pass the same array. Each process copies only the shards of its
    own devices.
    """
    host_array = np.asarray(array)
    return jax.make_array_from_callback(
        host_array.shape, sharding, lambda index: host_array[index]
    )


@functools.partial(jax.jit, static_argnames="mesh")
def replicate(tree: T, mesh: Mesh) -> T:
    """Replicates the arrays of a tree on all devices of the mesh, in all processes."""
    return jax.lax.with_sharding_constraint(tree, replicated_sharding(mesh))


def map_ensemble(function: Callable[..., T], vectorize: bool) -> Callable[..., T]:
    """Maps a function of one member's pytrees over the ensemble axis.

    If `vectorize` is True, `jax.vmap` computes all members together. Otherwise,
    `jax.lax.map` computes the members sequentially. For a single member, the function
    is called without `jax.vmap` or `jax.lax.map`, which is faster.
    """

    def map_trees(*trees: Any) -> T:  # pytrees of arrays
        results: T
        if len(jax.tree.leaves(trees)[0]) == 1:
            member = jax.tree.map(lambda leaf: leaf[0], trees)
            result = function(*member)
            results = jax.tree.map(lambda leaf: leaf[None], result)
        elif vectorize:
            results = jax.vmap(function)(*trees)
        else:
            results = jax.lax.map(lambda member: function(*member), trees)
        return results

    return map_trees


def split_ensemble(tree: T) -> list[T]:
    """Splits a tree into one tree per member, without the ensemble axis."""
    size = len(jax.tree.leaves(tree)[0])
    return [jax.tree.map(operator.itemgetter(i), tree) for i in range(size)]


def abstract_ensemble(tree: T, num_seeds: int) -> T:
    """Adds an ensemble axis to the abstract arrays of one network."""
    return jax.tree.map(lambda leaf: leaf.update(shape=(num_seeds, *leaf.shape)), tree)
