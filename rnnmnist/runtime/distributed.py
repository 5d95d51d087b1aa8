"""The processes of a run, one per host or GPU, on top of `jax.distributed`.

A process that fails ends at once, without `jax.distributed.shutdown`, which would wait
for the other processes. If process 0 fails, the other processes end at once. Otherwise,
they end after the failed process has been silent for `HEARTBEAT_TIMEOUT_SECONDS`. A
process that ends normally waits for the other processes in jax's exit handler.
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
WAIT_MILLISECONDS = 2_000_000_000  # three weeks, the maximum wait for process 0

_message_numbers = itertools.count()


def initialize(
    coordinator_address: str | None, num_processes: int | None, process_id: int | None
) -> None:
    """Joins the other processes of the run, if arguments or a launcher describe them.

    The arguments are passed to `jax.distributed.initialize`. Without arguments, jax
    detects a cluster. Only entry points call this function, before jax initializes its
    devices. Afterwards, only process 0 prints.
    """
    # A single SLURM task is not a cluster. Several single tasks in one job would share
    # jax's port.
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
    except Exception as error:  # cluster detection raises many types
        given = (coordinator_address, num_processes, process_id)
        # If jax has detected a cluster, it has set the number of processes.
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
    # Reinstall Python's SIGTERM handler, which jax.distributed has replaced.
    signal.signal(signal.SIGTERM, signal.getsignal(signal.SIGTERM))
    if not is_process_0():
        discard_output()
        logging.getLogger("rnnmnist").setLevel(logging.ERROR)


def _join(address: str | None, number: int | None, index: int | None) -> None:
    """Calls `jax.distributed.initialize` with a timeout.

    Raises:
        TimeoutError: after `JOIN_TIMEOUT_SECONDS`. jax has a longer timeout, after
            which it would abort the process.
    """
    if address is not None and index == 0:  # jax would crash if the port is in use
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
    """Returns True in process 0, which is the only process that writes files."""
    return distributed_state().process_id == 0


def broadcast(decide: Callable[[], T]) -> T:
    """Calls `decide` on process 0, and returns its JSON result on all processes.

    All processes must call this function, in the same order. They wait for a key in the
    key-value store of `jax.distributed`, which does not require devices and does not
    time out after minutes.
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
    """Waits until process 0 makes the same call, however long it takes."""
    broadcast(lambda: None)


def _call_in_thread(function: Callable[[], T], timeout: float | None = None) -> T:
    """Runs blocking compiled code in a thread, so that Python can handle signals."""
    return ThreadPoolExecutor(1).submit(function).result(timeout)


def max_over_processes(number: int) -> int:
    """Returns the maximum of a number over all processes.

    This is a collective operation on the devices, which fails if a process has ended.
    """
    with jax.transfer_guard("allow"):
        return int(multihost_utils.process_allgather(np.int32(number)).max())
