"""Signals that stop a command or a training. Importing this module imports no jax.

Python calls a handler in the main thread, between two instructions. While compiled code
runs there, as while XLA compiles, the handler waits for its end.
"""

import contextlib
import signal
import threading
from collections.abc import Callable, Iterable, Iterator
from types import FrameType

from rnnmnist.errors import StoppedError, exit_immediately

STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM)
Handler = Callable[[int, FrameType | None], object] | signal.Handlers


class StopFlag:
    """Holds the number of the signal that stops the run; 0 before any signal."""

    signal_number: int = 0


def exit_on_signals() -> None:
    """Ends this process on a SIGINT or SIGTERM from now on, for a command.

    A signal that is ignored stays so, as SIGINT is in `COMMAND &`.
    """
    for number in STOP_SIGNALS:
        if signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, _exit)


def _exit(number: int, frame: FrameType | None) -> None:
    exit_immediately("stopped", 128 + number)


@contextlib.contextmanager
def stop_on_signal() -> Iterator[StopFlag]:
    """Sets a flag on the first SIGINT or SIGTERM inside the `with` block, in a command.

    A second signal ends the process at once. So does the end of the block if the flag
    is set, since the block has not seen it.
    """
    with _flag_on_first(STOP_SIGNALS, signal.SIG_DFL) as flag:
        yield flag
    if flag.signal_number:
        signal.raise_signal(flag.signal_number)


@contextlib.contextmanager
def stop_on_interrupt() -> Iterator[StopFlag]:
    """Sets a flag on the first SIGINT inside the `with` block, in a function.

    The end of the block then raises `KeyboardInterrupt`, with the message of a
    `StoppedError` that leaves it. A second SIGINT raises it at once. Outside of the
    main thread, no signal is handled.
    """
    try:
        with _flag_on_first([signal.SIGINT], signal.default_int_handler) as flag:
            yield flag
    except StoppedError as error:
        raise KeyboardInterrupt(str(error)) from None
    if flag.signal_number:
        raise KeyboardInterrupt


@contextlib.contextmanager
def _flag_on_first(numbers: Iterable[int], second: Handler) -> Iterator[StopFlag]:
    """Sets a flag on the first of some signals inside the `with` block.

    From then on, they have the handler `second`, until the end of the block. Only the
    main thread can install handlers. A signal that is ignored stays so, and one whose
    handler is not Python's, which could not be restored, keeps it.
    """
    flag = StopFlag()
    is_main = threading.current_thread() is threading.main_thread()
    previous = {
        number: signal.getsignal(number)
        for number in numbers
        if is_main and signal.getsignal(number) not in (None, signal.SIG_IGN)
    }

    def set_flag(number: int, frame: FrameType | None) -> None:
        flag.signal_number = number
        for each in previous:
            signal.signal(each, second)

    for number in previous:
        signal.signal(number, set_flag)
    try:
        yield flag
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
