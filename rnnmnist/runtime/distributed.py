"""The processes of a run, one for each host or GPU: how they meet and agree.

`jax.distributed` is the engine. What the first process decides alone, because it
is about files (who trains here, from which step), the others learn through the
engine's key-value store: that needs no device and waits as long as it takes, where
a collective would time out.
"""

import contextlib
import itertools
import json
import logging
import os
import signal
import socket
import threading
import time
import warnings
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

import jax
import numpy as np

# The store is not exported; orbax reaches it the same way.
from jax._src.distributed import global_state as engine
from jax.experimental import multihost_utils

from rnnmnist.config.command_line import ProcessSpec
from rnnmnist.errors import RunError, UserError, first_line, leave

Answer = TypeVar("Answer")  # anything that JSON takes

JOIN_SECONDS = 300  # for all to come; jax's own limit
HEARTBEAT_SECONDS = 30  # after which a process that is silent counts as dead
PATIENT_SECONDS = 5  # until it is said that others are waited for
LEAVE_SECONDS = 60  # for all to say goodbye
# In what the engine and its collective operations say of a process that is gone.
SIGNS_OF_A_LOSS = ("Gloo", "gloo", "UNAVAILABLE", "ABORTED", "CANCELLED", "heartbeat")

_questions = itertools.count()


@contextlib.contextmanager
def initialize(spec: ProcessSpec) -> Iterator[None]:
    """Joins the run's other processes, and leaves together with them.

    Only entry points call it, before anything has asked jax for its devices. From
    then on only process 0 prints. A process that ends early takes the others with
    it, within `HEARTBEAT_SECONDS`: here if a collective operation notices, in the
    engine otherwise.

    Raises:
        UserError: when the place is not to be had, or what jax detects is no
            cluster that it can join.
        RunError: when another process does not answer, or has ended.
    """
    _join(spec)
    if not is_first():
        _be_quiet()
    try:
        yield
    except Exception as error:
        if lost := _lost_process(error):
            raise RunError(
                f"process {engine.process_id} has lost another process of this run "
                f"({lost}); start them all again, and the run goes on from its last "
                "checkpoint"
            ) from error
        if isinstance(error, RunError):
            _leave()
        raise
    _leave()


def count() -> int:
    """How many processes this run has."""
    return engine.num_processes


def is_first() -> bool:
    """Whether this is process 0, which alone writes what is not a checkpoint."""
    return engine.process_id == 0


def broadcast(decide: Callable[[], Answer]) -> Answer:
    """What a function answers on process 0, where alone it is called.

    Every process has to come here, and in the same order.

    Args:
        decide: answers with what JSON takes.

    Raises:
        RunError: what `decide` raised, on every process; UserError likewise.
    """
    if count() == 1:
        return decide()
    key = f"rnnmnist/{next(_questions)}"
    if not is_first():
        return _answer(key)
    try:
        answer = decide()
    except RunError as error:
        fault = {"error": str(error), "exit_code": error.exit_code}
        _store().key_value_set(key, json.dumps(fault))
        raise
    _store().key_value_set(key, json.dumps({"answer": answer}))
    return answer


def first_process_first(work: Callable[[], Answer]) -> Answer:
    """Does a work on process 0, and when it is done on all others at once.

    Returns:
        Each process's own result, of any type.

    Raises:
        RunError: what it raised on process 0, on every process; UserError likewise.
    """
    done: list[Answer] = []
    broadcast(lambda: done.append(work()))
    return done[0] if done else work()


def all_gather(value: Answer) -> list[Answer]:
    """What each process has, in their order.

    Every process has to come here, and in the same order.

    Args:
        value: what JSON takes.
    """
    if count() == 1:
        return [value]
    key = f"rnnmnist/{next(_questions)}"
    _store().key_value_set(f"{key}/{engine.process_id}", json.dumps({"answer": value}))
    return [_answer(f"{key}/{index}") for index in range(count())]


def all_max(number: int) -> int:
    """The largest of a number over all processes; the devices compare them.

    A process that has died is noticed here.
    """
    if count() == 1:
        return number
    with jax.transfer_guard("allow"):
        return int(multihost_utils.process_allgather(np.int32(number)).max())


