"""Keeps the log records of libraries from the handlers of a caller's program.

Importing this module imports no library.
"""

import contextlib
import logging
import threading
from collections.abc import Callable, Iterator

from rnnmnist.runtime.jax_internals import DEVICES_LOGGER

# Both log by the logger of absl, also from threads: orbax each step of a save, and
# optax that a schedule has no warm-up. On a real problem, they raise.
SILENT_PACKAGES = ("orbax", "optax")


class SharedContext(contextlib.AbstractContextManager[None]):
    """Enters a context with the first overlapping block, and leaves it with the last.

    The blocks can be in several threads.
    """

    def __init__(
        self, create: Callable[[], contextlib.AbstractContextManager[None]]
    ) -> None:
        self._create = create
        self._lock = threading.Lock()
        self._blocks = 0
        self._stack = contextlib.ExitStack()

    def __enter__(self) -> None:
        with self._lock:
            self._blocks += 1
            if self._blocks == 1:
                self._stack.enter_context(self._create())

    def __exit__(self, *error: object) -> None:
        with self._lock:
            self._blocks -= 1
            if self._blocks == 0:
                self._stack.close()


class _StandIn(logging.Handler):
    """Stands in for the handlers of a root logger that has none.

    Otherwise, absl would call `logging.basicConfig` before it logs, and a later call of
    the user's would have no effect. Records without another handler are printed as
    Python prints them if there is no handler at all.
    """

    def emit(self, record: logging.LogRecord) -> None:
        handler = logging.lastResort
        if handler is None or record.levelno < handler.level:
            return
        if not has_handlers(logging.getLogger(record.name)):
            handler.handle(record)


_stand_in = _StandIn()


def has_handlers(logger: logging.Logger) -> bool:
    """Returns whether a handler of the user's gets the records of a logger."""
    current: logging.Logger | None = logger
    while current is not None:
        if any(handler is not _stand_in for handler in current.handlers):
            return True
        current = current.parent if current.propagate else None
    return False


@contextlib.contextmanager
def _root_has_stand_in() -> Iterator[None]:
    logging.root.addHandler(_stand_in)
    try:
        yield
    finally:
        logging.root.removeHandler(_stand_in)


_with_stand_in = SharedContext(_root_has_stand_in)


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

    What jax warns of a device stays, but not which platforms it has tried. No handler
    is added to the root logger.
    """
    with (
        _with_stand_in,
        filter_records("absl", _is_of_others),
        filter_records(DEVICES_LOGGER, _is_warning),
    ):
        yield


def _is_of_others(record: logging.LogRecord) -> bool:
    return not any(f"/{package}/" in record.pathname for package in SILENT_PACKAGES)


def _is_warning(record: logging.LogRecord) -> bool:
    return record.levelno >= logging.WARNING
