"""The machine's memory."""

from pathlib import Path

import pytest

from rnnmnist.runtime import machine


def test_main_memory_respects_the_limit_of_a_container(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The memory that this process uses is not available."""
    monkeypatch.setattr(machine, "CGROUP", tmp_path / "none")
    whole = machine.main_memory()
    assert whole.total > whole.available > 0
    monkeypatch.setattr(machine, "CGROUP", tmp_path)
    (tmp_path / "memory.max").write_text(f"{whole.total - 1}\n")
    total, available = machine.main_memory()
    assert total == whole.total - 1
    assert 0 < available < total
    (tmp_path / "memory.max").write_text("1\n")
    assert machine.main_memory() == (1, 0)
    (tmp_path / "memory.max").write_text("max\n")
    assert machine.main_memory().total == whole.total
