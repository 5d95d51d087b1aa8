"""The compilation cache, and the time that jax spends on compiling."""

import collections
import logging
import os
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

import jax

from rnnmnist.runtime.jax_internals import COMPILATION_EVENTS, has_devices

_logger = logging.getLogger(__name__)
_seconds: dict[int, float] = collections.defaultdict(float)  # by thread


def enable_compilation_cache() -> None:
    """Keeps compiled programs in the user's cache folder. Entry points call it.

    `JAX_COMPILATION_CACHE_DIR` overrides the folder. If the folder cannot be written, a
    warning is logged and nothing is cached.
    """
    try:
        folder = os.environ.get("JAX_COMPILATION_CACHE_DIR")
        if not folder:
            caches = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
            folder = str(Path(caches, "rnnmnist", "jax"))
        Path(folder).mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=folder).close()
    except (OSError, RuntimeError) as error:  # RuntimeError: no home directory
        _logger.warning(f"compiled programs are not kept for the next start: {error}")
        jax.config.update("jax_enable_compilation_cache", False)
        return
    jax.config.update("jax_compilation_cache_dir", folder)
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
    jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)


def enable_default_cache() -> None:
    """Does the same for a caller from Python, unless the process has decided already.

    It may have a folder of its own, or no cache. After the first program, jax does not
    change whether there is one.
    """
    config: Any = jax.config  # some versions do not declare its attributes
    is_chosen = config.jax_compilation_cache_dir
    is_off = not config.jax_enable_compilation_cache
    if not (is_chosen or is_off or has_devices()):
        enable_compilation_cache()


def use_cpu() -> None:
    """Selects the CPU for short work, since a trainer may hold the accelerator."""
    jax.config.update("jax_platforms", "cpu")
    enable_compilation_cache()


def compile_seconds() -> float:
    """Returns the seconds of compilation in this thread so far."""
    return _seconds[threading.get_ident()]


def running_seconds() -> float:
    """Returns the seconds of a clock that stops while this thread compiles."""
    return time.monotonic() - compile_seconds()


def _add_seconds(event: str, duration_secs: float, **_: object) -> None:
    if event in COMPILATION_EVENTS:
        _seconds[threading.get_ident()] += duration_secs


jax.monitoring.register_event_duration_secs_listener(_add_seconds)
