"""Damaged checkpoints are detected, named and not used."""

import random
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import trainer
from pytest import CaptureFixture, LogCaptureFixture
from support import called, fit_small

from rnnmnist.errors import RunError
from rnnmnist.runs.checkpoint_files import ITEMS, is_intact
from rnnmnist.runs.records import Record
from rnnmnist.runs.workdir import list_steps

NEWEST = 20
Damage = Callable[[Path], object]


def files_of(workdir: Path) -> list[Path]:
    return sorted(path for path in workdir.rglob("*") if path.is_file())


def largest_file(folder: Path) -> Path:
    return max(files_of(folder), key=lambda path: path.stat().st_size)


def truncate(step: Path) -> None:
    path = largest_file(step / "params")
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def truncate_checksums(step: Path) -> None:
    """Removes the last line, as if only whole blocks had been written to the disk."""
    path = step / "SHA256SUMS"
    *lines, _ = path.read_text().splitlines(keepends=True)
    path.write_text("".join(lines))


DAMAGES: dict[str, Damage] = {
    "truncated file": truncate,
    "empty file": lambda step: largest_file(step / "params").write_bytes(b""),
    "removed file": lambda step: largest_file(step / "params").unlink(),
    "removed item": lambda step: shutil.rmtree(step / "params"),
    "removed header": lambda step: shutil.rmtree(step / "header"),
    "removed checksums": lambda step: (step / "SHA256SUMS").unlink(),
    "truncated checksums": truncate_checksums,
}


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run with two checkpoints, which tests must not change."""
    return fit_small(tmp_path_factory.mktemp("damage") / "run")


def test_every_kind_of_damage_is_found(run: Path, tmp_path: Path) -> None:
    assert is_intact(run / str(NEWEST))
    for number, (name, damage) in enumerate(DAMAGES.items()):
        workdir = trainer.copy_of(run, tmp_path / str(number))
        damage(workdir / str(NEWEST))
        assert not is_intact(workdir / str(NEWEST)), name


def test_a_damaged_step_is_not_evaluated_and_a_resume_moves_it_aside(
    run: Path, tmp_path: Path, capsys: CaptureFixture[str], caplog: LogCaptureFixture
) -> None:
    """The step is selected as `best`, as `latest` and by its number."""
    workdir = trainer.copy_of(run, tmp_path / "run")
    shutil.rmtree(workdir / "evaluation")
    *others, newest = list_steps(workdir)
    truncate(workdir / str(newest))
    for selector in ("best", "latest", newest):
        evaluated = called("evaluate", f"--workdir={workdir}", f"--step={selector}")
        assert evaluated.returncode == 1
        (line,) = evaluated.stderr.splitlines()
        assert f"{workdir / str(newest)} is damaged: " in line
        assert f"steps: {', '.join(map(str, others))};" in line
        assert evaluated.stdout == ""
    assert not (workdir / "evaluation").exists()

    fit_small(workdir, verbose=True)
    assert f"resuming from step {others[-1]}\n" in capsys.readouterr().out
    (message,) = caplog.messages
    assert message.startswith(f"checkpoint {newest} is damaged and was not used; ")
    assert (workdir / f"damaged-{newest}").is_dir()
    trainer.assert_same_end(workdir, run, NEWEST)


def test_files_of_other_programs_are_not_damage(run: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(run / str(NEWEST), tmp_path / str(NEWEST))
    (folder / "params" / ".DS_Store").write_bytes(b"of a file system")
    (folder / "notes.txt").write_text("mine")
    assert is_intact(folder)


def test_a_flipped_bit_is_found(run: Path, tmp_path: Path) -> None:
    """It is found in every file, even in the file of the checksums."""
    folder = shutil.copytree(run / str(NEWEST), tmp_path / str(NEWEST))
    assert {path.name for path in folder.iterdir()} >= {*ITEMS, "SHA256SUMS"}
    generator = random.Random(0)
    for item in [*ITEMS, "SHA256SUMS"]:
        for path in files_of(folder / item) or [folder / item]:
            saved = path.read_bytes()
            content = bytearray(saved)
            content[generator.randrange(len(content))] ^= 1 << generator.randrange(8)
            path.write_bytes(content)
            assert not is_intact(folder), path
            with pytest.raises(RunError, match=f"{NEWEST} is damaged"):
                Record(tmp_path).select("best")
            path.write_bytes(saved)
