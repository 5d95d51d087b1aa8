"""What the machine has."""

from pathlib import Path

import pytest

from rnnmnist.runtime import machine


def test_main_memory_respects_the_limit_of_a_container(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without what it uses; the files that it has read can be dropped."""
    monkeypatch.setattr(machine, "CGROUP", tmp_path / "none")
    whole = machine.main_memory()
    assert whole.total > whole.available > 0
    monkeypatch.setattr(machine, "CGROUP", tmp_path)
    counts = "anon 9\nfile 8192\ninactive_file 5000\nactive_file 3000\nslab 1\n"
    (tmp_path / "memory.stat").write_text(counts)
    (tmp_path / "memory.max").write_text(f"{2**28}\n")
    for used, available in (2**20, 2**28 - 2**20 + 8000), (2**28 + 9000, 0):
        (tmp_path / "memory.current").write_text(f"{used}\n")
        assert machine.main_memory() == (2**28, available)
    (tmp_path / "memory.max").write_text("max\n")
    assert machine.main_memory().total == whole.total
