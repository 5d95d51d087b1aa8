"""Device meshes for training, evaluation and prediction."""

import math
import os
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh

from rnnmnist.config.platforms import MAX_CPU_DEVICES
from rnnmnist.errors import UserError, summarize_error
from rnnmnist.runtime.jax_internals import process_count
from rnnmnist.runtime.machine import usable_cores
from rnnmnist.runtime.mesh import BATCH, ENSEMBLE


def make_mesh(batch_size: int | None, num_devices: int | None, num_seeds: int) -> Mesh:
    """Returns a mesh with axes (`ensemble`, `batch`) over the devices of all processes.

    All processes contribute the same number of devices. Seeds are distributed first,
    because members do not communicate: the size of the ensemble axis is the largest
    possible divisor of `num_seeds`. The remaining devices split each member's batch.

    If `num_devices` is None, some devices can remain unused. For example, six seeds use
    three of four devices. If `batch_size` is None, seeds are not distributed, and all
    devices split the batch.

    If JAX has not initialized its devices, the CPU is first split into several devices,
    which makes training faster.
    """
    _split_cpu(num_devices, is_ensemble=num_seeds > 1)
    if batch_size is None:
        num_seeds = 1
    process_devices = [_local_devices(index) for index in range(process_count())]
    available = len(process_devices) * min(map(len, process_devices))
    shape = _mesh_shape(batch_size, num_seeds, available, num_devices)
    if shape is None:
        raise UserError(
            f"execution.num_devices: must be at most {available}, a multiple of "
            f"num_processes={process_count()} and, to train step by step, a divisor of "
            f"num_seeds x train.batch_size, but is {num_devices}"
        )
    per_process = math.prod(shape) // len(process_devices)
    mesh_devices = [
        device for devices in process_devices for device in devices[:per_process]
    ]
    return _build_mesh(mesh_devices, shape)


def make_device_mesh(backend: str | None = None) -> Mesh:
    """Returns a mesh with a single device of this process, for predictions.

    The device belongs to `backend` if that backend is available, and otherwise to JAX's
    default backend. The backend `cpu` computes matrix products in float32 by default.

    If JAX has not initialized its devices, the CPU is first split into several devices,
    because a training run can follow.
    """
    _split_cpu(None, is_ensemble=True)
    try:
        devices = jax.local_devices(backend=backend)
    except (RuntimeError, AssertionError):  # for example with JAX_PLATFORMS=cuda
        devices = _local_devices()
    return _build_mesh(devices[:1], (1, 1))


def _build_mesh(devices: Sequence[jax.Device], shape: tuple[int, int]) -> Mesh:
    return Mesh(np.array(devices).reshape(shape), (ENSEMBLE, BATCH))


def _local_devices(process: int | None = None) -> list[jax.Device]:
    """Returns the devices of a process; None for this process."""
    try:
        return jax.local_devices(process)
    except Exception as error:  # RuntimeError, or an assertion in JAX
        platforms = os.environ.get("JAX_PLATFORMS", "")
        raise UserError(
            f"JAX found no device: {summarize_error(error)}; change "
            f"JAX_PLATFORMS={platforms}"
        ) from error


def _split_cpu(num_devices: int | None, *, is_ensemble: bool) -> None:
    """Splits the CPU into several devices, unless JAX has initialized its devices.

    `num_devices` is the total number for all processes. If it is None, there is one
    device per usable core, up to `MAX_CPU_DEVICES`. The current run may need fewer
    devices, but later runs in this process can need more. A number that is set with
    `JAX_NUM_CPU_DEVICES` or `XLA_FLAGS` takes precedence. `is_ensemble` is True if runs
    in this process can have several seeds.
    """
    config: Any = jax.config  # some versions do not declare its attributes
    flags = os.environ.get("XLA_FLAGS", "")
    is_set_by_flag = "xla_force_host_platform_device_count" in flags
    if is_set_by_flag or config.jax_num_cpu_devices > 0:
        return
    local_devices = min(usable_cores(), MAX_CPU_DEVICES)
    if num_devices is not None:
        local_devices = max(1, num_devices // process_count())
    try:
        jax.config.update("jax_num_cpu_devices", local_devices)
    except RuntimeError:  # JAX has already initialized its devices
        return
    if is_ensemble and jax.__version_info__ < (0, 11):
        # In these versions of JAX, a device that waits for other devices blocks an XLA
        # thread. The computations of an ensemble need another thread. If there is none,
        # 0.10.2 hangs. A single network does not need it and would be slower with it.
        threads = max(usable_cores(), local_devices) + 1
        os.environ.setdefault("NPROC", str(threads))


def _mesh_shape(
    batch_size: int | None, num_seeds: int, available: int, num_devices: int | None
) -> tuple[int, int] | None:
    """Returns the best shape for the mesh, (ensemble, batch); None if none is possible.

    The ensemble axis is as large as possible, then the batch axis. The mesh has at most
    `available` devices, and exactly `num_devices` if that is not None.
    """
    shapes = [
        (ensemble_size, batch_shards)
        for ensemble_size in range(1, available + 1)
        for batch_shards in range(1, available // ensemble_size + 1)
        if num_seeds % ensemble_size == 0
        and (batch_size is None or batch_size % batch_shards == 0)
        and ensemble_size * batch_shards % process_count() == 0
        and num_devices in (None, ensemble_size * batch_shards)
    ]
    return max(shapes, default=None)
