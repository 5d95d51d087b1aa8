"""The processes of a run, one per host or GPU, on top of `jax.distributed`.

What can fail on one process, such as a decision about files or the reading of data,
goes through the key-value store of `jax.distributed`, with its error: `broadcast` and
`process_0_first`. The store needs no devices and waits for weeks. During training, the
processes compare a number by a collective operation of their devices: `all_max`.
"""

import contextlib
import itertools
import json
import logging
import os
import signal
import socket
import threading
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

import jax
import numpy as np
from jax.experimental import multihost_utils

from rnnmnist.errors import (
    RunError,
    UserError,
    as_failure,
    exit_immediately,
    summarize_error,
)
from rnnmnist.runtime.jax_internals import (
    ALONE,
    NO_CLUSTER,
    distributed_state,
    process_count,
    process_index,
)

T = TypeVar("T")

JOIN_TIMEOUT_SECONDS = 300  # jax's default
HEARTBEAT_TIMEOUT_SECONDS = 30  # a process that is silent for longer is dead
SHUTDOWN_TIMEOUT_SECONDS = 60
WAIT_MILLISECONDS = 2_000_000_000  # three weeks, in which another process must answer
# One variable of each launcher of several processes: SLURM, Open MPI, Kubernetes, GKE.
LAUNCHERS = {
    "SLURM_STEP_NODELIST",
    "OMPI_COMM_WORLD_SIZE",
    "JOB_COMPLETION_INDEX",
    "TPU_WORKER_HOSTNAMES",
}

_logger = logging.getLogger(__name__)
_message_numbers = itertools.count()


@contextlib.contextmanager
def initialize(
    coordinator_address: str | None, num_processes: int | None, process_id: int | None
) -> Iterator[None]:
    """Joins the run's other processes, and shuts down together with them.

    The arguments are those of `jax.distributed.initialize`; without them, jax detects
    a cluster. Only entry points use it, before jax initializes its devices. Within the
    context, only process 0 prints. If a process ends early, the others end within
    `HEARTBEAT_TIMEOUT_SECONDS`: with a `RunError` if a collective operation fails,
    otherwise by `jax.distributed`.
    """
    _join(coordinator_address, num_processes, process_id)
    if not is_process_0():
        # The file descriptor is redirected, since gloo does not print through Python.
        with Path(os.devnull).open("wb") as null:
            os.dup2(null.fileno(), 1)
        logging.getLogger("rnnmnist").setLevel(logging.ERROR)
    try:
        yield
    except Exception as error:
        if failure := _failed_operation(error):
            raise RunError(
                f"process {process_index()} cannot go on: {failure}; "
                "if another process of this run has ended, start all of them again to "
                "resume from the last checkpoint"
            ) from error
        if as_failure(error):
            _shut_down()
        raise
    _shut_down()


def is_process_0() -> bool:
    """Whether this is process 0, which alone writes files other than checkpoints."""
    return process_index() == 0


def broadcast(decide: Callable[[], T]) -> T:
    """Calls a function on process 0; returns its result, or raises its error, on all.

    All processes must call this, in the same order. The result must be JSON.
    """
    if process_count() == 1:
        return decide()
    key = _next_key()
    result: T
    if is_process_0():
        with _send_failure(key):
            result = decide()
        _send(key, {"result": result})
    else:
        result = _receive(key)
    return result


@contextlib.contextmanager
def process_0_first() -> Iterator[None]:
    """Runs a `with` block on process 0, then on all others at the same time.

    If the block fails on one of them, all raise that error. All processes must enter
    it, in the same order as they call `broadcast`.
    """
    if process_count() == 1:
        yield
        return
    key = _next_key()
    own_key = f"{key}/{process_index()}"
    if not is_process_0():
        _receive(f"{key}/0")
    with _send_failure(own_key):
        yield
    _send(own_key, {"result": None})
    for index in range(process_count()):
        _receive(f"{key}/{index}")


def all_max(number: int) -> int:
    """Returns the maximum over all processes.

    It is a collective operation of the devices, which fails if a process has ended.
    """
    if process_count() == 1:
        return number
    with jax.transfer_guard("allow"):
        return int(multihost_utils.process_allgather(np.int32(number)).max())


