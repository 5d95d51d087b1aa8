"""The devices of a run, in one row: batches are split over them."""

import os

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from rnnmnist.errors import UserError

AXIS = "batch"
MOST_CPU_DEVICES = 8  # beyond these the sums between devices cost more than they gain


def set_cpu_devices(batch_size: int, num_devices: int | None) -> None:
    """Makes XLA show the CPU as several devices, which is faster.

    Only entry points call it, before anything has asked jax for its devices.
    An explicit count in `XLA_FLAGS` stands.

    Args:
        batch_size: images that the devices share.
        num_devices: how many; None takes the most that divide the batch, up to
            the cores that this process may use, and `MOST_CPU_DEVICES`.
    """
    if "xla_force_host_platform_device_count" in os.environ.get("XLA_FLAGS", ""):
        return
    if num_devices is None:
        cores = min(usable_cores(), MOST_CPU_DEVICES)
        num_devices = largest_divisor(batch_size, cores)
    jax.config.update("jax_num_cpu_devices", num_devices)


def usable_cores() -> int:
    """Cores that this process may use, which a job's share can make few."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1  # macOS keeps no such account


def make_mesh(batch_size: int, num_devices: int | None) -> Mesh:
    """A mesh of one axis, `batch`, over the devices that there are.

    Args:
        batch_size: images that the devices share.
        num_devices: how many; None takes the most that divide the batch.

    Raises:
        UserError: when an explicit count does not divide the batch, or there
            are not so many devices.
    """
    devices = jax.devices()
    if num_devices is None:
        num_devices = largest_divisor(batch_size, len(devices))
    elif num_devices > len(devices):
        raise UserError(
            f"train.num_devices: must be at most {len(devices)}, the "
            f"{devices[0].platform} devices here, not {num_devices}"
        )
    elif batch_size % num_devices:
        near = largest_divisor(batch_size, num_devices)
        raise UserError(
            f"train.num_devices: must divide train.batch_size={batch_size}, and "
            f"{num_devices} does not; {near} does"
        )
    return Mesh(np.array(devices[:num_devices]), (AXIS,), axis_types=(AxisType.Auto,))


def replicated(mesh: Mesh) -> NamedSharding:
    """The same array on every device."""
    return NamedSharding(mesh, PartitionSpec())


def largest_divisor(number: int, at_most: int) -> int:
    """The largest divisor of a number up to a bound."""
    return next(count for count in range(at_most, 0, -1) if number % count == 0)
