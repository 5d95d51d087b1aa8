"""Handlers of SIGINT for the time of a `with` block."""

import contextlib
import signal
import threading
from collections.abc import Callable, Iterator


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
