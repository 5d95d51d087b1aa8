"""The devices of a run, in one row: batches are split over them."""

import os

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

from rnnmnist.errors import UserError, first_line

AXIS = "batch"
MOST_CPU_DEVICES = 8  # beyond these the sums between devices cost more than they gain


def set_cpu_devices(
    batch_size: int, num_devices: int | None, num_processes: int
) -> None:
    """Makes XLA show the CPU as several devices, which is faster.

    Only entry points call it, before anything has asked jax for its devices.
    An explicit count in `XLA_FLAGS` stands.

    Args:
        batch_size: images that the devices share.
        num_devices: how many; None takes the most that divide the batch, up to
            the cores that this process may use, and `MOST_CPU_DEVICES`.
        num_processes: that share them.
    """
    if "xla_force_host_platform_device_count" in os.environ.get("XLA_FLAGS", ""):
        return
    if num_devices is None:
        cores = min(usable_cores(), MOST_CPU_DEVICES)
        num_devices = num_processes * largest_divisor(
            max(1, batch_size // num_processes), cores
        )
    jax.config.update("jax_num_cpu_devices", max(1, num_devices // num_processes))


def usable_cores() -> int:
    """Cores that this process may use, which a job's share can make few."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1  # macOS keeps no such account


def devices() -> list[jax.Device]:
    """All devices of the platform that jax has chosen, those of all processes.

    Raises:
        UserError: when there are none, as with a `JAX_PLATFORMS` that is not here.
    """
    try:
        return jax.devices()
    except Exception as error:  # a RuntimeError, or an assertion of jax's own
        named = os.environ.get("JAX_PLATFORMS")
        hint = f"; JAX_PLATFORMS={named} asks for it" if named else ""
        raise UserError(f"jax finds no device: {first_line(error)}{hint}") from error


def make_mesh(batch_size: int, num_devices: int | None) -> Mesh:
    """A mesh of one axis, `batch`, over the devices of all processes.

    Args:
        batch_size: images that the devices share.
        num_devices: how many, the same from each process; None takes the most
            that divide the batch.

    Raises:
        UserError: when the batch or an explicit count cannot be shared out
            evenly, with what can, or there are not so many devices.
    """
    found = devices()
    num_processes = jax.process_count()
    by_process = [
        [device for device in found if device.process_index == index]
        for index in range(num_processes)
    ]
    most = num_processes * min(map(len, by_process))
    if num_devices is None:
        num_devices = num_processes
        if not batch_size % num_processes:
            num_devices *= largest_divisor(
                batch_size // num_processes, most // num_processes
            )
    _check_shares(batch_size, num_devices, num_processes, most)
    chosen = [
        device for own in by_process for device in own[: num_devices // num_processes]
    ]
    return Mesh(np.array(chosen), (AXIS,), axis_types=(AxisType.Auto,))


def _check_shares(
    batch_size: int, num_devices: int, num_processes: int, most: int
) -> None:
    if batch_size % num_processes:
        below = batch_size - batch_size % num_processes
        near = [size for size in (below, below + num_processes) if size]
        raise UserError(
            f"train.batch_size: must be a multiple of the {num_processes} processes, "
            f"not {batch_size}; {' or '.join(map(str, near))} would do"
        )
    if num_devices > most:
        raise UserError(
            f"train.num_devices: must be at most {most}, the "
            f"{jax.devices()[0].platform} devices here, not {num_devices}"
        )
    if num_devices % num_processes:
        raise UserError(
            f"train.num_devices: must be a multiple of the {num_processes} processes, "
            f"not {num_devices}"
        )
    if batch_size % num_devices:
        share = largest_divisor(
            batch_size // num_processes, num_devices // num_processes
        )
        raise UserError(
            f"train.num_devices: must divide train.batch_size={batch_size}, and "
            f"{num_devices} does not; {share * num_processes} does"
        )


def replicated(mesh: Mesh) -> NamedSharding:
    """The same array on every device."""
    return NamedSharding(mesh, PartitionSpec())


def here() -> SingleDeviceSharding:
    """One device of this process, for what is nobody else's concern."""
    return SingleDeviceSharding(jax.local_devices()[0])


def put(array: np.ndarray | np.generic, sharding: Sharding) -> jax.Array:
    """Lays an array out over devices, those of other processes included.

    Args:
        array: equal on every process, each of which copies its own devices' parts.
        sharding: of the result.
    """
    whole = np.asarray(array)
    with jax.transfer_guard_host_to_device("allow"):  # this copy is meant
        return jax.make_array_from_callback(
            whole.shape, sharding, lambda index: whole[index]
        )


def largest_divisor(number: int, at_most: int) -> int:
    """The largest divisor of a number up to a bound."""
    return next(count for count in range(at_most, 0, -1) if number % count == 0)
