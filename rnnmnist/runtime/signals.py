"""Signals that stop a command or a training. Importing this module imports no jax.

In a command, a thread waits for SIGINT and SIGTERM. It ends the process, or, while the
command trains, sets a flag on the first signal. Handlers of Python would not do: Python
runs none while the main thread waits in compiled code for devices or other processes,
and drops what a handler raises in a callback of the garbage collector, as jax has one.

A function of this package starts no such thread. `fit`, and what reads or writes
checkpoints, handles SIGINT by a handler while it runs in the main thread.

Until a command waits for signals, they do what Python does with them. `distributed.py`
restores the handler of SIGTERM, which `jax.distributed` replaces.
"""

import contextlib
import os
import signal
import threading
from collections.abc import Callable, Iterator
from types import FrameType

from rnnmnist.errors import Failure, exit_immediately

STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM)
Handler = Callable[[int, FrameType | None], object]  # what it returns is not used


class StopFlag:
    """Holds the number of the signal that stops the run; 0 before any signal."""

    signal_number: int = 0


_flag: StopFlag | None = None  # of this command, while it trains
_flag_lock = threading.Lock()  # is held while a signal is handled, or training ends


def exit_on_signals() -> None:
    """Ends this process on a SIGINT or SIGTERM from now on, for a command.

    A signal that is ignored stays so, as SIGINT is in `COMMAND &`.
    """
    read_end, write_end = os.pipe()
    os.set_blocking(write_end, False)
    threading.Thread(target=_wait_for_signals, args=[read_end], daemon=True).start()
    signal.set_wakeup_fd(write_end)  # Python writes each signal that has a handler
    for number in STOP_SIGNALS:
        if signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, _leave_to_thread)


def _leave_to_thread(number: int, frame: FrameType | None) -> None:
    """Does nothing, since `_wait_for_signals` gets the signal, too."""


def _wait_for_signals(read_end: int) -> None:
    """Ends the process on a signal, unless it is the first one of a training."""
    with open(read_end, "rb", buffering=0) as pipe:
        while received := pipe.read(1):
            number = received[0]
            if number not in STOP_SIGNALS:  # it is of a library
                continue
            with _flag_lock:
                if _flag is None or _flag.signal_number:
                    exit_immediately("stopped", 128 + number)
                _flag.signal_number = number


@contextlib.contextmanager
def stop_on_signal() -> Iterator[StopFlag]:
    """Sets a flag on the first SIGINT or SIGTERM inside the `with` block, in a command.

    A second signal ends the process at once, and so does the end of the block if the
    flag is set, since the block has not seen it. Where another program calls the
    command, its signals stay as they are.
    """
    global _flag
    _flag = flag = StopFlag()
    try:
        yield flag
    finally:
        with _flag_lock:
            _flag = None
    if flag.signal_number:
        exit_immediately("stopped", 128 + flag.signal_number)


@contextlib.contextmanager
def stop_on_interrupt() -> Iterator[StopFlag]:
    """Sets a flag on the first SIGINT inside the `with` block, in a function.

    A second SIGINT raises `KeyboardInterrupt` at once, since the handler does. If the
    flag is set, leaving the block raises one, with the message of a `Failure` that
    leaves it. Outside of the main thread, no signal is handled.
    """
    flag = StopFlag()

    def on_interrupt(number: int, frame: FrameType | None) -> None:
        if flag.signal_number:
            raise KeyboardInterrupt
        flag.signal_number = number

    try:
        with signal_handler(signal.SIGINT, on_interrupt):
            yield flag
    except Failure as error:
        if flag.signal_number:
            raise KeyboardInterrupt(str(error)) from None
        raise
    if flag.signal_number:
        raise KeyboardInterrupt


@contextlib.contextmanager
def defer_interrupts() -> Iterator[None]:
    """Handles a SIGINT that arrives within the `with` block after it, as before it.

    It is for calls of orbax, whose threads would go on without the one that waits.
    """
    received: list[int] = []
    handler = signal.getsignal(signal.SIGINT)
    try:
        with signal_handler(signal.SIGINT, lambda number, _: received.append(number)):
            yield
    finally:
        if received and handler is signal.SIG_DFL:
            signal.raise_signal(signal.SIGINT)
        elif received and callable(handler):
            # Another signal would count as a second one: the thread of a command, or a
            # loop of asyncio, has got the first.
            handler(received[0], None)


@contextlib.contextmanager
def signal_handler(number: int, handler: Handler) -> Iterator[None]:
    """Handles a signal by a function inside the `with` block.

    Only the main thread can install a handler. In another one nothing is installed, nor
    if the signal is ignored, as SIGINT is in `COMMAND &`, nor if the present handler is
    not Python's and could not be restored.
    """
    previous = signal.getsignal(number)
    is_main = threading.current_thread() is threading.main_thread()
    if not is_main or previous in (None, signal.SIG_IGN):
        yield
        return
    signal.signal(number, handler)
    try:
        yield
    finally:
        signal.signal(number, previous)
