"""The settings of jax that this package computes with, in any process.

A user's process can have others: double precision, no compilation, another order of
random bits, guarded transfers, or a mesh of its own. Programs would then fail, or
give other results for the same configuration.
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

# They log by the logger of absl: orbax each step of a save, optax that a schedule has
# no warm-up, TFDS that a data set is not prepared. On a real problem, they raise.
SILENT_PACKAGES = ("/orbax/", "/optax/", "/tensorflow_datasets/")
NO_MESH = Mesh(np.empty((), object), ())

# `enable_x64` moved from one module to the other in jax 0.8, so that one of the two
# does not declare it.
_home: Any = jax if hasattr(jax, "enable_x64") else jax.experimental
_process_id: int | None = None  # of the process that has first computed


@contextlib.contextmanager
def jax_defaults() -> Iterator[None]:
    """Computes with jax's defaults in this thread, within a block or a function.

    Meanwhile, what `SILENT_PACKAGES` log is dropped.

    Raises:
        UserError: in a process that was forked from one which has computed.
    """
    refuse_fork()
    with (
        _home.enable_x64(False),
        jax.disable_jit(False),
        jax.threefry_partitionable(True),
        jax.transfer_guard("allow"),
        jax.set_mesh(NO_MESH),
        without_library_logs(),
    ):
        yield


@contextlib.contextmanager
def without_library_logs() -> Iterator[None]:
    """Drops what `SILENT_PACKAGES` log, within a block or a function."""

    def is_of_others(record: logging.LogRecord) -> bool:
        return not any(package in record.pathname for package in SILENT_PACKAGES)

    logger = logging.getLogger("absl")
    logger.addFilter(is_of_others)
    try:
        yield
    finally:
        logger.removeFilter(is_of_others)


def refuse_fork() -> None:
    """Refuses a forked process, which lacks the threads that jax and orbax wait for."""
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
    """Lets this thread compute in float64 within a block, unlike jax's defaults.

    It serves single operations while a program is traced. Their results have to be
    converted to float32 in the block.
    """
    context: contextlib.AbstractContextManager[None] = _home.enable_x64(True)
    return context
