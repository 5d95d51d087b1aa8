"""SIGTERM and Ctrl-C during training: finish the chunk, save, then stop."""

import contextlib
import signal
import time
from collections.abc import Iterator
from types import FrameType

import jax

SIGNALS = (signal.SIGINT, signal.SIGTERM)


class StopFlag:
    """Says which signal has asked the run to stop; 0 where none has."""

    number: int = 0


@contextlib.contextmanager
def stop_on_signal() -> Iterator[StopFlag]:
    """Turns the first SIGINT or SIGTERM into a flag for as long as it is open.

    The first one puts Python's own handlers back, so that a second stops at once.
    """
    flag = StopFlag()
    before = {number: signal.getsignal(number) for number in SIGNALS}

    def give_back() -> None:
        for number, handler in before.items():
            signal.signal(number, handler)

    def on_signal(number: int, frame: FrameType | None) -> None:
        flag.number = number
        give_back()

    for number in SIGNALS:
        signal.signal(number, on_signal)
    try:
        yield flag
    finally:
        give_back()


def wait_for(arrays: object) -> None:
    """Waits for arrays to be computed, and lets signals through meanwhile.

    `block_until_ready` would hold a second Ctrl-C back until the chunk is done.
    """
    for leaf in jax.tree.leaves(arrays):
        while not leaf.is_ready():
            time.sleep(0.001)
