"""Parameters as one flat vector per network, which is faster to update."""

import itertools
from typing import Any

import jax
import jax.numpy as jnp

from rnnmnist.models.classifier import Params


class Packing:
    """Converts the parameters of networks between trees and vectors.

    Arrays can have any leading axes before those of one network's.
    """

    def __init__(self, params: Params) -> None:
        """Takes the arrays of one network, or their shapes and types."""
        leaves, structure = jax.tree.flatten(params)
        self._structure: Any = structure
        self._shapes = [leaf.shape for leaf in leaves]
        self._ends = list(itertools.accumulate(leaf.size for leaf in leaves))

    def flatten(self, params: Params) -> jax.Array:
        """Converts a tree of parameters to a vector."""
        leaves = zip(jax.tree.leaves(params), self._shapes, strict=True)
        vectors = [
            leaf.reshape(*leaf.shape[: leaf.ndim - len(shape)], -1)
            for leaf, shape in leaves
        ]
        return jnp.concatenate(vectors, axis=-1)

    def unflatten(self, vector: jax.Array) -> Params:
        """Converts a vector to a tree of parameters."""
        parts = jnp.split(vector, self._ends[:-1], axis=-1)
        leaves = [
            part.reshape(*vector.shape[:-1], *shape)
            for part, shape in zip(parts, self._shapes, strict=True)
        ]
        return jax.tree.unflatten(self._structure, leaves)

    def pack(self, tree: Any) -> Any:
        """Converts every subtree that has the structure of the parameters."""

        def is_params(node: Any) -> bool:
            return bool(self._structure == jax.tree.structure(node))

        def convert(node: Any) -> Any:
            return self.flatten(node) if is_params(node) else node

        return jax.tree.map(convert, tree, is_leaf=is_params)

    def unpack(self, tree: Any) -> Any:
        """Converts the vectors that `pack` made of arrays with a leading axis."""

        def convert(leaf: jax.Array) -> Any:
            is_vector = leaf.ndim > 1 and leaf.shape[-1] == self._ends[-1]
            return self.unflatten(leaf) if is_vector else leaf

        return jax.tree.map(convert, tree)
