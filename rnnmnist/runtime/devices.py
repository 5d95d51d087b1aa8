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

    All processes contribute the same number of devices. If `num_devices` is None, seeds
    are distributed first, because members do not communicate: the ensemble axis has the
    largest number of devices that divides `num_seeds`. The remaining devices split each
    member's batch. This can leave devices unused: six seeds use three of four devices.
    If `batch_size` is None, all devices split the batch, and seeds are not distributed.

    If jax has not initialized its devices, the CPU is first split into several devices,
    which is faster.
    """
    _split_cpu(num_devices, is_ensemble=num_seeds > 1)
    if batch_size is None:
        num_seeds = 1
    process_devices = [_local_devices(index) for index in range(process_count())]
    available = len(process_devices) * min(map(len, process_devices))
    shape = _mesh_shape(batch_size, num_seeds, available, num_devices)
    if shape is None:
        rule = (
            f"be at most {available} and a multiple of num_processes={process_count()}"
        )
        if batch_size is not None:
            examples = num_seeds * batch_size
            rule = f"divide num_seeds x train.batch_size = {examples}, and {rule}"
        raise UserError(f"execution.num_devices: must {rule}, not {num_devices}")
    per_process = math.prod(shape) // len(process_devices)
    chosen = [device for local in process_devices for device in local[:per_process]]
    return _build_mesh(chosen, shape)


def make_device_mesh(backend: str | None = None) -> Mesh:
    """Returns a mesh with a single device of this process, for predictions.

    The device belongs to `backend` if jax is allowed to use it, otherwise to jax's
    default backend. On the backend `cpu`, matrix products have float32 precision by
    default.

    If jax has not initialized its devices, the CPU is split as for a run, which can
    follow.
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
    except Exception as error:  # RuntimeError, or an assertion in jax
        platforms = os.environ.get("JAX_PLATFORMS")
        hint = f"; JAX_PLATFORMS={platforms} requires one" if platforms else ""
        raise UserError(
            f"jax finds no device: {summarize_error(error)}{hint}"
        ) from error


def _split_cpu(num_devices: int | None, *, is_ensemble: bool) -> None:
    """Splits the CPU into several devices, unless jax has initialized its devices.

    `num_devices` is the number for all processes together. If it is None, there is one
    device per usable core, at most `MAX_CPU_DEVICES`, even if the current run needs
    fewer, because later runs in this process can need more. An explicit count in
    `JAX_NUM_CPU_DEVICES` or `XLA_FLAGS` takes precedence. `is_ensemble` is True if a
    run can have several seeds.
    """
    config: Any = jax.config  # some versions do not declare its attributes
    flags = os.environ.get("XLA_FLAGS", "")
    is_split_by_flag = "xla_force_host_platform_device_count" in flags
    if is_split_by_flag or config.jax_num_cpu_devices > 0:
        return
    local_devices = min(usable_cores(), MAX_CPU_DEVICES)
    if num_devices is not None:
        local_devices = max(1, num_devices // process_count())
    try:
        jax.config.update("jax_num_cpu_devices", local_devices)
    except RuntimeError:  # jax has already initialized its devices
        return
    if is_ensemble and jax.__version_info__ < (0, 11):
        # In these versions, a device blocks an XLA thread while it waits for other
        # devices, and the work of an ensemble needs a thread, too. Without an extra
        # thread, 0.10.2 hangs. A single network does not need it and would be slower.
        threads = max(usable_cores(), local_devices) + 1
        os.environ.setdefault("NPROC", str(threads))


def _mesh_shape(
    batch_size: int | None,
    num_seeds: int,
    available: int,
    num_devices: int | None = None,
) -> tuple[int, int] | None:
    """Returns the possible mesh shape with the largest ensemble axis, then batch axis.

    The mesh has at most `available` devices, or exactly `num_devices`. Returns None if
    no shape is possible.
    """
    shapes = [
        (members, batch)
        for members in range(1, available + 1)
        for batch in range(1, available // members + 1)
        if num_seeds % members == 0
        and (batch_size is None or batch_size % batch == 0)
        and members * batch % process_count() == 0
        and num_devices in (None, members * batch)
    ]
    return max(shapes, default=None)
