"""SHA-256 of arrays and of JSON: what a checkpoint is believed by."""

import hashlib
import json
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np


def named_leaves(tree: Any) -> list[tuple[str, Any]]:
    """The leaves of a tree, each with its path as `cell/hf/bias`."""
    leaves = jax.tree_util.tree_flatten_with_path(tree)[0]
    return [("/".join(_key(entry) for entry in path), leaf) for path, leaf in leaves]


def array_checksums(tree: Any) -> dict[str, str]:
    """The SHA-256 of every array of a tree, by its path.

    An array's type and shape are part of what is hashed, so that equal bytes in
    another form are something else.
    """
    return {name: _array(leaf) for name, leaf in named_leaves(jax.device_get(tree))}


def json_checksum(value: Any) -> str:
    """The SHA-256 of a value as JSON, whatever the order of its keys."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()


def params_sha256(params: Mapping[str, Any]) -> str:
    """SHA-256 over the arrays in tree order: equal for equal bits."""
    digest = hashlib.sha256()
    for leaf in jax.tree.leaves(jax.device_get(params)):
        digest.update(np.ascontiguousarray(leaf).data)
    return digest.hexdigest()


def _array(leaf: Any) -> str:
    array = np.asarray(leaf)
    digest = hashlib.sha256(f"{array.dtype} {array.shape} ".encode())
    digest.update(np.ascontiguousarray(array).data)
    return digest.hexdigest()


def _key(entry: Any) -> str:
    # Keys alone, since orbax reads named tuples back as dictionaries or lists.
    for attribute in ("key", "name", "idx"):
        if hasattr(entry, attribute):
            return str(getattr(entry, attribute))
    return str(entry)
