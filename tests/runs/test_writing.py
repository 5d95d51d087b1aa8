"""Atomic writes of files and folders."""

import json
import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from support import TASK, save_network

from rnnmnist.config.schema import Config
from rnnmnist.runs.writing import replace_folder, write_json


def write(path: Path, text: str, error: Exception | None = None) -> None:
    with replace_folder(path) as folder:
        (folder / "file").write_text(text)
        if error is not None:
            raise error


def test_an_error_keeps_the_old_folder(tmp_path: Path) -> None:
    path = tmp_path / "new" / "folder"
    with pytest.raises(ValueError, match="of the block"):
        write(path, "first", ValueError("of the block"))
    assert list(path.parent.iterdir()) == []
    write(path, "first")
    with pytest.raises(ValueError, match="of the block"):
        write(path, "second", ValueError("of the block"))
    assert (path / "file").read_text() == "first"
    write(path, "second")
    assert (path / "file").read_text() == "second"
    assert list(path.parent.iterdir()) == [path]


def test_a_write_removes_the_leftovers_of_a_killed_write(tmp_path: Path) -> None:
    path = tmp_path / "folder"
    write(path, "first")
    (tmp_path / ".folder.unfinished").mkdir()
    (tmp_path / ".folder.unfinished" / "other").touch()
    write(path, "third")
    assert list(tmp_path.iterdir()) == [path]
    assert [file.name for file in path.iterdir()] == ["file"]


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
