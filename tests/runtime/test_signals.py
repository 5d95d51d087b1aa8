"""What signals do to a run, in this process or in one of its own."""

import concurrent.futures
import signal
import threading

import pytest
from support import run_python

from rnnmnist.runtime.signals import (
    deferred_interrupts,
    stop_on_interrupt,
    stop_on_signal,
)


def interrupt() -> None:
    signal.raise_signal(signal.SIGINT)


def test_the_first_interrupt_is_raised_at_the_end(interrupts: list[int]) -> None:
    with pytest.raises(KeyboardInterrupt), stop_on_interrupt() as flag:
        assert flag.number == 0
        interrupt()
        assert flag.number == signal.SIGINT
        with pytest.raises(KeyboardInterrupt):  # the second, at once
            interrupt()
    assert interrupts == []
    with stop_on_interrupt():
        pass
    interrupt()
    assert interrupts == [signal.SIGINT]


def test_an_interrupt_is_deferred(interrupts: list[int]) -> None:
    with deferred_interrupts():
        interrupt()
        assert interrupts == []
    assert interrupts == [signal.SIGINT]


def test_other_threads_handle_no_interrupts(interrupts: list[int]) -> None:
    handler = signal.getsignal(signal.SIGINT)

    def handler_within() -> object:
        with stop_on_interrupt(), deferred_interrupts():
            return signal.getsignal(signal.SIGINT)

    with concurrent.futures.ThreadPoolExecutor(1) as thread:
        assert thread.submit(handler_within).result() == handler


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_command_stops_on_the_first_signal(number: int) -> None:
    before = signal.getsignal(number), threading.active_count()
    with stop_on_signal() as flag:
        signal.raise_signal(number)
        assert flag.number == number
    assert (signal.getsignal(number), threading.active_count()) == before
    assert signal.set_wakeup_fd(-1) == -1


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_command_exits_on_the_second_signal(number: int) -> None:
    """Other signals, such as SIGCHLD, do not count."""
    program = (
        "import signal, time\n"
        "from rnnmnist.runtime.signals import stop_on_signal\n"
        "signal.signal(signal.SIGCHLD, lambda *_: None)\n"
        "with stop_on_signal():\n"
        f"    for number in ({number}, signal.SIGCHLD, {number}):\n"
        "        signal.raise_signal(number)\n"
        "        time.sleep(0.1)\n"
        "        print(number, flush=True)\n"
        "    time.sleep(60)\n"
    )
    ended = run_python("-c", program)
    assert (ended.returncode, ended.stderr) == (128 + number, "stopped\n")
    assert ended.stdout.split() == [str(int(number)), str(int(signal.SIGCHLD))]
