"""What libraries log while the package computes."""

import contextlib
import logging
from collections.abc import Iterator

# Both log by the logger of absl: orbax each step of a save, and optax that a schedule
# has no warm-up. On a real problem, they raise.
SILENT_PACKAGES = ("/orbax/", "/optax/")


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
