"""Whether this process may start the threads and open the files of a command.

Importing this module imports neither jax nor NumPy, since their libraries start threads
when they are loaded.
"""

import _thread  # `threading` waits for the start of each thread, which takes longer
import os
import queue
import time

from rnnmnist.errors import RunError
from rnnmnist.runtime.machine import usable_cores


def needed_threads() -> int:
    """Returns at least as many threads as a command has at once.

    A training on images has up to 88 on any machine, 64 of which read records, and for
    each core three of XLA's and one of NumPy's.
    """
    return 100 + 4 * usable_cores()


def needed_files() -> int:
    """Returns at least as many files and sockets as a command has open at once.

    A training on two cores has 25. With more cores, more arrays of a checkpoint are
    written at once.
    """
    return 40 + usable_cores()


def check_limits() -> None:
    """Refuses a command that lacks threads or files, which takes some milliseconds.

    The libraries of jax and orbax end the process where they cannot start a thread, and
    report in many lines that a file cannot be opened. Limits can be those of a user, a
    container or a machine, so that threads and files are tried.

    Raises:
        RunError: if there are too few; it says which limit is to be raised.
    """
    count = needed_threads()
    started = _start_threads(count)
    if started < count:
        raise RunError(
            f"only {started} of the {count} threads of a command can be started; "
            "raise the limit of processes (ulimit -u, or --pids-limit of a container) "
            "or end other programs"
        )
    count = needed_files()
    opened = _open_files(count)
    if opened < count:
        raise RunError(
            f"only {opened} of the {count} files of a command can be opened; raise the "
            "limit of open files (ulimit -n)"
        )


def _start_threads(count: int) -> int:
    """Starts threads that exist at the same time, and returns how many there were."""
    # Each thread waits in C code for an item. One that runs Python takes twice as long.
    items: queue.SimpleQueue[None] = queue.SimpleQueue()
    started = 0
    try:
        while started < count:
            _thread.start_new_thread(items.get, ())
            started += 1
    except RuntimeError:  # "can't start new thread"
        pass
    for _ in range(started):
        items.put(None)
    while not items.empty():
        time.sleep(1e-4)  # a thread ends when it has its item
    return started


def _open_files(count: int) -> int:
    """Opens files at the same time, and returns how many."""
    descriptors: list[int] = []
    try:
        while len(descriptors) < count:
            descriptors.append(os.open(os.devnull, os.O_RDONLY))
    except OSError:  # EMFILE or ENFILE
        pass
    for descriptor in descriptors:
        os.close(descriptor)
    return len(descriptors)
