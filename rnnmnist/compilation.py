"""Compiled programs: kept for the next start, and the time that they took."""

import logging
import os
from pathlib import Path

import jax

_logger = logging.getLogger(__name__)

_EVENTS = "/jax/core/compile/"
_seconds: list[float] = []


def keep_programs() -> None:
    """Keeps compiled programs in the user's cache folder. Entry points call it.

    `JAX_COMPILATION_CACHE_DIR` names another folder, as everywhere in jax. A
    folder that cannot be written is a warning: the programs are compiled anew.
    """
    jax.monitoring.register_event_duration_secs_listener(_on_event)
    caches = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    folder = Path(
        os.environ.get("JAX_COMPILATION_CACHE_DIR") or caches / "rnnmnist" / "jax"
    )
    try:
        folder.mkdir(parents=True, exist_ok=True)
        probe = folder / f".{os.getpid()}.probe"
        probe.touch()
        probe.unlink()
    except OSError as error:
        _logger.warning("compiled programs are not kept for the next start: %s", error)
        jax.config.update("jax_enable_compilation_cache", False)
        return
    jax.config.update("jax_compilation_cache_dir", str(folder))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
    jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)


def compile_seconds() -> float:
    """Seconds that jax has spent so far on tracing, lowering and compiling."""
    return sum(_seconds)


def _on_event(event: str, duration_secs: float, **_: object) -> None:
    if event.startswith(_EVENTS):
        _seconds.append(duration_secs)
