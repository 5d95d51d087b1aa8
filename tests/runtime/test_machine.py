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
    assert whole.total > whole.available > 2**28
    monkeypatch.setattr(machine, "CGROUP", tmp_path)
    counts = "anon 9\nfile 8192\ninactive_file 5000\nactive_file 3000\nslab 1\n"
    for limit, used, expected in (
        (f"{2**28}\n", f"{2**20}\n", (2**28, 2**28 - 2**20 + 8000)),
        (f"{2**28}\n", f"{2**28 + 9000}\n", (2**28, 0)),
        ("max\n", "8192\n", None),
    ):
        (tmp_path / "memory.max").write_text(limit)
        (tmp_path / "memory.current").write_text(used)
        (tmp_path / "memory.stat").write_text(counts)
        found = machine.main_memory()
        if expected is None:
            assert found.total == whole.total
            assert found.available > 2**28
        else:
            assert found == expected
