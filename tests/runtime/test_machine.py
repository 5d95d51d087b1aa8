from importlib import metadata
from pathlib import Path

import pytest

from rnnmnist.runtime import machine


def test_main_memory_respects_the_limit_of_a_container(tmp_path: Path) -> None:
    limit = tmp_path / "memory.max"
    limit.write_text("1073741824\n")
    assert machine.main_memory(limit) == 2**30
    limit.write_text("max\n")
    assert machine.main_memory(limit) == machine.main_memory(tmp_path / "none") > 2**30


def test_a_library_that_is_not_installed_has_no_version(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(machine, "LIBRARIES", ("jax", "no-such"))
    found = machine.installed_versions()
    assert list(found) == ["jax", "python"]
    assert found["jax"] == metadata.version("jax")
