"""Device meshes for training, evaluation and prediction."""

import math
import os
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh

from rnnmnist.config.schema import MAX_CPU_DEVICES
from rnnmnist.errors import UserError, summarize_error
from rnnmnist.runtime.jax_internals import process_count
from rnnmnist.runtime.machine import usable_cores
from rnnmnist.runtime.mesh import BATCH, ENSEMBLE


def make_mesh(batch_size: int | None, num_devices: int | None, num_seeds: int) -> Mesh:
    """Returns a mesh with axes (`ensemble`, `batch`) over the devices of all processes.

    All processes contribute the same number of devices. Members are sharded first,
    because they do not communicate: the size of the ensemble axis is the largest
    possible divisor of `num_seeds`. The remaining devices shard each member's batch.

    If `num_devices` is None, some devices can remain unused. For example, six seeds use
    three of four devices. If `batch_size` is None, members are not sharded: all devices
    shard the batch.

    If JAX has not initialized its backends, the CPU is first split into several
    devices, which makes training faster.

    Raises:
        UserError: if no mesh with `num_devices` devices is valid.
    """
    _split_cpu(num_devices, may_train_ensembles=num_seeds > 1)
    if batch_size is None:
        num_seeds = 1
    process_devices = [_local_devices(index) for index in range(process_count())]
    num_available = len(process_devices) * min(map(len, process_devices))
    shape = _mesh_shape(batch_size, num_seeds, num_available, num_devices)
    if shape is None:
        raise UserError(
            f"execution.num_devices: is {num_devices}, but must be at most "
            f"{num_available} (a process keeps the CPU devices of its first run), "
            f"a multiple of num_processes={process_count()}, and, unless "
            "model.cell=filters, a divisor of num_seeds x train.batch_size"
        )
    num_per_process = math.prod(shape) // len(process_devices)
    mesh_devices = [
        device for devices in process_devices for device in devices[:num_per_process]
    ]
    return _build_mesh(mesh_devices, shape)


def make_single_device_mesh(backend: str | None = None) -> Mesh:
    """Returns a mesh with a single device of this process, for predictions.

    The device belongs to `backend` if that backend is available, and otherwise to JAX's
    default backend. Unlike on accelerators, the default precision of matrix products on
    the backend `cpu` is float32.

    If JAX has not initialized its backends, the CPU is first split into several
    devices, because a training run may follow in this process.
    """
    _split_cpu(None, may_train_ensembles=True)
    try:
        devices = jax.local_devices(backend=backend)
    except (RuntimeError, AssertionError):  # for example with JAX_PLATFORMS=cuda
        devices = _local_devices()
    return _build_mesh(devices[:1], (1, 1))


def _build_mesh(devices: Sequence[jax.Device], shape: tuple[int, int]) -> Mesh:
    return Mesh(np.array(devices).reshape(shape), (ENSEMBLE, BATCH))


def _local_devices(process: int | None = None) -> list[jax.Device]:
    """Returns the devices of a process. None means this process."""
    try:
        return jax.local_devices(process)
    except Exception as error:  # JAX raises a RuntimeError or an AssertionError
        platforms = os.environ.get("JAX_PLATFORMS", "")
        raise UserError(
            f"JAX found no device: {summarize_error(error)}; change "
            f"JAX_PLATFORMS={platforms}"
        ) from error


def _split_cpu(num_devices: int | None, *, may_train_ensembles: bool) -> None:
    """Splits the CPU into several devices, unless JAX has initialized its backends.

    `num_devices` is the total number of devices of all processes. If it is None, each
    usable core becomes a device, up to `MAX_CPU_DEVICES` devices per process: the
    current run may need fewer devices, but later runs in this process may need more. A
    number of devices set with `JAX_NUM_CPU_DEVICES` or `XLA_FLAGS` takes precedence.
    `may_train_ensembles` is True if a run in this process may have several seeds.
    """
    config: Any = jax.config  # some JAX versions do not declare its options
    flags = os.environ.get("XLA_FLAGS", "")
    is_set_by_flag = "xla_force_host_platform_device_count" in flags
    if is_set_by_flag or config.jax_num_cpu_devices > 0:
        return
    num_local_devices = min(usable_cores(), MAX_CPU_DEVICES)
    if num_devices is not None:
        num_local_devices = max(1, num_devices // process_count())
    try:
        jax.config.update("jax_num_cpu_devices", num_local_devices)
    except RuntimeError:  # JAX has already initialized its backends
        return
    if may_train_ensembles and jax.__version_info__ < (0, 11):
        # Before JAX 0.11, a device that waits for other devices blocks an XLA thread,
        # so an ensemble needs an extra thread; without it, JAX 0.10.2 deadlocks. A
        # single network does not need the extra thread, and would be slower with it.
        num_threads = max(usable_cores(), num_local_devices) + 1
        os.environ.setdefault("NPROC", str(num_threads))


def _mesh_shape(
    batch_size: int | None, num_seeds: int, num_available: int, num_devices: int | None
) -> tuple[int, int] | None:
    """Returns the best mesh shape, (ensemble, batch). None if no shape is valid.

    Maximizes the ensemble axis first, then the batch axis. The mesh has at most
    `num_available` devices. If `num_devices` is not None, the mesh has exactly
    `num_devices` devices.
    """
    shapes = [
        (ensemble_axis_size, batch_axis_size)
        for ensemble_axis_size in range(1, num_available + 1)
        for batch_axis_size in range(1, num_available // ensemble_axis_size + 1)
        if num_seeds % ensemble_axis_size == 0
        and (batch_size is None or batch_size % batch_axis_size == 0)
        and ensemble_axis_size * batch_axis_size % process_count() == 0
        and num_devices in (None, ensemble_axis_size * batch_axis_size)
    ]
    return max(shapes, default=None)
