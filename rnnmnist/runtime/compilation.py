"""Enables JAX's persistent compilation cache, and measures compilation time."""

import collections
import logging
import os
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

import jax

from rnnmnist.runtime.jax_internals import COMPILATION_EVENTS

_logger = logging.getLogger(__name__)
_compile_seconds: dict[int, float] = collections.defaultdict(float)  # per thread


def enable_compilation_cache() -> None:
    """Enables JAX's persistent compilation cache.

    If `JAX_COMPILATION_CACHE_DIR` or the JAX configuration already specifies a folder,
    JAX uses that folder; otherwise, it uses a folder in the user's cache folder. If the
    user has disabled the cache, the cache stays disabled. If the folder is not
    writable, a warning is logged and the cache is disabled.
    """
    config: Any = jax.config  # some JAX versions do not declare its options
    if not config.jax_enable_compilation_cache:
        return
    folder = config.jax_compilation_cache_dir
    try:
        if not folder:
            user_cache = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
            folder = str(Path(user_cache, "rnnmnist", "jax"))
        Path(folder).mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=folder).close()
    except (OSError, RuntimeError) as error:  # RuntimeError: no home directory
        _logger.warning(f"compiled programs cannot be cached for later runs: {error}")
        jax.config.update("jax_enable_compilation_cache", False)
        return
    jax.config.update("jax_compilation_cache_dir", folder)
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
    jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)


def use_cpu() -> None:
    """Selects JAX's CPU backend, and enables the compilation cache.

    For short commands, which may run while a training run uses the accelerator.
    """
    jax.config.update("jax_platforms", "cpu")
    enable_compilation_cache()


def compile_seconds() -> float:
    """Returns the total compilation time in this thread, in seconds."""
    return _compile_seconds[threading.get_ident()]


def seconds_without_compilation() -> float:
    """Returns the monotonic clock minus this thread's compilation time, in seconds."""
    return time.monotonic() - compile_seconds()


def _add_seconds(event: str, duration_secs: float, **_: object) -> None:
    if event in COMPILATION_EVENTS:
        _compile_seconds[threading.get_ident()] += duration_secs


jax.monitoring.register_event_duration_secs_listener(_add_seconds)
