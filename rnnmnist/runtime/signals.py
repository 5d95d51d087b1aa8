"""Signals that stop a command or a training run. Does not import jax.

Python calls signal handlers in the main thread, between two Python instructions. While
the main thread runs compiled code, for example the XLA compiler, handlers are delayed
until the code returns.
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
    """The number of the signal that stops the run; 0 before any signal."""

    signal_number: int = 0


def exit_on_signals() -> None:
    """Ends this process on SIGINT or SIGTERM from now on, for commands.

    Ignored signals stay ignored, such as SIGINT in `COMMAND &`.
    """
    for number in STOP_SIGNALS:
        if signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, _exit)


def _exit(number: int, frame: FrameType | None) -> None:
    exit_immediately("stopped", 128 + number)


@contextlib.contextmanager
def stop_on_signal() -> Iterator[StopFlag]:
    """Sets a flag on the first SIGINT or SIGTERM in the `with` block, for commands.

    A second signal ends the process at once. If the flag is set when the block ends,
    the block has not handled the signal, and the process ends, too.
    """
    with _flag_on_first(STOP_SIGNALS, signal.SIG_DFL) as flag:
        yield flag
    if flag.signal_number:
        signal.raise_signal(flag.signal_number)


@contextlib.contextmanager
def stop_on_interrupt() -> Iterator[StopFlag]:
    """Sets a flag on the first SIGINT in the `with` block, for Python functions.

    If the flag is set, `KeyboardInterrupt` is raised when the block ends, with the
    message of the block's `StoppedError`, if any. A second SIGINT raises
    `KeyboardInterrupt` at once. Outside the main thread, no signal is handled.
    """
    try:
        with _flag_on_first([signal.SIGINT], signal.default_int_handler) as flag:
            yield flag
    except StoppedError as error:
        raise KeyboardInterrupt(str(error)) from None
    if flag.signal_number:
        raise KeyboardInterrupt


@contextlib.contextmanager
def _flag_on_first(signals: Iterable[int], next_handler: Handler) -> Iterator[StopFlag]:
    """Sets a flag on the first of `signals` in the `with` block.

    From then on, `next_handler` handles the signals until the end of the block. Only
    the main thread can install handlers. Ignored signals stay ignored. Handlers that
    were not installed from Python stay installed, because they could not be restored.
    """
    flag = StopFlag()
    is_main = threading.current_thread() is threading.main_thread()
    previous = {
        number: signal.getsignal(number)
        for number in signals
        if is_main and signal.getsignal(number) not in (None, signal.SIG_IGN)
    }

    def set_flag(number: int, frame: FrameType | None) -> None:
        flag.signal_number = number
        for handled in previous:
            signal.signal(handled, next_handler)

    for number in previous:
        signal.signal(number, set_flag)
    try:
        yield flag
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
