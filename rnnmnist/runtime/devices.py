"""The devices of a run, of an evaluation or of a prediction, as a mesh."""

import math
import os
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh

from rnnmnist.config.platforms import MOST_CPU_DEVICES
from rnnmnist.errors import UserError, summarize_error
from rnnmnist.runtime.jax_internals import process_count
from rnnmnist.runtime.machine import usable_cores
from rnnmnist.runtime.mesh import BATCH, ENSEMBLE


def make_mesh(batch_size: int | None, num_devices: int | None, num_seeds: int) -> Mesh:
    """Returns a mesh with axes (`ensemble`, `batch`) over the devices of all processes.

    `num_devices` has the same number from each process. With None, seeds are
    distributed first, since networks do not communicate: over the most devices that
    divide their number. The remaining devices split each network's batch. More devices
    could be used otherwise: six seeds use three of four. A batch size of None can be
    divided by any number of devices, which all split the batch then.

    If jax has no devices yet, the CPU is split into several, which is faster.
    """
    _split_cpu(num_devices, is_ensemble=num_seeds > 1)
    if batch_size is None:
        num_seeds = 1
    process_devices = [_local_devices(index) for index in range(process_count())]
    most = len(process_devices) * min(map(len, process_devices))
    grid = _grid(batch_size, num_seeds, most, num_devices)
    if grid is None:
        rule = f"be at most {most} and a multiple of num_processes={process_count()}"
        if batch_size is not None:
            examples = num_seeds * batch_size
            rule = f"divide num_seeds x train.batch_size = {examples}, and {rule}"
        raise UserError(f"execution.num_devices: must {rule}, not {num_devices}")
    per_process = math.prod(grid) // len(process_devices)
    chosen = [device for own in process_devices for device in own[:per_process]]
    return _build_mesh(chosen, grid)


def make_device_mesh(backend: str | None = None) -> Mesh:
    """Returns the mesh of one device of this process, for predictions.

    It is a device of the backend, unless jax may not use that. On the backend `cpu`,
    products of matrices have the precision of float32 by default.

    If jax has no devices yet, the CPU is split as for a run, since one may follow.
    """
    _split_cpu(None, is_ensemble=True)
    try:
        devices = jax.local_devices(backend=backend)
    except (RuntimeError, AssertionError):  # such as by JAX_PLATFORMS=cuda
        devices = _local_devices()
    return _build_mesh(devices[:1], (1, 1))


def _build_mesh(devices: Sequence[jax.Device], shape: tuple[int, int]) -> Mesh:
    return Mesh(np.array(devices).reshape(shape), (ENSEMBLE, BATCH))


def _local_devices(process: int | None = None) -> list[jax.Device]:
    """Returns the devices of a process; None: of this one."""
    try:
        return jax.local_devices(process)
    except Exception as error:  # RuntimeError, or an assertion in jax
        platforms = os.environ.get("JAX_PLATFORMS")
        hint = f"; JAX_PLATFORMS={platforms} requires one" if platforms else ""
        raise UserError(
            f"jax finds no device: {summarize_error(error)}{hint}"
        ) from error


def _split_cpu(num_devices: int | None, *, is_ensemble: bool) -> None:
    """Splits the CPU into devices, unless jax has its devices already.

    Without a number for all processes, there is one device for each usable core, at
    most `MOST_CPU_DEVICES`: not only as many as the run at hand can use, since others
    may follow in this process. An explicit count in `JAX_NUM_CPU_DEVICES` or
    `XLA_FLAGS` takes precedence. `is_ensemble` is whether a run can have several seeds.
    """
    config: Any = jax.config  # some versions do not declare its attributes
    flags = os.environ.get("XLA_FLAGS", "")
    is_split_by_flag = "xla_force_host_platform_device_count" in flags
    if is_split_by_flag or config.jax_num_cpu_devices > 0:
        return
    local_devices = min(usable_cores(), MOST_CPU_DEVICES)
    if num_devices is not None:
        local_devices = max(1, num_devices // process_count())
    try:
        jax.config.update("jax_num_cpu_devices", local_devices)
    except RuntimeError:  # jax has its devices already
        return
    if is_ensemble and jax.__version_info__ < (0, 11):
        # In these versions a device blocks one of XLA's threads while it waits for the
        # others, and an ensemble's work needs a thread too: 0.10.2 hangs without one
        # more. A single network does not need it and would be slower.
        threads = max(usable_cores(), local_devices) + 1
        os.environ.setdefault("NPROC", str(threads))


def _grid(
    batch_size: int | None, num_seeds: int, most: int, num_devices: int | None = None
) -> tuple[int, int] | None:
    """Returns the mesh's shape, of at most `most` devices or exactly `num_devices`.

    Of several, it is the one with the most devices for the seeds, and then for the
    batch. None if there is none.
    """
    shapes = [
        (members, batch)
        for members in range(1, most + 1)
        for batch in range(1, most // members + 1)
        if num_seeds % members == 0
        and (batch_size is None or batch_size % batch == 0)
        and members * batch % process_count() == 0
        and num_devices in (None, members * batch)
    ]
    return max(shapes, default=None)
