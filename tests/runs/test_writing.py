"""Atomic writes of files."""

import json
import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from support import TASK, save_network

from rnnmnist.config.schema import Config
from rnnmnist.runs.writing import write_json


def test_concurrent_writes_leave_a_complete_file(tmp_path: Path) -> None:
    path = tmp_path / "new" / "result.json"
    contents = [{"value": [number] * 2000} for number in range(4)]

    def write_often(content: object) -> None:
        for _ in range(20):
            write_json(path, content)
            assert json.loads(path.read_text()) in contents

    with ThreadPoolExecutor(4) as threads:
        list(threads.map(write_often, contents))
    assert list(path.parent.iterdir()) == [path]


def test_files_survive_a_power_cut(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Files are synced before the rename, and the folder after it."""
    synced = []

    def fsync(descriptor: int) -> None:
        synced.append(Path(f"/proc/self/fd/{descriptor}").readlink())

    monkeypatch.setattr(os, "fsync", fsync)
    save_network(tmp_path, Config(), TASK)
    write_json(tmp_path / "result.json", {})
    names = {str(path.relative_to(tmp_path)) for path in synced}
    assert any(name.startswith(".result.json.") for name in names)
    assert names >= {
        ".unfinished/3",
        ".unfinished/3/header",
        ".unfinished/3/header/metadata",
        ".unfinished/3/params/_METADATA",
        ".unfinished/3/SHA256SUMS",
        ".",
    }
