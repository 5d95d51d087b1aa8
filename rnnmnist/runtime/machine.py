"""This machine: its cores, memory and installed libraries. Imports no jax."""

import os
import platform
import re
from collections.abc import Mapping
from importlib import metadata
from pathlib import Path

import psutil

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
    """Returns the number of cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1  # macOS


def describe_processor() -> str:
    """Returns the number of usable cores, the processor's name and its vector width.

    The names of virtual processors are often the same for several generations.
    """
    info = Path("/proc/cpuinfo")
    text = info.read_text() if info.exists() else ""
    match = re.search(r"model name\s*: (.*)", text)
    model = match[1] if match else platform.processor() or platform.machine()
    names = {"avx512f": " with AVX-512", "avx2": " with AVX2"}
    vectors = next((name for flag, name in names.items() if flag in text.split()), "")
    cores = usable_cores()
    return f"{cores} core{'s' if cores > 1 else ''} of {model}{vectors}"


def main_memory(limit: Path = Path("/sys/fs/cgroup/memory.max")) -> int:
    """Returns the bytes of main memory, or the limit of a container."""
    total = psutil.virtual_memory().total
    text = limit.read_text().strip() if limit.is_file() else "max"
    return total if text == "max" else min(total, int(text))


def installed_versions() -> dict[str, str]:
    """Returns the versions of Python and of `LIBRARIES`, by name."""
    versions = {name: metadata.version(name) for name in LIBRARIES}
    versions["python"] = platform.python_version()
    return dict(sorted(versions.items()))


def join_versions(versions: Mapping[str, str]) -> str:
    """Lists versions in one line: `jax 0.10.2, numpy 2.4.6`."""
    return ", ".join(map(" ".join, versions.items()))
