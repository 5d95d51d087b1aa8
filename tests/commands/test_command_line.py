"""What the commands' parsers share."""

import pytest

from rnnmnist.commands import command_line


@pytest.mark.parametrize("name", ["num_processes", "output", "train.num_steps"])
def test_a_flag_has_its_dashes_in_an_error(name: str) -> None:
    flag = f"--config.{name}" if "." in name else f"--{name}"
    assert command_line.format_error(f"{name}: is wrong") == f"{flag}: is wrong"
