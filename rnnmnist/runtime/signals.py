"""Signals that stop a run. Importing this module imports no jax."""

import contextlib
import os
import signal
import threading
from collections.abc import Callable, Iterator

from rnnmnist.errors import exit_immediately

SIGNALS = (signal.SIGINT, signal.SIGTERM)


class StopFlag:
    """Holds the number of the signal that stops the run; 0 before any signal."""

    number: int = 0


@contextlib.contextmanager
def interrupt_handler(handler: Callable[[int, object], None]) -> Iterator[None]:
    """Handles SIGINT by a function inside the `with` block.

    Only the main thread can install a handler. In another one nothing is installed, nor
    if the present handler is not Python's and could not be restored.
    """
    previous = signal.getsignal(signal.SIGINT)
    is_main = threading.current_thread() is threading.main_thread()
    if not is_main or previous is None:
        yield
        return
    signal.signal(signal.SIGINT, handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, previous)


@contextlib.contextmanager
def deferred_interrupts() -> Iterator[None]:
    """Calls the present handler after the `with` block, if a SIGINT arrived within."""
    received: list[int] = []
    handler = signal.getsignal(signal.SIGINT)
    with interrupt_handler(lambda number, _: received.append(number)):
        yield
    if received and callable(handler):
        handler(received[0], None)


@contextlib.contextmanager
def stop_on_interrupt() -> Iterator[StopFlag]:
    """Turns the first SIGINT into a flag inside the `with` block, for a library.

    A second SIGINT raises `KeyboardInterrupt` at once, since the handler does; leaving
    the block raises one if the flag is set. See `interrupt_handler` for other threads.
    """
    flag = StopFlag()

    def on_interrupt(number: int, frame: object) -> None:
        if flag.number:
            raise KeyboardInterrupt
        flag.number = number

    with interrupt_handler(on_interrupt):
        yield flag
    if flag.number:
        raise KeyboardInterrupt


@contextlib.contextmanager
def stop_on_signal() -> Iterator[StopFlag]:
    """Turns the first SIGINT or SIGTERM into a flag, for a command.

    A second signal ends the process at once with the exit code of that signal. A thread
    does this, because Python runs no signal handler while the main thread waits in
    compiled code for devices or other processes.
    """
    flag = StopFlag()

    def on_signal(number: int, frame: object) -> None:
        flag.number = number

    read_end, write_end = os.pipe()
    os.set_blocking(write_end, False)
    thread = threading.Thread(target=_exit_on_second, args=[read_end], daemon=True)
    thread.start()
    handlers = {number: signal.signal(number, on_signal) for number in SIGNALS}
    wakeup = signal.set_wakeup_fd(write_end)  # the interpreter writes each signal to it
    try:
        yield flag
    finally:
        signal.set_wakeup_fd(wakeup)
        for number, handler in handlers.items():
            signal.signal(number, handler)
        os.close(write_end)
        thread.join()


def _exit_on_second(read_end: int) -> None:
    """Waits for two signals in a pipe, or for its end."""
    with open(read_end, "rb", buffering=0) as pipe:
        numbers = (byte[0] for byte in iter(lambda: pipe.read(1), b""))
        signals = (number for number in numbers if number in SIGNALS)
        if next(signals, None) and (second := next(signals, None)):
            exit_immediately("stopped", 128 + second)
