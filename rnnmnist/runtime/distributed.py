"""The processes of a run, one per host or GPU, on top of `jax.distributed`.

A process that fails ends at once, without `jax.distributed.shutdown`, which would wait
for the others. These end when the failed process has been silent for
`HEARTBEAT_TIMEOUT_SECONDS`; if it is process 0, at once. One that ends normally waits
for the others in the exit handler of jax.
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

JOIN_TIMEOUT_SECONDS = 300  # jax's default
HEARTBEAT_TIMEOUT_SECONDS = 30
WAIT_MILLISECONDS = 2_000_000_000  # three weeks, in which another process must answer

_message_numbers = itertools.count()


def initialize(
    coordinator_address: str | None, num_processes: int | None, process_id: int | None
) -> None:
    """Joins the run's other processes, if arguments or a launcher name some.

    The arguments are those of `jax.distributed.initialize`; without them, jax detects
    a cluster. Only entry points call it, before jax initializes its devices. From then
    on, only process 0 prints.
    """
    # A single SLURM task is no cluster; several in one job would share jax's port.
    is_alone = num_processes == 1 or os.environ.get("SLURM_NTASKS") == "1"
    if is_alone and coordinator_address is None:
        return
    jax.config.update("jax_cpu_collectives_implementation", "gloo")
    try:
        _join(coordinator_address, num_processes, process_id)
    except TimeoutError:
        raise RunError(
            f"num_processes: not all of {num_processes or 'the'} processes have joined "
            f"{coordinator_address or 'the cluster'} within {JOIN_TIMEOUT_SECONDS} s; "
            "start all of them with the same flags"
        ) from None
    except Exception as error:  # the detection of clusters raises many kinds
        given = (coordinator_address, num_processes, process_id)
        # jax sets the number of the processes once it has detected a cluster.
        if given == (None, None, None) and process_count() == 1:
            if str(error) != NO_CLUSTER:
                _logger.warning(
                    "jax cannot detect whether other processes belong to this run, "
                    f"which continues alone ({summarize_error(error)}); "
                    "--num_processes=1 skips the detection"
                )
            return
        raise UserError(
            "coordinator_address: the processes cannot join "
            f"{coordinator_address or 'a cluster'} ({type(error).__name__}: {error}); "
            "pass HOST:PORT of process 0, --num_processes and --process_id"
        ) from error
    # jax.distributed has replaced Python's handler of SIGTERM.
    signal.signal(signal.SIGTERM, signal.getsignal(signal.SIGTERM))
    if not is_process_0():
        discard_output()
        logging.getLogger("rnnmnist").setLevel(logging.ERROR)


def _join(address: str | None, number: int | None, index: int | None) -> None:
    """Calls `jax.distributed.initialize`.

    Raises:
        TimeoutError: after `JOIN_TIMEOUT_SECONDS`. At its own timeout, which is longer,
            jax would abort the process.
    """
    if address is not None and index == 0:  # jax would crash on a port in use
        socket.create_server(("", int(address.rpartition(":")[2]))).close()

    join = functools.partial(
        jax.distributed.initialize,
        address,
        number,
        index,
        initialization_timeout=2 * JOIN_TIMEOUT_SECONDS,
        heartbeat_timeout_seconds=HEARTBEAT_TIMEOUT_SECONDS,
    )
    _call_in_thread(join, JOIN_TIMEOUT_SECONDS)


def is_process_0() -> bool:
    """Whether this is process 0, which alone writes files."""
    return distributed_state().process_id == 0


def broadcast(decide: Callable[[], T]) -> T:
    """Returns on all processes what a function returns on process 0, which is JSON.

    All processes must call this, in the same order. They wait in the key-value store of
    `jax.distributed`, which needs no devices and has no time limit of minutes.
    """
    if process_count() == 1:
        return decide()
    client = distributed_state().client
    key = f"rnnmnist/{next(_message_numbers)}"
    if is_process_0():
        client.key_value_set(key, json.dumps(decide()))

    text: str = _call_in_thread(
        functools.partial(client.blocking_key_value_get, key, WAIT_MILLISECONDS)
    )
    result: T = json.loads(text)
    return result


def wait_for_process_0() -> None:
    """Waits until process 0 has come to the same call, however long that takes."""
    broadcast(lambda: None)


def _call_in_thread(function: Callable[[], T], timeout: float | None = None) -> T:
    """Calls compiled code that waits, so that Python can handle signals meanwhile."""
    return ThreadPoolExecutor(1).submit(function).result(timeout)


def all_max(number: int) -> int:
    """Returns the maximum over all processes.

    It is a collective operation of the devices, which fails if a process has ended.
    """
    with jax.transfer_guard("allow"):
        return int(multihost_utils.process_allgather(np.int32(number)).max())
