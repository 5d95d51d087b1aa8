"""Runs this package's code with JAX's default settings, whatever the user has set.

The user's process can enable double precision, disable compilation, change how random
bits are generated, forbid dtype promotion, guard transfers or set a mesh. Under such
settings, this package's programs would fail, or produce different results for the same
configuration.
"""

import contextlib
import logging
import os
from collections.abc import Iterator
from typing import Any

import jax
import jax.experimental
import numpy as np
from jax.sharding import Mesh

from rnnmnist.errors import UserError

# These packages log to absl even if nothing is wrong: Orbax logs each stage of a save,
# Optax logs that a schedule has no warmup, and TFDS logs that a data set is not
# prepared. If something is wrong, they raise errors.
SILENT_PACKAGES = ("/orbax/", "/optax/", "/tensorflow_datasets/")
NO_MESH = Mesh(np.empty((), object), ())

# JAX 0.8 moved `enable_x64` from `jax.experimental` to `jax`.
_x64_module: Any = jax if hasattr(jax, "enable_x64") else jax.experimental
_process_id: int | None = None  # process that first used JAX in this package


@contextlib.contextmanager
def jax_defaults() -> Iterator[None]:
    """Applies JAX's default settings in this thread.

    Can be used as a context manager or a decorator. Also suppresses the log messages of
    `SILENT_PACKAGES`.

    Raises:
        UserError: if this process was forked from a process in which JAX was running.
    """
    reject_fork()
    with (
        _x64_module.enable_x64(False),
        jax.disable_jit(False),
        jax.threefry_partitionable(True),
        jax.numpy_dtype_promotion("standard"),
        jax.transfer_guard("allow"),
        jax.set_mesh(NO_MESH),
        suppress_library_logs(),
    ):
        yield


@contextlib.contextmanager
def suppress_library_logs() -> Iterator[None]:
    """Suppresses the log messages of `SILENT_PACKAGES`.

    Can be used as a context manager or a decorator.
    """

    def is_from_other_package(record: logging.LogRecord) -> bool:
        return not any(package in record.pathname for package in SILENT_PACKAGES)

    logger = logging.getLogger("absl")
    logger.addFilter(is_from_other_package)
    try:
        yield
    finally:
        logger.removeFilter(is_from_other_package)


def reject_fork() -> None:
    """Raises a `UserError` in a process that was forked after this package used JAX.

    A forked process lacks the threads of JAX and Orbax, so it would hang.
    """
    global _process_id
    if _process_id is None:
        _process_id = os.getpid()
    elif _process_id != os.getpid():
        raise UserError(
            f"process {os.getpid()} was forked from process {_process_id}, which had "
            "trained or loaded a network; load networks after the fork (gunicorn "
            'without --preload), or use the multiprocessing start method "spawn"'
        )


def double_precision() -> contextlib.AbstractContextManager[None]:
    """Returns a context manager that enables float64 in this thread.

    Use it inside `jax_defaults`, for individual operations of a traced program.
    Convert the results to float32 inside the `with` block.
    """
    context: contextlib.AbstractContextManager[None] = _x64_module.enable_x64(True)
    return context
