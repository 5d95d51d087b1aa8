"""Signals that stop a run. Importing this module imports no jax."""

import contextlib
import os
import signal
import threading
from collections.abc import Callable, Iterator
from types import FrameType

from rnnmnist.errors import RunError, exit_immediately

Handler = Callable[[int, FrameType | None], object]  # what it returns is not used


class StopFlag:
    """Holds the number of the signal that stops the run; 0 before any signal."""

    number: int = 0


# The thread that watches the signals of a command, and the flag that it sets.
_watcher: threading.Thread | None = None
_flag: StopFlag | None = None


@contextlib.contextmanager
def signal_handler(number: int, handler: Handler) -> Iterator[None]:
    """Handles a signal by a function inside the `with` block.

    Only the main thread can install a handler. In another one nothing is installed, nor
    if the present handler is not Python's and could not be restored.
    """
    previous = signal.getsignal(number)
    is_main = threading.current_thread() is threading.main_thread()
    with contextlib.ExitStack() as stack:
        if is_main and previous is not None:
            signal.signal(number, handler)
            stack.callback(signal.signal, number, previous)
        yield


@contextlib.contextmanager
def defer_interrupts() -> Iterator[None]:
    """Calls the present handler after the `with` block, if a SIGINT arrived within."""
    received: list[int] = []
    handler = signal.getsignal(signal.SIGINT)
    try:
        with signal_handler(signal.SIGINT, lambda number, _: received.append(number)):
            yield
    finally:
        if received and callable(handler):
            handler(received[0], None)


@contextlib.contextmanager
def stop_on_interrupt() -> Iterator[StopFlag]:
    """Turns the first SIGINT into a flag inside the `with` block, for a library.

    A second SIGINT raises `KeyboardInterrupt` at once, since the handler does; leaving
    the block raises one if the flag is set, with the message of a `RunError`. See
    `signal_handler` for other threads.
    """
    flag = StopFlag()

    def on_interrupt(number: int, frame: FrameType | None) -> None:
        if flag.number:
            raise KeyboardInterrupt
        flag.number = number

    try:
        with signal_handler(signal.SIGINT, on_interrupt):
            yield flag
    except RunError as error:
        if flag.number:
            raise KeyboardInterrupt(str(error)) from None
        raise
    if flag.number:
        raise KeyboardInterrupt


def exit_on_interrupt() -> None:
    """Ends this process on a SIGINT from now on, with exit code 130, for a command.

    A thread does this. Python runs no handler while the main thread waits in compiled
    code for devices or other processes, and drops what a handler raises in a callback
    of the garbage collector, as jax has one.
    """
    global _watcher
    read_end, write_end = os.pipe()
    os.set_blocking(write_end, False)
    _watcher = threading.Thread(target=_watch, args=[read_end], daemon=True)
    _watcher.start()
    signal.set_wakeup_fd(write_end)  # Python writes each signal that has a handler
    if signal.getsignal(signal.SIGINT) is not signal.SIG_IGN:  # as in `COMMAND &`
        signal.signal(signal.SIGINT, _leave_to_watch)


def raise_interrupts() -> contextlib.AbstractContextManager[StopFlag | None]:
    """Lets a SIGINT raise `KeyboardInterrupt` in a block that removes temporary files.

    Otherwise a command would end at once, and leave its files. A second SIGINT does end
    it. Where a SIGINT does something else, as in training or in a caller's program, it
    still does.
    """
    if _flag or signal.getsignal(signal.SIGINT) is not _leave_to_watch:
        return contextlib.nullcontext()
    return _watch_signal(signal.SIGINT, signal.default_int_handler)


def stop_on_signal() -> contextlib.AbstractContextManager[StopFlag]:
    """Turns the first SIGINT or SIGTERM into a flag, in a command.

    A second signal ends the process at once with the exit code of that signal. Where
    another program calls the command, its signals stay as they are.
    """
    if _watcher is None:
        return contextlib.nullcontext(StopFlag())
    return _watch_signal(signal.SIGTERM, _leave_to_watch)


@contextlib.contextmanager
def _watch_signal(number: int, handler: Handler) -> Iterator[StopFlag]:
    """Handles a signal, and has `_watch` set a flag on the first one."""
    global _flag
    with signal_handler(number, handler):
        _flag = StopFlag()
        try:
            yield _flag
        finally:
            _flag = None


def _leave_to_watch(number: int, frame: FrameType | None) -> None:
    """Does nothing, since `_watch` gets the signal, too."""


def _watch(read_end: int) -> None:
    """Sets the flag at a SIGINT or SIGTERM; ends the process if it is set, or none."""
    with open(read_end, "rb", buffering=0) as pipe:
        while received := pipe.read(1):
            number = received[0]
            if number in (signal.SIGINT, signal.SIGTERM):
                flag = _flag  # the main thread may reset the variable meanwhile
                if flag is None or flag.number:
                    exit_immediately("stopped", 128 + number)
                flag.number = number
