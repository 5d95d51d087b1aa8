"""Damaged checkpoints are detected, named and not used."""

import contextlib
import random
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import msgspec
import numpy as np
import pytest
import trainer
from support import Command, array_checksums, damaged

from rnnmnist.errors import Failure, UserError
from rnnmnist.evaluation.trained_run import TrainedRun
from rnnmnist.runs import checkpoints, logs
from rnnmnist.runs.checkpoint_files import (
    ITEMS,
    DamagedError,
    find_fault,
    read_header,
)
from rnnmnist.runs.checkpoints import read_arrays
from rnnmnist.runs.selection import find_step
from rnnmnist.runs.workdir import list_steps
from rnnmnist.training.resume import check_settings, step_to_resume

NEWEST = trainer.STEPS
Damage = Callable[[Path], object]


def files_of(workdir: Path) -> list[Path]:
    return sorted(path for path in workdir.rglob("*") if path.is_file())


def largest_file(folder: Path) -> Path:
    return max(files_of(folder), key=lambda path: path.stat().st_size)


def cut(step: Path) -> None:
    path = largest_file(step / "params")
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def empty(step: Path) -> None:
    shutil.rmtree(step)
    step.mkdir()


def cut_sums(step: Path) -> None:
    """Removes the last line, as a file that ends with a block of the disk."""
    path = step / "SHA256SUMS"
    *lines, _ = path.read_text().splitlines(keepends=True)
    path.write_text("".join(lines))


def unlist_damaged(step: Path) -> None:
    """Damages a file of which the checksums have no line."""
    damaged = largest_file(step / "params")
    damaged.write_bytes(b"")
    path = step / "SHA256SUMS"
    lines = path.read_text().splitlines(keepends=True)
    path.write_text("".join(line for line in lines if damaged.name not in line))


def point_outside(step: Path) -> None:
    """Lets the checksums name a file that never ends."""
    path = step / "SHA256SUMS"
    line = f"{'0' * 64}  header/../../../../../../../dev/zero\n"
    path.write_text(line + path.read_text())


def edit_task(step: Path) -> None:
    path = step / "header" / "metadata"
    path.write_text(path.read_text().replace('"time_steps": 28', '"time_steps": 27'))


DAMAGES: dict[str, Damage] = {
    "truncated file": cut,
    "garbage JSON": lambda step: (step / "header" / "metadata").write_text('{"seed": '),
    "empty step folder": empty,
    "empty file": lambda step: largest_file(step / "params").write_bytes(b""),
    "removed file": lambda step: largest_file(step / "params").unlink(),
    "removed item": lambda step: shutil.rmtree(step / "params"),
    "removed header": lambda step: shutil.rmtree(step / "header"),
    "removed checksums": lambda step: (step / "SHA256SUMS").unlink(),
    "truncated checksums": cut_sums,
    "a file without a checksum": unlist_damaged,
    "a checksum of another file": point_outside,
    "another task": edit_task,
}


def test_every_kind_of_damage_is_found(reference_run: Path, tmp_path: Path) -> None:
    assert find_fault(reference_run, NEWEST) is None
    for name, damage in DAMAGES.items():
        workdir = trainer.copy_of(reference_run, tmp_path / name)
        damage(workdir / str(NEWEST))
        assert find_fault(workdir, NEWEST) is not None


@pytest.mark.slow
def test_training_resumes_before_a_damaged_newest_step(
    command: Command, data_dir: Path, reference_run: Path, tmp_path: Path
) -> None:
    """And the damaged one is not evaluated."""
    workdir = trainer.copy_of(reference_run, tmp_path / "run")
    shutil.rmtree(workdir / "evaluation")
    cut(workdir / str(NEWEST))

    evaluated = command("evaluate", f"--workdir={workdir}", f"--step={NEWEST}")
    assert evaluated.returncode == 1
    (line,) = evaluated.stderr.splitlines()
    assert f"{workdir / str(NEWEST)} is damaged" in line
    assert evaluated.stdout == ""
    assert not (workdir / "evaluation").exists()

    trained = command("main", *trainer.arguments(workdir, data_dir))
    assert trained.returncode == 0, trained.stderr
    (line,) = trained.stderr.splitlines()
    assert line.startswith(f"warning: checkpoint {NEWEST} is damaged and not used")
    assert f"resuming from step {NEWEST - 20}\n" in trained.stdout
    assert (workdir / f"damaged-{NEWEST}").is_dir()
    trainer.assert_same_end(workdir, reference_run)


