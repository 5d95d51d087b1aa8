"""Network weights as one vector, for the compiled training step.

The norm, the update and the sum over devices are one operation each on a vector, not
one for each array of a tree.
"""

import functools
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from rnnmnist.models.classifier import Params
from rnnmnist.training.state import TrainState


def flatten(tree: Params) -> jax.Array:
    """Returns the arrays of a tree as one vector, float32 [parameters]."""
    return jnp.concatenate([leaf.ravel() for leaf in jax.tree.leaves(tree)])


def flatten_mask(mask: Mapping[str, Any], params: Params) -> np.ndarray:
    """Returns a bool for each parameter of a network, from one for each of its arrays.

    The mask is a tree like the parameters. The result is bool [parameters], of NumPy.
    """
    pairs = zip(jax.tree.leaves(mask), jax.tree.leaves(params), strict=True)
    return np.concatenate([np.full(leaf.size, flag) for flag, leaf in pairs])


def unflatten(vector: jax.Array, like: Params) -> Params:
    """Returns the tree in a vector from `flatten`, with the shapes of another tree."""
    leaves, structure = jax.tree.flatten(like)
    ends = np.cumsum([leaf.size for leaf in leaves])
    parts = jnp.split(vector, ends[:-1])
    shaped = [
        part.reshape(leaf.shape) for part, leaf in zip(parts, leaves, strict=True)
    ]
    params: Params = jax.tree.unflatten(structure, shaped)
    return params


def flatten_state(state: TrainState[Params]) -> TrainState[jax.Array]:
    """Makes one vector of each tree of weights in a state, [ensemble, parameters].

    The optimizer's state has such trees, too: Adam's moments.
    """
    is_weights = _structure_test(state.params)

    def flatten_node(node: Any) -> jax.Array:  # a tree of weights, or another array
        return jax.vmap(flatten)(node) if is_weights(node) else node

    vectors: TrainState[jax.Array] = jax.tree.map(
        flatten_node, state, is_leaf=is_weights
    )
    return vectors


def unflatten_state(
    vectors: TrainState[jax.Array], like: TrainState[Params]
) -> TrainState[Params]:
    """Makes a tree of each vector again, wherever the state `like` has one."""
    is_weights = _structure_test(like.params)
    network = jax.tree.map(lambda leaf: leaf[0], like.params)  # for its shapes

    def unflatten_node(node: Any, array: jax.Array) -> Any:  # as in `flatten_state`
        if not is_weights(node):
            return array
        return jax.vmap(functools.partial(unflatten, like=network))(array)

    state: TrainState[Params] = jax.tree.map(
        unflatten_node, like, vectors, is_leaf=is_weights
    )
    return state


def _structure_test(params: Params) -> Callable[[Any], bool]:
    """Returns a function that tells whether any tree has the structure of `params`."""
    structure: Any = jax.tree.structure(params)  # jax declares no comparison of it
    return lambda tree: bool(jax.tree.structure(tree) == structure)