def _join(spec: ProcessSpec) -> None:
    # One task of SLURM's is no cluster, and several of them in a job would want
    # the same port.
    alone = spec.num_processes == 1 or os.environ.get("SLURM_NTASKS") == "1"
    if alone and spec.coordinator_address is None:
        return
    given = spec.coordinator_address is not None
    if spec.coordinator_address is not None:
        _check_coordinator(spec.coordinator_address, spec.process_id == 0)
    jax.config.update("jax_cpu_collectives_implementation", "gloo")
    try:
        with _without_a_word_of_kubernetes(), _one_line_if_nobody_comes(spec):
            jax.distributed.initialize(
                spec.coordinator_address,
                spec.num_processes,
                spec.process_id,
                initialization_timeout=2 * JOIN_SECONDS,  # when it would crash
                heartbeat_timeout_seconds=HEARTBEAT_SECONDS,
            )
    except Exception as error:  # looking for a cluster can fail in many ways
        if str(error) == "coordinator_address should be defined.":
            return  # the usual case: there is none
        where = "given" if given else "that jax found here"
        raise UserError(
            f"--coordinator_address: the cluster {where} cannot be joined "
            f"({type(error).__name__}: {error}); name --coordinator_address, "
            "--num_processes and --process_id, or --num_processes=1 to run alone"
        ) from error
    # The engine takes SIGTERM for itself; until training begins it just ends us.
    signal.signal(signal.SIGTERM, signal.SIG_DFL)


def _check_coordinator(address: str, is_ours: bool) -> None:
    """Tries the coordinator's port first: the engine crashes where this complains.

    Raises:
        UserError: when the port is taken on process 0's host.
        RunError: when nobody answers in time.
    """
    host, _, port = address.rpartition(":")
    if is_ours:
        try:
            with socket.socket() as probe:
                probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                probe.bind(("", int(port)))
        except OSError as error:
            raise UserError(
                f"--coordinator_address: port {port} cannot be had here ({error}); "
                "name another one, on every process"
            ) from error
        return
    deadline = time.monotonic() + JOIN_SECONDS
    while True:
        try:
            socket.create_connection((host.strip("[]"), int(port)), timeout=5).close()
            return
        except OSError as error:
            if time.monotonic() > deadline:
                raise RunError(
                    f"--coordinator_address: no answer from {address} within "
                    f"{JOIN_SECONDS} s ({error}); process 0 has to run there"
                ) from error
        time.sleep(0.2)


@contextlib.contextmanager
def _one_line_if_nobody_comes(spec: ProcessSpec) -> Iterator[None]:
    # The engine waits past hearing, and then crashes.
    number = spec.num_processes or "the cluster's"
    address = spec.coordinator_address or "their coordinator"
    line = (
        f"error: --num_processes: not all of {number} processes have come to {address} "
        f"within {JOIN_SECONDS:g} s; start each of them, with the same flags"
    )
    saying = f"waiting for all of {number} processes to come to {address}"
    timers = [
        threading.Timer(PATIENT_SECONDS, print, [saying], {"flush": True}),
        threading.Timer(JOIN_SECONDS, leave, [line, 1]),
    ]
    for timer in timers:
        timer.daemon = True
        timer.start()
    try:
        yield
    finally:
        for timer in timers:
            timer.cancel()


@contextlib.contextmanager
def _without_a_word_of_kubernetes() -> Iterator[None]:
    # Of every pod jax says that it lacks a package; only a job's index shows that
    # there is something to join.
    with warnings.catch_warnings():
        if "JOB_COMPLETION_INDEX" not in os.environ:
            warnings.filterwarnings("ignore", message="Kubernetes environment detected")
        yield


def _be_quiet() -> None:
    # By descriptor, since gloo prints past Python.
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 1)
    os.close(nowhere)
    logging.getLogger("rnnmnist").setLevel(logging.ERROR)


def _lost_process(error: Any) -> str | None:
    """What a collective operation said when it failed; None if that is not why."""
    while error is not None and count() > 1:
        if any(sign in str(error) for sign in SIGNS_OF_A_LOSS):
            return first_line(error)[:200]
        error = error.__cause__
    return None


def _store() -> Any:
    return engine.client


def _answer(key: str) -> Any:
    while True:
        try:
            # In short waits, between which a signal is heard.
            text = _store().blocking_key_value_get(key, 1000)
            break
        except jax.errors.JaxRuntimeError as error:
            if "DEADLINE_EXCEEDED" not in str(error):
                raise
    told = json.loads(text)
    if "error" in told:
        raise (
            UserError(told["error"])
            if told["exit_code"] == 2
            else RunError(told["error"])
        )
    return told["answer"]


def _leave() -> None:
    """Says goodbye, so that no process takes another's end for a fault."""
    if count() == 1:
        return
    # It waits for the others, of which one may be past hearing.
    goodbye = threading.Thread(target=jax.distributed.shutdown, daemon=True)
    goodbye.start()
    goodbye.join(LEAVE_SECONDS)
