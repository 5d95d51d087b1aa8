"""Multi-process runs (one process per host or GPU), using `jax.distributed`.

A process that fails exits immediately. It does not call `jax.distributed.shutdown`,
which would wait for the other processes. If process 0 fails, the other processes exit
immediately. If another process fails, the remaining processes exit when they have not
received a heartbeat for `HEARTBEAT_TIMEOUT_SECONDS`. A process that succeeds waits for
the other processes in JAX's exit handler.
"""

import functools
import itertools
import json
import logging
import os
import signal
import socket
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import jax
import numpy as np
from jax.experimental import multihost_utils

from rnnmnist.errors import RunError, UserError, discard_output, summarize_error
from rnnmnist.runtime.jax_internals import (
    NO_CLUSTER,
    distributed_state,
    process_count,
)

T = TypeVar("T")

_logger = logging.getLogger(__name__)

JOIN_TIMEOUT_SECONDS = 300  # JAX's default
HEARTBEAT_TIMEOUT_SECONDS = 30
BROADCAST_TIMEOUT_MS = 2_000_000_000  # more than three weeks

_broadcast_ids = itertools.count()


def initialize(
    coordinator_address: str | None, num_processes: int | None, process_id: int | None
) -> None:
    """Joins the other processes of the run, if there are any.

    The arguments are passed to `jax.distributed.initialize`. If all arguments are None,
    JAX detects whether a cluster launcher started the process. Only entry points call
    this function, before JAX initializes its backends. Afterwards, only process 0
    prints.
    """
    # Do not treat a single-task Slurm step as a cluster: several such steps in one job
    # would use the same port.
    is_single = num_processes == 1 or os.environ.get("SLURM_NTASKS") == "1"
    if is_single and coordinator_address is None:
        return
    jax.config.update("jax_cpu_collectives_implementation", "gloo")
    try:
        _join(coordinator_address, num_processes, process_id)
    except TimeoutError:
        raise RunError(
            f"num_processes: not all processes joined within {JOIN_TIMEOUT_SECONDS} s; "
            "start all processes with the same coordinator_address and num_processes"
        ) from None
    except Exception as error:  # cluster detection raises many exception types
        arguments = (coordinator_address, num_processes, process_id)
        # If JAX detects a cluster, it sets the number of processes before it fails.
        if arguments == (None, None, None) and process_count() == 1:
            if str(error) != NO_CLUSTER:
                _logger.warning(
                    "JAX cannot detect whether this run has other processes "
                    f"({summarize_error(error)}), so the run continues as a single "
                    "process; to skip the detection, pass --num_processes=1"
                )
            return
        raise UserError(
            "coordinator_address: this process cannot join "
            f"{coordinator_address or 'a cluster'} ({type(error).__name__}: {error}); "
            "pass the HOST:PORT of process 0, --num_processes and --process_id"
        ) from error
    # Reinstall Python's SIGTERM handler, which `jax.distributed` has replaced.
    signal.signal(signal.SIGTERM, signal.getsignal(signal.SIGTERM))
    if not is_process_0():
        discard_output()
        logging.getLogger("rnnmnist").setLevel(logging.ERROR)


def _join(
    address: str | None, num_processes: int | None, process_id: int | None
) -> None:
    """Calls `jax.distributed.initialize` with a timeout.

    Raises:
        TimeoutError: after `JOIN_TIMEOUT_SECONDS`. JAX's own timeout is set to a longer
            time, because it aborts the process.
        OSError: in process 0, if the port is in use. Without this error, JAX would
            crash.
    """
    if address is not None and process_id == 0:
        socket.create_server(("", int(address.rpartition(":")[2]))).close()

    join = functools.partial(
        jax.distributed.initialize,
        address,
        num_processes,
        process_id,
        initialization_timeout=2 * JOIN_TIMEOUT_SECONDS,
        heartbeat_timeout_seconds=HEARTBEAT_TIMEOUT_SECONDS,
    )
    _call_in_thread(join, JOIN_TIMEOUT_SECONDS)


def is_process_0() -> bool:
    """Returns True in process 0, the only process that writes files."""
    return distributed_state().process_id == 0


def broadcast(function: Callable[[], T]) -> T:
    """Calls `function` in process 0, and returns its result in all processes.

    The result must be representable as JSON. All processes must make the same sequence
    of calls. The other processes wait for a key in the key-value store of
    `jax.distributed`. Unlike a collective operation, waiting for a key does not need
    devices, and does not time out after a few minutes.
    """
    if process_count() == 1:
        return function()
    client = distributed_state().client
    key = f"rnnmnist/{next(_broadcast_ids)}"
    if is_process_0():
        client.key_value_set(key, json.dumps(function()))

    text: str = _call_in_thread(
        functools.partial(client.blocking_key_value_get, key, BROADCAST_TIMEOUT_MS)
    )
    result: T = json.loads(text)
    return result


def wait_for_process_0() -> None:
    """Waits until process 0 calls this function."""
    broadcast(lambda: None)


def _call_in_thread(function: Callable[[], T], timeout: float | None = None) -> T:
    """Runs a blocking call in a thread, so that the main thread can handle signals."""
    return ThreadPoolExecutor(1).submit(function).result(timeout)


def max_over_processes(number: int) -> int:
    """Returns the maximum of a number over all processes.

    This is a collective operation on the devices. It fails if a process has exited.
    """
    return int(multihost_utils.process_allgather(np.int32(number)).max())
