"""What the commands' parsers share."""

import asyncio
import sys

import pytest

from rnnmnist.commands import command_line


def test_only_failures_of_orbax_after_a_failed_read_are_hidden(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    class Failing:
        def __del__(self) -> None:
            raise ValueError("a fault in __del__")

    async def read() -> None:
        try:
            await asyncio.sleep(0)
        except GeneratorExit as error:
            raise ValueError("cannot read") from error

    monkeypatch.setattr(sys, "unraisablehook", command_line._show_unraisable)
    reading = read()
    reading.send(None)
    del reading
    assert capsys.readouterr().err == ""
    Failing()
    assert "ValueError: a fault in __del__" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["num_processes", "output", "train.num_steps"])
def test_a_flag_has_its_dashes_in_an_error(name: str) -> None:
    flag = f"--config.{name}" if "." in name else f"--{name}"
    assert command_line.format_error(f"{name}: is wrong") == f"{flag}: is wrong"
