"""Folders are written whole or not at all."""

import os
import shutil
from pathlib import Path

import pytest
from support import TASK, save_network

from rnnmnist.config.schema import Config
from rnnmnist.runs import logs
from rnnmnist.runs.writing import write_folder, write_json


def write(path: Path, text: str, error: Exception | None = None) -> None:
    with write_folder(path) as folder:
        (folder / "file").write_text(text)
        if error is not None:
            raise error


def test_an_error_leaves_the_old_folder(tmp_path: Path) -> None:
    path = tmp_path / "new" / "folder"
    with pytest.raises(ValueError, match="of the block"):
        write(path, "first", ValueError("of the block"))
    assert list(path.parent.iterdir()) == []
    write(path, "first")
    with pytest.raises(ValueError, match="of the block"):
        write(path, "second", ValueError("of the block"))
    assert (path / "file").read_text() == "first"
    write(path, "second")
    with pytest.raises(FileNotFoundError), write_folder(path) as folder:
        shutil.rmtree(folder)  # it cannot replace the old one
    assert (path / "file").read_text() == "second"
    assert list(path.parent.iterdir()) == [path]


def test_files_that_survive_a_power_cut(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They are synced before they are renamed, and their folder afterwards."""
    synced = []

    def fsync(descriptor: int) -> None:
        synced.append(Path(f"/proc/self/fd/{descriptor}").readlink())

    monkeypatch.setattr(os, "fsync", fsync)
    save_network(tmp_path, Config(), TASK)
    session = logs.Session(
        time="now",
        command="main",
        hardware="none",
        devices="none",
        processes=1,
        versions={},
        from_step=0,
        step=3,
        seconds={},
    )
    logs.append(tmp_path, session)
    write_json(tmp_path / "result.json", {})
    assert {str(path.relative_to(tmp_path)) for path in synced} >= {
        "3.orbax-checkpoint-tmp",
        "3.orbax-checkpoint-tmp/header",
        "3.orbax-checkpoint-tmp/header/metadata",
        "3.orbax-checkpoint-tmp/params/_METADATA",
        "3.orbax-checkpoint-tmp/SHA256SUMS",
        "sessions.jsonl",
        f".result.json.{os.getpid()}.tmp",
        ".",
    }
