"""The mesh of devices over which seeds are distributed and batches are split."""

import math
import os
from collections.abc import Iterator

import jax
import numpy as np
from jax.sharding import (
    AxisType,
    Mesh,
    NamedSharding,
    PartitionSpec,
    Sharding,
    SingleDeviceSharding,
)

from rnnmnist.config.platforms import MOST_CPU_DEVICES
from rnnmnist.errors import UserError, first_line
from rnnmnist.runtime.machine import usable_cores

# The axes: the networks, and the shards of their batches.
SEEDS = "seeds"
BATCH = "batch"


def set_cpu_devices(
    batch_size: int, num_devices: int | None, num_seeds: int, num_processes: int
) -> None:
    """Splits the CPU into several devices, which is faster.

    Only entry points call it, before jax initializes its devices. An explicit count in
    `XLA_FLAGS` takes precedence.

    Args:
        batch_size: examples per network and step.
        num_devices: of all processes together; None takes the most over which seeds and
            batch can be split, at most one per usable core and `MOST_CPU_DEVICES` per
            process.
        num_seeds: networks that are trained together.
        num_processes: among which the devices are divided.
    """
    if "xla_force_host_platform_device_count" in os.environ.get("XLA_FLAGS", ""):
        return
    if num_devices is None:
        most = num_processes * min(usable_cores(), MOST_CPU_DEVICES)
        grid = _grid(batch_size, num_seeds, num_processes, most)
        num_devices = math.prod(grid) if grid else num_processes
    local_devices = max(1, num_devices // num_processes)
    jax.config.update("jax_num_cpu_devices", local_devices)
    if num_seeds > 1 and jax.__version_info__ < (0, 11):
        # In these versions a device blocks one of XLA's threads while it waits for the
        # others, and an ensemble's work needs a thread too: 0.10.2 hangs without one
        # more. A single network does not need it and would be slower.
        threads = max(usable_cores(), local_devices) + 1
        os.environ.setdefault("NPROC", str(threads))


def devices() -> list[jax.Device]:
    """Returns the devices of jax's default platform, over all processes."""
    try:
        return jax.devices()
    except Exception as error:  # RuntimeError, or an assertion in jax
        platforms = os.environ.get("JAX_PLATFORMS")
        hint = f"; JAX_PLATFORMS={platforms} requires it" if platforms else ""
        raise UserError(f"jax finds no device: {first_line(error)}{hint}") from error


def make_mesh(batch_size: int, num_devices: int | None, num_seeds: int) -> Mesh:
    """Returns a mesh with axes (`seeds`, `batch`) over the devices of all processes.

    Seeds are distributed first, since networks do not communicate. The remaining
    devices split each network's batch.

    Args:
        batch_size: examples per network and step.
        num_devices: to use, the same number from each process; None takes the most over
            which seeds and batch can be split.
        num_seeds: networks that are trained together.
    """
    found = devices()
    num_processes = jax.process_count()
    by_process = [
        [device for device in found if device.process_index == index]
        for index in range(num_processes)
    ]
    most = num_processes * min(map(len, by_process))
    grid = _grid(batch_size, num_seeds, num_processes, most, num_devices)
    if grid is None:
        allowed = _grid(batch_size, num_seeds, num_processes, most)
        if allowed is None:
            multiple = math.ceil(batch_size / num_processes) * num_processes
            raise UserError(
                f"train.batch_size: must be a multiple of the {num_processes} "
                f"processes, not {batch_size}; use {multiple}"
            )
        raise UserError(
            "execution.num_devices: must divide num_seeds x train.batch_size = "
            f"{num_seeds * batch_size}, be at most {most} and a multiple of "
            f"num_processes={num_processes}, not {num_devices}; use "
            f"{math.prod(allowed)}"
        )
    per_process = math.prod(grid) // num_processes
    chosen = [device for own in by_process for device in own[:per_process]]
    return Mesh(
        np.array(chosen).reshape(grid), (SEEDS, BATCH), axis_types=(AxisType.Auto,) * 2
    )


def _grid(
    batch_size: int,
    num_seeds: int,
    num_processes: int,
    most: int,
    num_devices: int | None = None,
) -> tuple[int, int] | None:
    """Returns the mesh's shape with at most `most` devices; None if there is none."""
    for seeds in _divisors(num_seeds, most):
        for batch in _divisors(batch_size, most // seeds):
            total = seeds * batch
            if not total % num_processes and num_devices in (None, total):
                return seeds, batch
    return None


def _divisors(number: int, at_most: int) -> Iterator[int]:
    """Yields the divisors of a number up to a bound, in descending order."""
    return (count for count in range(at_most, 0, -1) if number % count == 0)


def over_seeds(mesh: Mesh) -> NamedSharding:
    """Returns the sharding of the leading ensemble axis over the mesh."""
    return NamedSharding(mesh, PartitionSpec(SEEDS))


def platform_of(mesh: Mesh) -> str:
    """Returns the platform of a mesh's devices, which need not be present."""
    return str(mesh.devices.flat[0].platform)


def replicated(mesh: Mesh) -> NamedSharding:
    """Returns the sharding with a copy of the array on every device."""
    return NamedSharding(mesh, PartitionSpec())


def local_sharding() -> SingleDeviceSharding:
    """Returns the sharding on one device of this process."""
    return SingleDeviceSharding(jax.local_devices()[0])


def device_put(array: np.ndarray | np.generic, sharding: Sharding) -> jax.Array:
    """Distributes an array over devices, including those of other processes.

    The array must be the same on all processes; each copies its own devices' shards.
    """
    whole = np.asarray(array)
    with jax.transfer_guard_host_to_device("allow"):  # an intended copy
        return jax.make_array_from_callback(
            whole.shape, sharding, lambda index: whole[index]
        )
