"""The hardware of this machine: cores, memory, devices and unused accelerators."""

import collections
import logging
import math
import os
import platform
import re
import resource
import sys
from collections.abc import Mapping
from importlib import metadata
from pathlib import Path
from typing import NamedTuple

import jax

from rnnmnist.config.platforms import execution_of
from rnnmnist.config.schema import Config
from rnnmnist.errors import RunError, UserError, first_line
from rnnmnist.runtime.mesh import devices, make_mesh, usable_cores

GIB, MIB = 2**30, 2**20


class Accelerator(NamedTuple):
    """A kind of accelerator, and the signs of its presence."""

    platform: str  # of its devices in jax
    name: str
    backend: str  # name for `jax.devices`
    plugins: tuple[str, ...]  # distributions that contain the backend
    extra: str  # to install if none of them is
    paths: tuple[str, ...]  # glob patterns below the root
    variables: tuple[str, ...]  # of the environment


ACCELERATORS = (
    Accelerator(
        platform="gpu",
        name="GPU",
        backend="cuda",
        plugins=("jax-cuda12-plugin", "jax-cuda13-plugin"),
        extra="jax[cuda12]",
        paths=(
            "proc/driver/nvidia/version",
            "dev/nvidia[0-9]*",
            "usr/lib/wsl/lib/nvidia-smi",  # WSL has no driver file
        ),
        variables=(),
    ),
    Accelerator(
        platform="tpu",
        name="TPU",
        backend="tpu",
        plugins=("libtpu",),
        extra="jax[tpu]",
        paths=("dev/accel[0-9]*", "dev/vfio/[0-9]*"),
        variables=("COLAB_TPU_ADDR", "TPU_NAME", "TPU_ACCELERATOR_TYPE"),
    ),
)
_failures: dict[str, BaseException] = {}  # of plugins, by what jax logs of them


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
    """Describes the devices of `make_mesh`, and unused accelerators."""
    # jax logs why it falls back to the CPU; `remedy` describes the reason in one line.
    logging.getLogger("jax._src.xla_bridge").addFilter(_keep_failure)
    found = devices()
    mesh = make_mesh(batch_size, num_devices, num_seeds)
    first = found[0]
    kind = "" if first.device_kind == first.platform else f" {first.device_kind}"
    names = ", ".join(map(str, found[:8])) + (", …" if len(found) > 8 else "")
    text = f"{mesh.size} of {len(found)} x {first.platform}{kind} ({names})"
    if mesh.size < len(found) and num_devices is None:
        seeds = f"{num_seeds} seeds and " if num_seeds > 1 else ""
        text += f", the most that can split {seeds}a batch of {batch_size}"
    if first.platform != "cpu":
        return text
    unused = [remedy(accelerator) for accelerator in detect_accelerators()]
    return "; ".join([text, *(unused or ["no accelerator: a run uses the CPU"])])


def describe_execution(config: Config) -> str:
    """Describes how programs run on the platform of the devices."""
    return execution_of(config, devices()[0].platform).describe()


def require_platform(platform: str) -> None:
    """Checks that a run would use devices of a platform, `tpu` or `gpu`."""
    (accelerator,) = [kind for kind in ACCELERATORS if kind.platform == platform]
    try:
        counts = collections.Counter(device.platform for device in devices())
    except UserError as error:
        found = str(error)
    else:
        if platform in counts:
            return
        names = ", ".join(f"{count} x {name}" for name, count in counts.items())
        found = f"the devices here are {names}"
    if accelerator in detect_accelerators():
        hint = remedy(accelerator)
    else:
        hint = (
            f"no {accelerator.name} was detected; use a machine with one (in Colab: "
            "Runtime, Change runtime type)"
        )
    raise RunError(f"require: jax uses no {platform}: {found}; {hint}")


def detect_accelerators(
    root: Path = Path("/"), environment: Mapping[str, str] = os.environ
) -> list[Accelerator]:
    """Returns the accelerators that seem to be present, usable by jax or not."""
    return [
        kind
        for kind in ACCELERATORS
        if any(environment.get(name) for name in kind.variables)
        or any(next(root.glob(pattern), None) for pattern in kind.paths)
    ]


def remedy(kind: Accelerator, environment: Mapping[str, str] = os.environ) -> str:
    """Describes why jax does not use a detected accelerator, and the remedy."""
    start = f"a {kind.name} was detected, but jax does not use it: "
    platforms = environment.get("JAX_PLATFORMS", "")
    if platforms and not {kind.platform, kind.backend} & set(platforms.split(",")):
        return f"{start}JAX_PLATFORMS={platforms} excludes it; unset that"
    plugins = [name for name in kind.plugins if _is_installed(name)]
    if not plugins:
        return f"{start}pip install '{kind.extra}'"
    try:
        jax.devices(kind.backend)
        reason = "jax prefers another platform"
    except Exception as error:  # each plugin raises its own kinds
        causes = [cause for log, cause in _failures.items() if kind.backend in log]
        reason = first_line(causes[0] if causes else error)
    return f"{start}{plugins[0]} is installed, but {reason}"


def _keep_failure(record: logging.LogRecord) -> bool:
    """Keeps the exception of a log record of jax instead of showing it."""
    if record.exc_info and record.exc_info[1]:
        _failures[record.getMessage()] = record.exc_info[1]
        return False
    return record.levelno >= logging.ERROR


def describe_memory() -> str:
    """Describes the peak memory of this process, and of each device if it is known."""
    parts = [f"peak of {_peak_memory() / MIB:,.0f} MiB in this process"]
    for device in jax.local_devices():
        stats = device.memory_stats() or {}
        if "peak_bytes_in_use" in stats:
            used = stats["peak_bytes_in_use"] / MIB
            limit = stats.get("bytes_limit", 0) / MIB
            of = f" of {limit:,.0f}" if limit else ""
            parts.append(f"{used:,.0f}{of} MiB on {device}")
    return ", ".join(parts)


def _is_installed(distribution: str) -> bool:
    try:
        metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return False
    return True


def _peak_memory() -> int:
    """Returns the peak resident bytes of this process."""
    status = Path("/proc/self/status")
    text = status.read_text() if status.exists() else ""
    if found := re.search(r"VmHWM:\s*(\d+) kB", text):
        return int(found[1]) * 1024  # getrusage includes the parent's peak
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024
