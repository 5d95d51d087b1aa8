"""Compiled programs: kept for the next start, and the time that they took."""

import contextlib
import functools
import logging
import os
import time
from pathlib import Path
from typing import Any, NamedTuple

import jax

_logger = logging.getLogger(__name__)

# Not tracing, whose events are nested and would be counted more than once.
_EVENTS = {
    "/jax/core/compile/jaxpr_to_mlir_module_duration",
    "/jax/core/compile/backend_compile_duration",
}
_seconds: list[float] = []


def enable_compilation_cache() -> None:
    """Keeps compiled programs in the user's cache folder. Entry points call it.

    `JAX_COMPILATION_CACHE_DIR` names another folder, as everywhere in jax. A
    folder that cannot be written is a warning: the programs are compiled anew.
    """
    _count_compile_seconds()
    try:
        folder = _folder()
        folder.mkdir(parents=True, exist_ok=True)
        probe = folder / f".{os.getpid()}.probe"
        probe.touch()
        probe.unlink()
    except (OSError, RuntimeError) as error:  # RuntimeError: there is no home
        _logger.warning("compiled programs are not kept for the next start: %s", error)
        jax.config.update("jax_enable_compilation_cache", False)
        return
    jax.config.update("jax_compilation_cache_dir", str(folder))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
    jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)


def compile_seconds() -> float:
    """Seconds that jax has spent so far on lowering and compiling."""
    return sum(_seconds)


class Stopwatch:
    """Measures wall-clock seconds without those that jax spends on compiling."""

    def __init__(self) -> None:
        self._begin, self._compiled = time.monotonic(), compile_seconds()

    def seconds(self) -> float:
        """Seconds since the stopwatch was made."""
        elapsed = time.monotonic() - self._begin
        return elapsed - (compile_seconds() - self._compiled)


class CacheContents(NamedTuple):
    """The compiled programs that earlier starts have left."""

    folder: Path
    programs: int
    size: int  # bytes


def cache_contents() -> CacheContents | None:
    """The cache that `enable_compilation_cache` chose; None if there is none."""
    config: Any = jax.config  # not every version declares its attributes
    folder = config.jax_compilation_cache_dir
    if folder is None or not config.jax_enable_compilation_cache:
        return None
    sizes = {}
    for path in Path(folder).iterdir():
        with contextlib.suppress(FileNotFoundError):  # another process's, gone by now
            sizes[path.name] = path.stat().st_size
    programs = sum(name.endswith("-cache") for name in sizes)
    return CacheContents(Path(folder), programs, sum(sizes.values()))


def _folder() -> Path:
    if named := os.environ.get("JAX_COMPILATION_CACHE_DIR"):
        return Path(named)
    caches = os.environ.get("XDG_CACHE_HOME")
    return (Path(caches) if caches else Path.home() / ".cache") / "rnnmnist" / "jax"


@functools.cache  # registered twice, the listener would count every second twice
def _count_compile_seconds() -> None:
    jax.monitoring.register_event_duration_secs_listener(_on_event)


def _on_event(event: str, duration_secs: float, **_: object) -> None:
    if event in _EVENTS:
        _seconds.append(duration_secs)
