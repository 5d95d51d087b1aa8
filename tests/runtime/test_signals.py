"""What signals do to a run, in this process or in one of its own."""

import concurrent.futures
import signal
from pathlib import Path

import pytest
from support import output_of, run_python, save_network

from rnnmnist.config.schema import Config, DataConfig
from rnnmnist.data.image_sets import image_task
from rnnmnist.errors import RunError
from rnnmnist.runtime.signals import (
    defer_interrupts,
    stop_on_interrupt,
    stop_on_signal,
)


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


def test_an_interrupt_is_deferred_to_the_end_of_a_save(interrupts: list[int]) -> None:
    """Also of one that fails."""
    with defer_interrupts():
        interrupt()
        assert interrupts == []
    assert interrupts == [signal.SIGINT]
    with (
        pytest.raises(KeyboardInterrupt, match="the disk is full"),
        stop_on_interrupt(),
        defer_interrupts(),
    ):
        interrupt()
        raise RunError("the disk is full")


def test_a_deferred_interrupt_ends_a_process_without_a_handler() -> None:
    program = (
        "import signal\n"
        "from rnnmnist.runtime.signals import defer_interrupts\n"
        "signal.signal(signal.SIGINT, signal.SIG_DFL)\n"
        "with defer_interrupts():\n"
        "    signal.raise_signal(signal.SIGINT)\n"
        "    print('deferred', flush=True)\n"
        "print('lost', flush=True)\n"
    )
    ended = run_python("-c", program)
    assert (ended.returncode, ended.stdout) == (-signal.SIGINT, "deferred\n")


def test_other_threads_handle_no_interrupts(interrupts: list[int]) -> None:
    handler = signal.getsignal(signal.SIGINT)

    def handler_within() -> object:
        with stop_on_interrupt(), defer_interrupts():
            return signal.getsignal(signal.SIGINT)

    with concurrent.futures.ThreadPoolExecutor(1) as thread:
        assert thread.submit(handler_within).result() == handler


def test_a_signal_in_a_callback_ends_a_command() -> None:
    """Python drops an exception that a handler raises there."""
    program = (
        "import gc, os, signal, time\n"
        "from rnnmnist.commands import command_line\n"
        "def main(argv):\n"
        "    gc.callbacks.append(lambda *_: os.kill(os.getpid(), signal.SIGINT))\n"
        "    gc.collect()\n"
        "    time.sleep(10)\n"
        "command_line.run(main)\n"
    )
    ended = run_python("-c", program)
    assert (ended.returncode, ended.stderr) == (130, "stopped\n")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_command_stops_on_the_first_signal_and_exits_on_the_second(
    number: int,
) -> None:
    """Other signals, such as SIGCHLD, do not count, and a deferred one counts once."""
    program = (
        "import os, signal, time\n"
        "from rnnmnist.runtime import signals\n"
        "signal.signal(signal.SIGCHLD, lambda *_: None)\n"
        "signals.exit_on_signals()\n"
        "with signals.stop_on_signal() as flag:\n"
        f"    for number in (signal.SIGCHLD, {number}, signal.SIGCHLD, {number}):\n"
        "        with signals.defer_interrupts():\n"
        "            os.kill(os.getpid(), number)\n"
        "        time.sleep(0.1)\n"
        "        print(flag.signal_number, flush=True)\n"
        "    time.sleep(60)\n"
    )
    ended = run_python("-c", program)
    assert (ended.returncode, ended.stderr) == (128 + number, "stopped\n")
    assert ended.stdout.split() == ["0", *[str(int(number))] * 2]


def test_a_signal_that_training_no_longer_sees_ends_a_command() -> None:
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


INTERRUPTED_EXPORT = """
import os, signal, time
from rnnmnist.commands import command_line
from rnnmnist.commands import export
from rnnmnist.exporting import exports

def compare(*_, **__):
    os.kill(os.getpid(), signal.SIGINT)
    time.sleep(60)

exports.compare = compare
command_line.run(export.main)
"""


@pytest.mark.slow
def test_an_interrupted_export_is_not_taken_for_one(
    environment: dict[str, str], tmp_path: Path
) -> None:
    config = Config(data=DataConfig(name="mnist5k"))
    run = save_network(tmp_path / "run", config, image_task(config.data))
    flags = [f"--workdir={run}", "--format=stablehlo", f"--output={tmp_path}/out"]
    flags += [f"--config.data.data_dir={tmp_path}/data"]
    program = ("-c", INTERRUPTED_EXPORT)
    finished = run_python(*program, *flags, environment=environment)
    assert (finished.returncode, finished.stderr) == (130, "stopped\n")
    assert not (tmp_path / "out" / "stablehlo").exists()


def test_an_ignored_interrupt_stays_ignored(environment: dict[str, str]) -> None:
    """As of `COMMAND &` in a script."""
    program = (
        "import signal\n"
        "signal.signal(signal.SIGINT, signal.SIG_IGN)\n"
        "from rnnmnist.commands import command_line\n"
        "command_line.run(lambda _: signal.raise_signal(signal.SIGINT))\n"
    )
    assert run_python("-c", program, environment=environment).returncode == 0


def test_a_program_that_imports_the_package_keeps_its_interrupts(
    environment: dict[str, str], tmp_path: Path
) -> None:
    """As `python -m`, with arguments like those of a command."""
    (tmp_path / "user").mkdir()
    (tmp_path / "user" / "__init__.py").write_text("import rnnmnist")
    (tmp_path / "user" / "train.py").write_text(
        "import signal\n"
        "assert signal.getsignal(signal.SIGINT) is signal.default_int_handler\n"
    )
    environment |= {"PYTHONPATH": str(tmp_path)}
    command = ["-m", "user.train", "-m", "rnnmnist.main"]
    output_of(run_python(*command, environment=environment))


def test_a_command_that_a_program_calls_leaves_its_signals_alone(
    interrupts: list[int],
) -> None:
    before = signal.getsignal(signal.SIGTERM)
    with stop_on_signal() as flag:
        assert signal.getsignal(signal.SIGTERM) == before
        interrupt()
    assert (flag.signal_number, interrupts) == (0, [signal.SIGINT])
