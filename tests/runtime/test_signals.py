"""The effect of signals on a run, in this process or in its own process."""

import concurrent.futures
import signal

import pytest
from support import run_python

from rnnmnist.errors import RunError, StoppedError
from rnnmnist.runtime.signals import stop_on_interrupt


def interrupt() -> None:
    signal.raise_signal(signal.SIGINT)


def test_the_first_interrupt_is_raised_at_the_end(interrupts: list[int]) -> None:
    with pytest.raises(KeyboardInterrupt), stop_on_interrupt() as flag:
        assert flag.signal_number == 0
        interrupt()
        assert flag.signal_number == signal.SIGINT
        with pytest.raises(KeyboardInterrupt):  # the second, at once
            interrupt()
    assert interrupts == []
    with stop_on_interrupt():
        pass
    interrupt()
    assert interrupts == [signal.SIGINT]


def test_an_interrupt_reports_the_saved_step() -> None:
    """An error is raised unchanged."""
    with pytest.raises(KeyboardInterrupt, match="saved step 3"), stop_on_interrupt():
        raise StoppedError("saved step 3", 130)
    with pytest.raises(RunError, match="the disk is full"), stop_on_interrupt():
        interrupt()
        raise RunError("the disk is full")


def test_other_threads_handle_no_interrupts(interrupts: list[int]) -> None:
    handler = signal.getsignal(signal.SIGINT)

    def handler_within() -> object:
        with stop_on_interrupt():
            return signal.getsignal(signal.SIGINT)

    with concurrent.futures.ThreadPoolExecutor(1) as thread:
        assert thread.submit(handler_within).result() == handler


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_command_stops_on_the_first_signal_and_exits_on_the_second(
    number: int,
) -> None:
    program = (
        "import os, signal, time\n"
        "from rnnmnist.runtime import signals\n"
        "signals.exit_on_signals()\n"
        "with signals.stop_on_signal() as flag:\n"
        f"    os.kill(os.getpid(), {number})\n"
        "    print(flag.signal_number, flush=True)\n"
        f"    os.kill(os.getpid(), {number})\n"
        "    time.sleep(60)\n"
    )
    ended = run_python("-c", program)
    assert (ended.returncode, ended.stderr) == (-number, "")
    assert ended.stdout.split() == [str(int(number))]


def test_a_signal_after_the_training_stops_the_command() -> None:
    program = (
        "import os, signal, time\n"
        "from rnnmnist.runtime.signals import exit_on_signals, stop_on_signal\n"
        "exit_on_signals()\n"
        "with stop_on_signal():\n"
        "    os.kill(os.getpid(), signal.SIGTERM)\n"
        "    time.sleep(0.1)\n"
        "print('lost', flush=True)\n"
    )
    ended = run_python("-c", program)
    assert (ended.returncode, ended.stderr) == (143, "stopped\n")
    assert ended.stdout == ""


def test_an_ignored_interrupt_stays_ignored(environment: dict[str, str]) -> None:
    """A script with `COMMAND &` ignores interrupts of the command."""
    program = (
        "import signal\n"
        "signal.signal(signal.SIGINT, signal.SIG_IGN)\n"
        "from rnnmnist.commands import command_line\n"
        "command_line.run(lambda _: signal.raise_signal(signal.SIGINT))\n"
    )
    assert run_python("-c", program, environment=environment).returncode == 0
