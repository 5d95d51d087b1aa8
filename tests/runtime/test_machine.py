from pathlib import Path

from rnnmnist.runtime import machine


def test_main_memory_respects_the_limit_of_a_container(tmp_path: Path) -> None:
    limit = tmp_path / "memory.max"
    limit.write_text("1073741824\n")
    assert machine.main_memory(limit) == 2**30
    limit.write_text("max\n")
    assert machine.main_memory(limit) == machine.main_memory(tmp_path / "none") > 2**30
