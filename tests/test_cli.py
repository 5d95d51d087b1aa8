"""What the commands' parsers share."""

import asyncio
import sys

import pytest

from rnnmnist import cli


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

    monkeypatch.setattr(sys, "unraisablehook", cli._show_unraisable)
    reading = read()
    reading.send(None)
    del reading
    assert capsys.readouterr().err == ""
    Failing()
    assert "ValueError: a fault in __del__" in capsys.readouterr().err


@pytest.mark.xfail(strict=True, reason="FLAGS does not list all flags")
@pytest.mark.parametrize("name", ["num_processes", "process_id"])
def test_a_flag_has_its_dashes_in_an_error(name: str) -> None:
    assert cli.format_error(f"{name}: is wrong") == f"--{name}: is wrong"
