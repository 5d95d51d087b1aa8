"""The settings of jax that this package computes with, in any process.

A user's process can have others: double precision, no compilation, another order of
random bits, guarded transfers, or a mesh of its own. Programs would then fail, or
give other results for the same configuration.
"""

import contextlib
from collections.abc import Iterator
from typing import Any

import jax
import jax.experimental
import numpy as np
from jax.sharding import Mesh

NO_MESH = Mesh(np.empty((), object), ())

# `enable_x64` moved from one module to the other in jax 0.8, so that one of the two
# does not declare it.
_home: Any = jax if hasattr(jax, "enable_x64") else jax.experimental


@contextlib.contextmanager
def jax_defaults() -> Iterator[None]:
    """Computes with jax's defaults in this thread, within a block or a function."""
    with (
        _home.enable_x64(False),
        jax.disable_jit(False),
        jax.threefry_partitionable(True),
        jax.transfer_guard("allow"),
        jax.set_mesh(NO_MESH),
    ):
        yield


def double_precision() -> contextlib.AbstractContextManager[None]:
    """Lets this thread compute in float64 within a block, unlike jax's defaults.

    It serves single operations while a program is traced. Their results have to be
    converted to float32 in the block.
    """
    context: contextlib.AbstractContextManager[None] = _home.enable_x64(True)
    return context
