"""SHA-256 checksums of arrays and of JSON values."""

import hashlib
import json
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np


def named_leaves(tree: Any) -> list[tuple[str, Any]]:
    """Returns the leaves of a tree, each with its path as `cell/hf/bias`."""
    # Names without the entry's type: orbax restores named tuples as dictionaries.
    return [
        (jax.tree_util.keystr(path, simple=True, separator="/"), leaf)
        for path, leaf in jax.tree_util.tree_leaves_with_path(tree)
    ]


def array_checksums(tree: Any) -> dict[str, str]:
    """Returns the SHA-256 of every array of a tree, by its path.

    Type and shape are part of the hashed data.
    """
    checksums = {}
    for name, leaf in named_leaves(tree):
        array = np.asarray(leaf)
        digest = hashlib.sha256(f"{array.dtype} {array.shape} ".encode())
        digest.update(np.ascontiguousarray(array).data)
        checksums[name] = digest.hexdigest()
    return checksums


def json_checksum(value: Any) -> str:
    """Returns the SHA-256 of a value as JSON with sorted keys."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()


def params_sha256(params: Mapping[str, Any]) -> str:
    """Returns the SHA-256 over the bytes of all arrays in tree order."""
    digest = hashlib.sha256()
    for leaf in jax.tree.leaves(jax.device_get(params)):
        digest.update(np.ascontiguousarray(leaf).data)
    return digest.hexdigest()
