"""The devices of a run: seeds are spread over them, and batches split."""

import functools
import math
import os
from collections.abc import Iterator
from typing import Any

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

SEEDS, BATCH = "seeds", "batch"  # the axes: networks, and shares of their batches
MOST_CPU_DEVICES = 8  # beyond these the sums between devices cost more than they gain


def set_cpu_devices(
    batch_size: int, num_devices: int | None, num_seeds: int, num_processes: int
) -> None:
    """Makes XLA show the CPU as several devices, which is faster.

    Only entry points call it, before anything has asked jax for its devices.
    An explicit count in `XLA_FLAGS` stands.

    Args:
        batch_size: images that the devices of a network share.
        num_devices: how many; None takes the most that can share seeds and batch,
            up to the cores that this process may use, and `MOST_CPU_DEVICES`.
        num_seeds: networks that are trained together.
        num_processes: that share the devices.
    """
    if "xla_force_host_platform_device_count" in os.environ.get("XLA_FLAGS", ""):
        return
    if num_devices is None:
        most = num_processes * min(usable_cores(), MOST_CPU_DEVICES)
        grid = _grid(batch_size, num_seeds, num_processes, most)
        num_devices = math.prod(grid) if grid else num_processes
    devices_here = max(1, num_devices // num_processes)
    jax.config.update("jax_num_cpu_devices", devices_here)
    if num_seeds > 1 and jax.__version_info__ < (0, 11):
        # There every device holds one of XLA's threads while it waits for the others'
        # work, which a stack hands to the same threads: without one more, 0.10.2 hangs.
        # (With one network nothing is handed on, and one more only costs.)
        threads = max(usable_cores(), devices_here) + 1
        os.environ.setdefault("NPROC", str(threads))


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


def make_mesh(batch_size: int, num_devices: int | None, num_seeds: int) -> Mesh:
    """A mesh of two axes, `seeds` by `batch`, over the devices of all processes.

    Seeds are spread first, since networks have nothing to tell each other, and what
    is left over shares each network's batch.

    Args:
        batch_size: images that the devices of a network share.
        num_devices: how many, the same from each process; None takes the most that
            can share seeds and batch.
        num_seeds: networks that are trained together; with one, `seeds` is 1 long.

    Raises:
        UserError: when seeds and batch or an explicit count cannot be shared out
            evenly, with what can, or there are not so many devices.
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
        raise _no_grid(batch_size, num_seeds, num_processes, most, num_devices)
    share = math.prod(grid) // num_processes
    chosen = [device for own in by_process for device in own[:share]]
    return Mesh(
        np.array(chosen).reshape(grid), (SEEDS, BATCH), axis_types=(AxisType.Auto,) * 2
    )


def _grid(
    batch_size: int,
    num_seeds: int,
    num_processes: int,
    most: int,
    wanted: int | None = None,
) -> tuple[int, int] | None:
    """Over how many devices seeds and batch are split; None where nothing fits."""
    for seeds in _divisors(num_seeds, most):
        for batch in _divisors(batch_size, most // seeds):
            total = seeds * batch
            if not total % num_processes and wanted in (None, total):
                return seeds, batch
    return None


def _divisors(number: int, at_most: int) -> Iterator[int]:
    """The divisors of a number up to a bound, from the largest down."""
    return (count for count in range(at_most, 0, -1) if number % count == 0)


def _no_grid(
    batch_size: int,
    num_seeds: int,
    num_processes: int,
    most: int,
    num_devices: int | None,
) -> UserError:
    if num_devices is None or (num_seeds * batch_size) % num_processes:
        below = batch_size - batch_size % num_processes
        near = [size for size in (below, below + num_processes) if size]
        seeds = f", or num_seeds={num_seeds} share it out" if num_seeds > 1 else ""
        return UserError(
            f"train.batch_size: must be a multiple of the {num_processes} processes"
            f"{seeds}, not {batch_size}; {' or '.join(map(str, near))} would do"
        )
    if num_devices > most:
        return UserError(
            f"train.num_devices: must be at most {most}, the "
            f"{jax.devices()[0].platform} devices here, not {num_devices}"
        )
    if num_devices % num_processes:
        return UserError(
            f"train.num_devices: must be a multiple of the {num_processes} processes, "
            f"not {num_devices}"
        )
    fits = next(
        count
        for count in range(num_devices, 0, -1)
        if _grid(batch_size, num_seeds, num_processes, most, count)
    )
    if num_seeds > 1:
        return UserError(
            f"train.num_devices: must be a divisor of num_seeds={num_seeds} times one "
            f"of train.batch_size={batch_size}, not {num_devices}; {fits} would do"
        )
    return UserError(
        f"train.num_devices: must divide train.batch_size={batch_size}, and "
        f"{num_devices} does not; {fits} does"
    )


def ensemble_spec(num_seeds: int) -> PartitionSpec:
    """How arrays with a leading axis of members lie; one network has no such axis."""
    return PartitionSpec(SEEDS) if num_seeds > 1 else PartitionSpec()


def replicated(mesh: Mesh) -> NamedSharding:
    """The same array on every device."""
    return NamedSharding(mesh, PartitionSpec())


def local_sharding() -> SingleDeviceSharding:
    """One device of this process, for what is nobody else's concern."""
    return SingleDeviceSharding(jax.local_devices()[0])


def device_put(array: np.ndarray | np.generic, sharding: Sharding) -> jax.Array:
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


def gathered(tree: Any, mesh: Mesh) -> Any:
    """Arrays with every part on every device, so that any process can read them."""
    if mesh.shape[SEEDS] == 1:
        return tree  # as it is
    return _same(tree, out=replicated(mesh))


@functools.partial(jax.jit, static_argnames="out")
def _same(tree: Any, out: Sharding) -> Any:
    return jax.lax.with_sharding_constraint(tree, out)