@pytest.mark.parametrize("selector", ["latest", "best"])
def test_a_selector_takes_an_undamaged_step(
    reference_run: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture, selector: str
) -> None:
    """But a step that is asked for by its number is an error."""
    workdir = trainer.copy_of(reference_run, tmp_path / "run")
    steps = list_steps(workdir)
    for left in range(len(steps), 1, -1):
        step = TrainedRun(workdir, selector).checkpoint_step
        cut(workdir / str(step))
        found = TrainedRun(workdir, selector).checkpoint_step
        assert found != step
        assert list_steps(workdir) == steps
        message = f"{workdir / str(step)} is damaged and not used: params/"
        assert sum(line.startswith(message) for line in caplog.messages) == 1
        with pytest.raises(DamagedError, match=f"/{step} is damaged"):
            TrainedRun(workdir, str(step))
        assert len(caplog.messages) == len(steps) - left + 1
    cut(workdir / str(found))
    with pytest.raises(DamagedError, match=f"/{found} is damaged"):
        TrainedRun(workdir, selector)


def contents(workdir: Path, step: int) -> dict[str, str]:
    """Checksums and JSON of everything restored from a step."""
    header = read_header(workdir, step)
    state = array_checksums(read_arrays(workdir, step, "state"))
    params = array_checksums(read_arrays(workdir, step, "params"))
    config = header.config.replace({"data.data_dir": None})
    return (
        state
        | params
        | {"header": repr(msgspec.structs.replace(header, config=config))}
    )


def sums(step: Path) -> list[str]:
    """The files that `sha256sum` finds as they were saved."""
    check = subprocess.run(
        ["sha256sum", "--check", "--strict", "SHA256SUMS"],
        cwd=step,
        capture_output=True,
        text=True,
    )
    lines = check.stdout.splitlines()
    return [line.removesuffix(": OK") for line in lines if line.endswith(": OK")]


def test_files_of_other_programs_are_no_damage(
    reference_run: Path, tmp_path: Path
) -> None:
    workdir = trainer.copy_of(reference_run, tmp_path / "run")
    step = workdir / str(NEWEST)
    (step / "params" / ".DS_Store").write_bytes(b"of a file system")
    (step / "notes.txt").write_text("mine")
    assert find_fault(workdir, NEWEST) is None


