"""What this machine is: its cores, its memory, its devices, and unused ones."""

import collections
import logging
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

from rnnmnist.errors import RunError, UserError, first_line
from rnnmnist.runtime.mesh import devices, make_mesh, usable_cores

GIB, MIB = 2**30, 2**20


class Accelerator(NamedTuple):
    """A kind of device that jax can use, and what gives its presence away."""

    platform: str  # as jax calls its devices
    name: str
    backend: str  # as jax calls the library behind them
    plugins: tuple[str, ...]  # distributions that bring the library
    extra: str  # what to install where there is none
    paths: tuple[str, ...]  # patterns below the root
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
            "usr/lib/wsl/lib/nvidia-smi",  # Windows' subsystem has no driver file
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


def describe() -> str:
    """The system, the cores that this process may use, and the memory."""
    cores = usable_cores()
    total = memory()
    return (
        f"{platform.system()} on {platform.machine()}, {cores} usable "
        f"core{'s' if cores > 1 else ''}"
        + (f", {total / GIB:.1f} GiB of memory" if total else "")
    )


def hardware() -> str:
    """The processor's name and how many cores this process may use."""
    info = Path("/proc/cpuinfo")
    text = info.read_text() if info.exists() else ""
    found = re.search(r"model name\s*: (.*)", text)
    model = found[1] if found else platform.processor() or platform.machine()
    return f"{usable_cores()} cores of {model}"


def memory(root: Path = Path("/")) -> int:
    """Bytes of main memory, or what a container may take of them; 0 if unknown."""
    try:
        total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (OSError, ValueError):
        return 0
    limit = root / "sys/fs/cgroup/memory.max"
    text = limit.read_text().strip() if limit.is_file() else "max"
    return min(total, int(text)) if text.isdecimal() else total


def describe_devices(batch_size: int, num_devices: int | None, num_seeds: int) -> str:
    """The devices that a run would use, of those that there are.

    Args:
        batch_size: images that the devices of a network share.
        num_devices: how many; None takes the most that can share seeds and batch.
        num_seeds: networks that are trained together.

    Raises:
        UserError: when there are none, or not so many, or they do not divide the
            batch.
    """
    # What jax warns of when it falls back to the CPU, `remedy` says as well.
    logging.getLogger("jax._src.xla_bridge").setLevel(logging.ERROR)
    found = devices()
    mesh = make_mesh(batch_size, num_devices, num_seeds)
    first = found[0]
    kind = "" if first.device_kind == first.platform else f" {first.device_kind}"
    names = ", ".join(map(str, found[:8])) + (", …" if len(found) > 8 else "")
    text = f"{mesh.size} of {len(found)} x {first.platform}{kind} ({names})"
    if mesh.size < len(found) and num_devices is None:
        seeds = f"{num_seeds} seeds and " if num_seeds > 1 else ""
        text += f", the most that divide {seeds}a batch of {batch_size}"
    if first.platform != "cpu":
        return text
    unused = [remedy(accelerator) for accelerator in seen()]
    return "; ".join([text, *(unused or ["no accelerator: a run uses the CPU"])])


def require(wanted: str) -> None:
    """Holds that a run would use devices of a platform, `tpu` or `gpu`.

    Raises:
        RunError: when they are others, with the remedy.
    """
    (kind,) = [kind for kind in ACCELERATORS if kind.platform == wanted]
    try:
        counts = collections.Counter(device.platform for device in devices())
    except UserError as error:
        help_ = remedy(kind) if kind in seen() else f"this machine shows no {kind.name}"
        raise RunError(f"--require={wanted}: {error}; {help_}") from error
    if wanted in counts:
        return
    found = ", ".join(f"{count} x {name}" for name, count in counts.items())
    raise RunError(
        f"--require={wanted}: the devices here are {found}; "
        + (
            remedy(kind)
            if kind in seen()
            else f"this machine shows no {kind.name}; use one that has it (in Colab: "
            "Runtime, Change runtime type)"
        )
    )


def seen(
    root: Path = Path("/"), environment: Mapping[str, str] = os.environ
) -> list[Accelerator]:
    """The accelerators that seem to be here, whether or not jax knows of them."""
    return [
        kind
        for kind in ACCELERATORS
        if any(environment.get(name) for name in kind.variables)
        or any(next(root.glob(pattern), None) for pattern in kind.paths)
    ]


def remedy(kind: Accelerator, environment: Mapping[str, str] = os.environ) -> str:
    """Why jax does not use an accelerator that seems to be here, and what helps."""
    start = f"a {kind.name} seems to be here, but jax does not use it: "
    named = environment.get("JAX_PLATFORMS", "")
    if named and not {kind.platform, kind.backend} & set(named.split(",")):
        return f"{start}JAX_PLATFORMS={named} forbids it; unset that"
    plugins = [name for name in kind.plugins if _is_installed(name)]
    if not plugins:
        return f"{start}pip install '{kind.extra}'"
    try:
        jax.devices(kind.backend)
        why = "jax prefers another"
    except Exception as error:  # each library fails in its own way
        why = first_line(error)
    return f"{start}{plugins[0]} is installed, but {why}"


def describe_memory() -> str:
    """The most memory that was in use: this process's, and each device's if it says."""
    parts = [f"{_peak() / MIB:,.0f} MiB at most in this process"]
    for device in jax.local_devices():
        stats = device.memory_stats() or {}
        if "peak_bytes_in_use" in stats:
            used = stats["peak_bytes_in_use"] / MIB
            limit = stats.get("bytes_limit", 0) / MIB
            of = f" of {limit:,.0f}" if limit else ""
            parts.append(f"{used:,.0f}{of} MiB at most on {device}")
    return ", ".join(parts)


def _is_installed(distribution: str) -> bool:
    try:
        metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return False
    return True


def _peak() -> int:
    """Bytes of main memory that this process has had at most."""
    status = Path("/proc/self/status")
    text = status.read_text() if status.exists() else ""
    if found := re.search(r"VmHWM:\s*(\d+) kB", text):
        return int(found[1]) * 1024  # its own, while getrusage's starts at its parent's
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024
