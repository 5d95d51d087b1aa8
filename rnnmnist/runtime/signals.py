"""Handles signals that stop commands and training runs.

Python calls signal handlers in the main thread, between two Python instructions. While
the main thread runs native code, for example the XLA compiler, handlers wait until that
code returns.

This module does not import `jax`.
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
    """Holds the number of the signal that stops the run."""

    signal_number: int = 0  # 0 until a signal arrives


def exit_on_signals() -> None:
    """Installs handlers that end a command on SIGINT or SIGTERM.

    Ignored signals, such as SIGINT in `COMMAND &`, stay ignored.
    """
    for signum in STOP_SIGNALS:
        if signal.getsignal(signum) is not signal.SIG_IGN:
            signal.signal(signum, _exit)


def _exit(signum: int, frame: FrameType | None) -> None:
    exit_immediately("stopped", 128 + signum)


@contextlib.contextmanager
def stop_on_signal() -> Iterator[StopFlag]:
    """Sets a flag on the first SIGINT or SIGTERM in the `with` block, for commands.

    A second signal ends the process immediately. If the flag is still set when the
    block ends, the signal is raised again, which ends the process.
    """
    with _flag_on_first(STOP_SIGNALS, signal.SIG_DFL) as flag:
        yield flag
    if flag.signal_number:
        signal.raise_signal(flag.signal_number)


@contextlib.contextmanager
def stop_on_interrupt() -> Iterator[StopFlag]:
    """Sets a flag on the first SIGINT in the `with` block, for Python functions.

    If the flag is set when the block ends, `KeyboardInterrupt` is raised. If the block
    raises a `StoppedError`, the `KeyboardInterrupt` has the same message. A second
    SIGINT raises `KeyboardInterrupt` immediately. Signals are handled only in the main
    thread.
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

    After the first signal, `next_handler` handles signals until the block ends. Only
    the main thread can install handlers. Ignored signals stay ignored. Handlers that
    were not installed from Python are not replaced, because Python cannot restore them.
    """
    flag = StopFlag()
    is_main_thread = threading.current_thread() is threading.main_thread()
    previous_handlers = {
        signum: signal.getsignal(signum)
        for signum in signals
        if is_main_thread and signal.getsignal(signum) not in (None, signal.SIG_IGN)
    }

    def set_flag(signum: int, frame: FrameType | None) -> None:
        flag.signal_number = signum
        for handled_signum in previous_handlers:
            signal.signal(handled_signum, next_handler)

    for signum in previous_handlers:
        signal.signal(signum, set_flag)
    try:
        yield flag
    finally:
        for signum, handler in previous_handlers.items():
            signal.signal(signum, handler)