def test_a_flipped_bit_is_found_before_anything_is_parsed(
    reference_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In each file, also in the checksums, by this package and by `sha256sum`."""
    folder = shutil.copytree(reference_run / str(NEWEST), tmp_path / str(NEWEST))
    assert contents(tmp_path, NEWEST) == contents(reference_run, NEWEST)
    intact = sums(folder)
    restored = {path for path in files_of(folder) if path.parent != folder}
    assert {folder / name for name in intact} == restored
    assert {path.relative_to(folder).parts[0] for path in restored} == {*ITEMS}

    def parse(*_: object) -> None:
        raise AssertionError("a damaged file was parsed")

    monkeypatch.setattr(checkpoints, "_restore", parse)
    generator = random.Random(0)
    for name in [*intact, "SHA256SUMS"]:
        saved = (folder / name).read_bytes()
        content = bytearray(saved)
        content[generator.randrange(len(content))] ^= 1 << generator.randrange(8)
        (folder / name).write_bytes(content)
        fault = find_fault(tmp_path, NEWEST)
        assert fault is not None, name
        item = name.partition("/")[0]
        # `sha256sum` takes a digit of a hash in capitals for the same one.
        is_same_hash = name == "SHA256SUMS" and content.lower() == saved.lower()
        if not is_same_hash:
            assert set(sums(folder)) < set(intact), name
        if item == "header":
            with pytest.raises(DamagedError, match=name):
                read_header(tmp_path, NEWEST)
        elif item in ("params", "state"):
            assert fault.startswith(f"{name} differs")
            assert read_header(tmp_path, NEWEST).step == NEWEST  # reads headers only
            with pytest.raises(DamagedError, match=name):
                read_arrays(tmp_path, NEWEST, item)
        (folder / name).write_bytes(saved)


def test_a_checkpoint_with_another_steps_name_is_damaged(
    reference_run: Path, tmp_path: Path
) -> None:
    shutil.copytree(reference_run / str(NEWEST), tmp_path / "7000")
    fault = find_fault(tmp_path, 7000)
    assert fault == f"it is step {NEWEST}"


def test_settings_that_a_resume_may_change(
    reference_run: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """With a warning where the result differs."""
    header = read_header(reference_run, NEWEST)
    changes = {"data.data_dir": "/somewhere", "train.num_steps": 1000}
    changes |= {"train.log_every_steps": 3, "train.patience": 5}
    changed = header.config.replace(changes)
    assert step_to_resume(changed, reference_run, header.task)[0] == NEWEST
    (message,) = caplog.messages
    assert message.startswith("train.num_steps was 120 and is now 1000: ")


def test_a_changed_model_or_order_of_the_data_is_refused(reference_run: Path) -> None:
    config = read_header(reference_run, NEWEST).config
    refused = {"model.hidden_size": 49, "seed": 1}
    refused |= {"train.batch_size": 49, "data.max_shift": 3}
    for name, value in refused.items():
        with pytest.raises(UserError) as error:
            check_settings(config.replace({name: value}), reference_run)
        shown = f"{name}={value} (checkpoint: {config.flat()[name]})"
        assert shown in str(error.value)


def test_only_the_length_of_a_complete_run_may_change(reference_run: Path) -> None:
    """With other settings that change the result, it would be a run of these."""
    config = read_header(reference_run, NEWEST).config
    changes = {"train.learning_rate": 0.5, "execution.num_devices": 3}
    for name, value in changes.items():
        with pytest.raises(UserError) as error:
            check_settings(config.replace({name: value}), reference_run)
        shown = f"{name}={value} (checkpoint: {config.flat()[name]})"
        assert shown in str(error.value)
        longer = {name: value, "train.num_steps": 1000}
        assert check_settings(config.replace(longer), reference_run)[0] == NEWEST


def edit_randomly(seed: int, workdir: Path) -> Path:
    """Edits a random file, or removes it; returns its path."""
    generator = np.random.default_rng(seed)
    files = [path for path in files_of(workdir) if path.stat().st_size]
    path, other = (files[n] for n in generator.integers(len(files), size=2))
    content = path.read_bytes()
    match generator.integers(5):
        case 0:
            path.unlink()
        case 1:
            path.write_bytes(bytes(len(content)))
        case 2:
            path.write_bytes(other.read_bytes())
        case _:
            path.write_bytes(damaged(content, generator))
    return path


@pytest.mark.parametrize(
    "first",
    [
        pytest.param(0, marks=pytest.mark.slow),
        *(pytest.param(n, marks=pytest.mark.exhaustive) for n in (50, 100, 150)),
    ],
)
def test_random_edits_cause_errors_or_have_no_effect(
    reference_run: Path, tmp_path: Path, first: int
) -> None:
    steps = list_steps(reference_run)
    expected = {step: contents(reference_run, step) for step in steps}
    config = read_header(reference_run, NEWEST).config
    found = 0
    for number in range(first, first + 50):
        workdir = trainer.copy_of(reference_run, tmp_path / str(number))
        edited = edit_randomly(number, workdir)
        for step in list_steps(workdir):
            if workdir / str(step) not in edited.parents:
                continue  # its files are those of the reference run
            if find_fault(workdir, step) is None:
                assert contents(workdir, step) == expected[step], edited
            else:
                found += 1
        for selector in ("best", "latest"):
            with contextlib.suppress(Failure):
                find_step(workdir, selector)
        try:
            check_settings(config, workdir)
        except Failure as error:
            assert "\n" not in str(error).strip(), edited
        logs.remove_metrics_after(workdir, NEWEST)
        if (workdir / "metrics.jsonl").exists():
            trainer.metrics(workdir)
        shutil.rmtree(workdir)
    assert found > 10
