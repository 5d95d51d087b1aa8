"""Keeps the log records of libraries from the handlers of a caller's program.

Importing this module imports no library.
"""

import contextlib
import logging
from collections.abc import Callable, Iterator

from rnnmnist.runtime.jax_internals import DEVICES_LOGGER

# Both log by the logger of absl, also from threads: orbax each step of a save, and
# optax that a schedule has no warm-up. On a real problem, they raise.
SILENT_PACKAGES = ("orbax", "optax")


@contextlib.contextmanager
def filter_records(
    name: str, is_kept: Callable[[logging.LogRecord], bool]
) -> Iterator[None]:
    """Drops records of a logger in all threads, until the `with` block is left.

    Each block adds a filter of its own, so blocks in several threads can overlap.
    """

    def keep(record: logging.LogRecord) -> bool:
        return is_kept(record)

    logger = logging.getLogger(name)
    logger.addFilter(keep)
    try:
        yield
    finally:
        logger.removeFilter(keep)


@contextlib.contextmanager
def without_library_logs() -> Iterator[None]:
    """Drops what libraries log in normal use, within a block or a function.

    What jax warns of a device stays, but not which platforms it has tried.
    """
    with (
        filter_records("absl", _is_of_others),
        filter_records(DEVICES_LOGGER, _is_warning),
    ):
        yield


def _is_of_others(record: logging.LogRecord) -> bool:
    return not any(f"/{package}/" in record.pathname for package in SILENT_PACKAGES)


def _is_warning(record: logging.LogRecord) -> bool:
    return record.levelno >= logging.WARNING
