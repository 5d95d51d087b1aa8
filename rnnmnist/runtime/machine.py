"""Describes this machine: cores, memory and library versions.

This module does not import `jax`.
"""

import os
import platform
import re
from importlib import metadata
from pathlib import Path
from typing import NamedTuple

import psutil

CGROUP = Path("/sys/fs/cgroup")  # in a container, the container's control group
LIBRARIES = (
    "array_record",
    "flax",
    "jax",
    "numpy",
    "optax",
    "orbax-checkpoint",
    "tensorflow-datasets",
)


def usable_cores() -> int:
    """Returns the number of cores that this process is allowed to use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1  # macOS has no CPU affinity


def describe_processor() -> str:
    """Describes the processor: usable cores, model name and vector instructions.

    The vector instructions distinguish generations of virtual processors, which often
    have the same model name.
    """
    info = Path("/proc/cpuinfo")
    text = info.read_text() if info.exists() else ""
    match = re.search(r"model name\s*: (.*)", text)
    model = match[1] if match else platform.processor() or platform.machine()
    suffixes = {"avx512f": " with AVX-512", "avx2": " with AVX2"}
    flags = text.split()
    suffix = next((suffix for flag, suffix in suffixes.items() if flag in flags), "")
    cores = usable_cores()
    return f"{cores} core{'s' if cores > 1 else ''} of {model}{suffix}"


class Memory(NamedTuple):
    """Main memory, in bytes."""

    total: int
    available: int


def main_memory() -> Memory:
    """Returns the total and the available memory of this machine.

    In a container with a memory limit, the total is at most the limit, and the
    available memory is at most the limit minus the memory that this process uses. The
    container's reported usage is not subtracted, because it includes the page cache,
    which the kernel can drop.
    """
    host = psutil.virtual_memory()
    limit = CGROUP / "memory.max"
    text = limit.read_text().strip() if limit.is_file() else "max"
    if text == "max":
        return Memory(host.total, host.available)
    available = max(0, int(text) - psutil.Process().memory_info().rss)
    return Memory(min(host.total, int(text)), min(host.available, available))


def installed_versions() -> dict[str, str]:
    """Returns the versions of Python and all `LIBRARIES`, by name."""
    versions = {name: metadata.version(name) for name in LIBRARIES}
    versions["python"] = platform.python_version()
    return dict(sorted(versions.items()))
