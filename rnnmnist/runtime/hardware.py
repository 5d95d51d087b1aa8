"""The hardware of this machine: cores, memory and devices."""

import collections
import logging
import math
import os
import platform
import re
from pathlib import Path

import jax

from rnnmnist.errors import RunError, UserError, first_line
from rnnmnist.runtime.mesh import devices, make_mesh, usable_cores

GIB = 2**30
_diagnosis: list[str] = []  # what jax says of accelerators that it does not use


def describe() -> str:
    """Describes the operating system, the usable cores and the memory."""
    cores = usable_cores()
    total = main_memory()
    return (
        f"{platform.system()} on {platform.machine()}, {cores} usable "
        f"core{'s' if cores > 1 else ''}"
        + (f", {total / GIB:.1f} GiB of memory" if total else "")
    )


def describe_processor() -> str:
    """Returns the number of usable cores, the processor's name and its vector width.

    The names of virtual processors are often the same for several generations.
    """
    info = Path("/proc/cpuinfo")
    text = info.read_text() if info.exists() else ""
    found = re.search(r"model name\s*: (.*)", text)
    model = found[1] if found else platform.processor() or platform.machine()
    names = {"avx512f": " with AVX-512", "avx2": " with AVX2"}
    vectors = next((name for flag, name in names.items() if flag in text.split()), "")
    cores = usable_cores()
    return f"{cores} core{'s' if cores > 1 else ''} of {model}{vectors}"


def main_memory(root: Path = Path("/")) -> int:
    """Returns the bytes of main memory, or a container's limit; 0 if unknown."""
    try:
        total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (OSError, ValueError):
        return 0
    limit = root / "sys/fs/cgroup/memory.max"
    text = limit.read_text().strip() if limit.is_file() else "max"
    return min(total, int(text)) if text.isdecimal() else total


def device_memory(mesh: jax.sharding.Mesh) -> float:
    """Returns the bytes of memory of a device; infinity if unknown.

    The CPU devices of a process share its main memory.
    """
    local = [device for device in mesh.devices.flat if device in jax.local_devices()]
    stats = local[0].memory_stats() or {}
    if "bytes_limit" in stats:
        return float(stats["bytes_limit"])
    return main_memory() / len(local) or math.inf


def describe_devices(batch_size: int, num_devices: int | None, num_seeds: int) -> str:
    """Describes the devices of `make_mesh`, and why jax uses no accelerator."""
    # jax logs this when it looks for devices.
    logging.getLogger("jax._src.xla_bridge").addFilter(_keep)
    found = devices()
    mesh = make_mesh(batch_size, num_devices, num_seeds)
    first = found[0]
    kind = "" if first.device_kind == first.platform else f" {first.device_kind}"
    names = ", ".join(map(str, found[:8])) + (", …" if len(found) > 8 else "")
    text = f"{mesh.size} of {len(found)} x {first.platform}{kind} ({names})"
    if mesh.size < len(found) and num_devices is None:
        seeds = f"{num_seeds} seeds and " if num_seeds > 1 else ""
        text += f", the most that can split {seeds}a batch of {batch_size}"
    return text if first.platform != "cpu" else f"{text}; {_describe_missing()}"


def require_platform(platform: str) -> None:
    """Checks that a run would use devices of a platform, `tpu` or `gpu`."""
    try:
        counts = collections.Counter(device.platform for device in devices())
    except UserError as error:
        found = str(error)
    else:
        if platform in counts:
            return
        names = ", ".join(f"{count} x {name}" for name, count in counts.items())
        found = f"the devices here are {names}"
    raise RunError(
        f"require: jax uses no {platform}: {found}; {_describe_missing()}; install "
        f"jax[{'cuda12' if platform == 'gpu' else platform}] on a machine with one (in "
        "Colab: Runtime, Change runtime type)"
    )


def _describe_missing() -> str:
    """Describes why jax uses no accelerator, in its own words."""
    platforms = os.environ.get("JAX_PLATFORMS")
    limited = [f"JAX_PLATFORMS={platforms} excludes others"] if platforms else []
    return "; ".join([*limited, *_diagnosis]) or "jax found no accelerator"


def _keep(record: logging.LogRecord) -> bool:
    """Keeps a log record of jax in one line, and shows it only if it is an error."""
    error = record.exc_info[1] if record.exc_info else None
    reason = f": {first_line(error)}" if error else ""
    _diagnosis.append(record.getMessage() + reason)
    return record.levelno >= logging.ERROR and error is None
