"""The jax settings that this package uses, whatever the settings of the process.

A user's process can enable double precision, disable compilation, change the order of
random bits, guard transfers or set a mesh. Programs would then fail, or give different
results for the same configuration.
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

# These packages log to absl in normal use: orbax each stage of a save, optax a schedule
# without warm-up, TFDS an unprepared data set. For real problems, they raise errors.
SILENT_PACKAGES = ("/orbax/", "/optax/", "/tensorflow_datasets/")
NO_MESH = Mesh(np.empty((), object), ())

# jax 0.8 moved `enable_x64` from `jax.experimental` to `jax`.
_x64_module: Any = jax if hasattr(jax, "enable_x64") else jax.experimental
_process_id: int | None = None  # the process that computed first


@contextlib.contextmanager
def jax_defaults() -> Iterator[None]:
    """Applies jax's defaults in this thread, as a context manager or decorator.

    Also drops the logs of `SILENT_PACKAGES`.

    Raises:
        UserError: if this process was forked from a process that had computed.
    """
    reject_fork()
    with (
        _x64_module.enable_x64(False),
        jax.disable_jit(False),
        jax.threefry_partitionable(True),
        jax.transfer_guard("allow"),
        jax.set_mesh(NO_MESH),
        suppress_library_logs(),
    ):
        yield


@contextlib.contextmanager
def suppress_library_logs() -> Iterator[None]:
    """Drops the logs of `SILENT_PACKAGES`, as a context manager or decorator."""

    def is_wanted(record: logging.LogRecord) -> bool:
        return not any(package in record.pathname for package in SILENT_PACKAGES)

    logger = logging.getLogger("absl")
    logger.addFilter(is_wanted)
    try:
        yield
    finally:
        logger.removeFilter(is_wanted)


def reject_fork() -> None:
    """Refuses forked processes, which lack the threads that jax and orbax wait for."""
    global _process_id
    if _process_id is None:
        _process_id = os.getpid()
    elif _process_id != os.getpid():
        raise UserError(
            f"process {os.getpid()} was forked from process {_process_id}, which had "
            "trained or loaded a network; load networks after the fork (gunicorn "
            'without --preload), or start processes with the method "spawn"'
        )


def double_precision() -> contextlib.AbstractContextManager[None]:
    """Enables float64 in this thread, as a context manager inside `jax_defaults`.

    Use it for single operations while a program is traced, and convert the results to
    float32 inside the block.
    """
    context: contextlib.AbstractContextManager[None] = _x64_module.enable_x64(True)
    return context
