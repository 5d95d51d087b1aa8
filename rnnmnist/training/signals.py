"""SIGTERM and Ctrl-C during training: finish the chunk, save, then stop."""

import contextlib
import os
import signal
import threading
from collections.abc import Iterator
from types import FrameType

from rnnmnist.errors import leave

SIGNALS = (signal.SIGINT, signal.SIGTERM)


class StopFlag:
    """Says which signal has asked the run to stop; 0 where none has."""

    number: int = 0


@contextlib.contextmanager
def stop_on_signal() -> Iterator[StopFlag]:
    """Turns the first SIGINT or SIGTERM into a flag for as long as it is open.

    A second one ends the process at once, with the exit code of that signal: also
    while the main thread waits in compiled code, for the devices or for another
    process, where no handler of Python's would be called.
    """
    flag = StopFlag()

    def on_signal(number: int, frame: FrameType | None) -> None:
        flag.number = number

    reading, writing = os.pipe()
    os.set_blocking(writing, False)
    threading.Thread(target=_end_at_second, args=[reading], daemon=True).start()
    before = {number: signal.signal(number, on_signal) for number in SIGNALS}
    wakeup = signal.set_wakeup_fd(writing)  # the interpreter writes each signal there
    try:
        yield flag
    finally:
        signal.set_wakeup_fd(wakeup)
        for number, handler in before.items():
            signal.signal(number, handler)
        os.close(writing)


def _end_at_second(reading: int) -> None:
    """Waits for two signals in a pipe, or for its end."""
    with open(reading, "rb", buffering=0) as pipe:
        numbers = (byte[0] for byte in iter(lambda: pipe.read(1), b""))
        stopping = (number for number in numbers if number in SIGNALS)
        if next(stopping, None) and (second := next(stopping, None)):
            leave("stopped", 128 + second)
