"""Folders are written whole or not at all."""

from pathlib import Path

import pytest

from rnnmnist.runs.writing import write_folder


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
    assert (path / "file").read_text() == "second"
    assert list(path.parent.iterdir()) == [path]