def _join(address: str | None, number: int | None, index: int | None) -> None:
    """Joins the other processes, if arguments or a launcher say that there are some."""
    # A single SLURM task is no cluster; several in one job would share jax's port.
    is_alone = number == 1 or os.environ.get("SLURM_NTASKS") == "1"
    if is_alone and address is None:
        return
    jax.config.update("jax_cpu_collectives_implementation", "gloo")
    late = (
        f"error: --num_processes: not all of {number or 'the'} processes have joined "
        f"{address or 'the cluster'} within {JOIN_TIMEOUT_SECONDS} s; start each of "
        "them, with the same flags"
    )
    # jax would abort with a stack trace. Its timeout is longer than this timer's.
    timer = threading.Timer(JOIN_TIMEOUT_SECONDS, exit_immediately, [late, 1])
    timer.daemon = True
    timer.start()
    try:
        if address is not None and index == 0:  # jax would crash on a port in use
            socket.create_server(("", int(address.rpartition(":")[2]))).close()
        with warnings.catch_warnings():
            # jax warns in every pod about a package that only indexed jobs need.
            if "JOB_COMPLETION_INDEX" not in os.environ:
                warnings.simplefilter("ignore")
            jax.distributed.initialize(
                address,
                number,
                index,
                initialization_timeout=2 * JOIN_TIMEOUT_SECONDS,
                heartbeat_timeout_seconds=HEARTBEAT_TIMEOUT_SECONDS,
            )
    except Exception as error:  # the detection of clusters raises many kinds
        if (address, number, index) == (None, None, None):
            if str(error) == NO_CLUSTER:
                return
            if LAUNCHERS.isdisjoint(os.environ):
                _logger.warning(
                    "jax cannot detect whether other processes belong to this run, "
                    f"which goes on alone ({summarize_error(error)}); "
                    "--num_processes=1 skips the detection"
                )
                return
        raise UserError(
            f"coordinator_address: the processes cannot join {address or 'a cluster'} "
            f"({type(error).__name__}: {error}); give --coordinator_address, HOST:PORT "
            "of process 0, --num_processes and --process_id, or --num_processes=1 to "
            "run alone"
        ) from error
    finally:
        timer.cancel()
    if distributed_state() is ALONE and (number or jax.process_count()) > 1:
        raise UserError(
            f"num_processes: jax {jax.__version__} does not have the key-value store "
            "with which several processes agree; install another version, or start "
            "one process with --num_processes=1"
        )
    # jax.distributed has replaced Python's handler of SIGTERM.
    signal.signal(signal.SIGTERM, signal.getsignal(signal.SIGTERM))


def _failed_operation(error: BaseException | None) -> str | None:
    """Returns the message of a failed operation of several processes, or None."""
    if process_count() == 1:
        return None
    while error is not None and not isinstance(error, UserError):
        if isinstance(error, jax.errors.JaxRuntimeError):  # the only type of jaxlib
            return summarize_error(error)[:200]
        error = error.__cause__
    return None


def _next_key() -> str:
    """Returns the key of the next message, which is the same on all processes."""
    return f"rnnmnist/{next(_message_numbers)}"


def _send(key: str, message: dict[str, object]) -> None:
    """Sends JSON to all processes."""
    distributed_state().client.key_value_set(key, json.dumps(message))


@contextlib.contextmanager
def _send_failure(key: str) -> Iterator[None]:
    """Sends the deliberate failure of a block, in place of its result."""
    try:
        yield
    except Exception as error:
        if failure := as_failure(error):
            _send(key, {"error": str(failure), "exit_code": failure.exit_code})
        raise


def _receive(key: str) -> Any:
    """Waits for the JSON that another process sends: a result, or an error to raise."""
    client = distributed_state().client
    message = json.loads(client.blocking_key_value_get(key, WAIT_MILLISECONDS))
    if "error" not in message:
        return message["result"]
    if message["exit_code"] == UserError.exit_code:
        raise UserError(message["error"])
    raise RunError(message["error"])


def _shut_down() -> None:
    """Leaves the cluster, so that no process reports the exit of another as a fault."""
    # The call is in a thread, since it would wait for ever for a process that hangs.
    thread = threading.Thread(target=jax.distributed.shutdown, daemon=True)
    thread.start()
    thread.join(SHUTDOWN_TIMEOUT_SECONDS)
