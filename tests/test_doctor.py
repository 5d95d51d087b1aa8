"""The doctor: what it says of this machine, and that it leaves it as it was."""

import json
import os
import re
import signal
import subprocess
import tomllib
from pathlib import Path

import jax
import pytest
import runs
import tested
from support import REPOSITORY, Command, one_line_error

from rnnmnist import checkup, data, machine, versions
from rnnmnist.config import Config, DataConfig
from rnnmnist.datasets import preparation
from rnnmnist.errors import RunError
from rnnmnist.versions import Range

Finished = subprocess.CompletedProcess[str]
LABELS = (
    *("array_record", "flax", "jax", "numpy", "optax", "orbax-checkpoint", "python"),
    *("tensorflow-datasets", "machine", "devices", "data", "data", "data", "data"),
    *("workdir", "step", "memory", "programs", "seconds", "verdict"),
)


def findings(finished: Finished) -> dict[str, str]:
    """The first finding under each label."""
    pairs = [line.split(maxsplit=1) for line in finished.stdout.splitlines()]
    return dict(reversed(pairs))


def refusal(finished: Finished) -> str:
    """The single line of a report that says no."""
    lines = finished.stderr.splitlines()
    assert finished.returncode == 1, finished.stderr
    assert len(lines) == 1, finished.stderr
    assert lines[0].startswith("error: ")
    assert "verdict" not in finished.stdout
    return lines[0]


def test_a_machine_on_which_a_run_works(command: Command, tmp_path: Path) -> None:
    """With nothing prepared, no network, and a home that does not exist."""
    finished = command("doctor", cwd=tmp_path, HOME=str(tmp_path / "none"))
    assert finished.returncode == 0, finished.stderr
    assert finished.stderr == ""
    assert tuple(line.split()[0] for line in finished.stdout.splitlines()) == LABELS
    found = findings(finished)
    assert jax.__version__ in found["jax"]
    assert re.match(r"\d+ of \d+ x (cpu|gpu|tpu)\b.* \(", found["devices"])
    assert "mnist5k: not prepared; a run takes it from this package" in found["data"]
    assert found["workdir"].startswith(f"{tmp_path}/checkpoints/embedded, writable, ")
    assert re.search(r"compiled in .* ms a step of 128: .* images/s", found["step"])
    assert re.match(r"[\d,]+ MiB at most in this process", found["memory"])
    assert re.match(r"[1-9]\d* kept in ", found["programs"])
    assert found["verdict"] == "a run of embedded would work here"
    assert list(tmp_path.iterdir()) == []


def test_the_readmes_example_has_every_line() -> None:
    readme = (REPOSITORY / "README.md").read_text()
    (example,) = re.findall(r"\$ python -m rnnmnist\.doctor\n(.*?)```", readme, re.S)
    assert tuple(line.split()[0] for line in example.splitlines()) == LABELS


@pytest.mark.parametrize("platform", ["tpu", "gpu"])
def test_a_device_that_is_not_here(command: Command, platform: str) -> None:
    error = refusal(command("doctor", f"--require={platform}", JAX_PLATFORMS="cpu"))
    assert re.match(
        rf"error: --require={platform}: the devices here are \d x cpu; ", error
    )


def test_a_platform_that_fails_to_start_is_not_there_either(command: Command) -> None:
    error = refusal(command("doctor", "--require=gpu", JAX_PLATFORMS="cuda"))
    assert re.match(r"error: --require=gpu: jax finds no device: .*no GPU", error)


def test_every_problem_is_in_the_one_line(command: Command, tmp_path: Path) -> None:
    """No data and no network, and a place where even root cannot write."""
    finished = command(
        "doctor",
        "--config=tutorial",
        f"--config.data.data_dir={tmp_path}/data",
        "--workdir=/proc/rnnmnist/run",
        "--config.train.num_devices=3",  # without devices for it, no step is tried
    )
    error = refusal(finished)
    assert error.startswith("error: a run of tutorial would not work here: ")
    for part in (
        "train.num_devices: must divide train.batch_size=128, ",
        "train-images-idx3-ubyte.gz, ",
        "--config.data.manual_dir=FOLDER",
        "; and --workdir: /proc/rnnmnist/run cannot be written: ",
    ):
        assert part in error
    assert findings(finished)["data"].startswith("NO: data.name: mnist")
    assert list(tmp_path.iterdir()) == []


def test_jax_without_any_device_is_one_line(command: Command, tmp_path: Path) -> None:
    """As when a notebook's TPU is gone, and its variables are not."""
    place = f"--config.data.data_dir={tmp_path}"
    error = refusal(command("doctor", place, JAX_PLATFORMS="cuda"))
    assert "jax finds no device: " in error
    assert "JAX_PLATFORMS=cuda" in error


@pytest.mark.parametrize(
    ("words", "part"),
    [
        (["--requir=gpu"], "--requir: no such flag; did you mean --require?"),
        (["--require=xpu"], "'xpu' (choose from"),
        (["--config.sed=1"], "did you mean seed?"),
        (["--config=embeded"], "did you mean embedded?"),
        (["--workdir=file"], "file is a file"),
        (["gpu"], "stray argument 'gpu'"),
    ],
)
def test_a_mistake_is_one_line(
    command: Command, tmp_path: Path, words: list[str], part: str
) -> None:
    (tmp_path / "file").touch()
    finished = command("doctor", *words, cwd=tmp_path)
    assert part in one_line_error(finished)
    assert finished.stdout == ""


def test_places_of_programs_and_of_data_that_cannot_be_written(
    command: Command, tmp_path: Path
) -> None:
    """The one is a warning, as to a run; without the other there is no run."""
    (tmp_path / "file").touch()
    finished = command(
        "doctor",
        "--config.train.num_devices=3",
        f"--config.data.data_dir={tmp_path}/file/data",
        JAX_COMPILATION_CACHE_DIR=str(tmp_path / "file" / "programs"),
    )
    warning, error = finished.stderr.splitlines()
    assert warning.startswith("warning: compiled programs are not kept")
    assert findings(finished)["programs"].startswith("cannot be kept")
    assert error.startswith("error: a run of embedded would not work here: train.num_")
    assert "; and data.data_dir: mnist5k is not prepared, and cannot be in " in error
    assert finished.returncode == 1


def test_a_workdir_in_use_is_named_and_its_trainer_goes_on(
    command: Command, environment: dict[str, str], data_dir: Path, tmp_path: Path
) -> None:
    workdir = tmp_path / "run"
    longer = ("--config.train.num_steps=200000", "--config.model.hidden_size=8")
    words = runs.words(workdir, data_dir, *longer)
    process = runs.start(environment, words)
    error = refusal(command("doctor", *words))
    assert f"{workdir} is in use by process {process.pid} on " in error
    assert process.poll() is None
    process.send_signal(signal.SIGTERM)
    _, stderr = process.communicate(timeout=60)
    assert process.returncode == 143, stderr

    step = max(int(path.name) for path in workdir.iterdir() if path.name.isdecimal())
    config = Config.from_dict(json.loads((workdir / "config.json").read_text()))
    text = checkup.describe_workdir(config, workdir)
    assert text.endswith(f"a run goes on from step {step}")
    with pytest.raises(RunError, match=r"another run: seed=5 \(checkpoint: 0\)"):
        checkup.describe_workdir(config.replace({"seed": 5}), workdir)


def test_a_dead_trainers_note_is_not_believed(tmp_path: Path) -> None:
    (tmp_path / ".trainer").write_text(f"process {os.getpid()} on here")
    assert checkup.workdir.holder(tmp_path) is None
    with checkup.workdir.claim(tmp_path):
        named = checkup.workdir.holder(tmp_path)
    assert named is not None
    assert named.startswith(f"process {os.getpid()} on ")
    assert checkup.workdir.holder(tmp_path / "none") is None


def test_damaged_checkpoints_are_named(
    small: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def found(*good: int) -> str:
        faults = {step: None if step in good else "torn" for step in (10, 20, 30)}
        monkeypatch.setattr(checkup, "list_steps", lambda _: list(faults))
        monkeypatch.setattr(checkup, "step_to_resume", lambda *_: 30)
        monkeypatch.setattr(checkup, "fault_of", lambda _, step: faults[step])
        return checkup.describe_workdir(small, tmp_path).split("GiB free, ")[1]

    assert found(10, 20, 30) == "complete at step 30: a run changes nothing"
    aside = "is damaged and would be set aside (torn)"
    assert found(10, 20) == f"a run goes on from step 20; step 30 {aside}"
    assert found().startswith(f"a run begins anew; step 30 {aside}; step 20 {aside}")


def test_a_step_that_is_not_finite_or_crashes_is_one_line(
    small: Config, monkeypatch: pytest.MonkeyPatch
) -> None:
    small = small.replace({"train.num_devices": 1})
    wild = {"train.learning_rate": 1e30, "train.clip_norm": 0.0}
    with pytest.raises(RunError, match=r"not finite.*lower train.learning_rate"):
        checkup.describe_step(small.replace(wild))

    def crash(*_: object, **__: object) -> None:
        raise RuntimeError("RESOURCE_EXHAUSTED: Out of memory\nwhile\nrunning")

    monkeypatch.setattr(checkup, "train_steps", crash)
    with pytest.raises(RunError) as error:
        checkup.describe_step(small)
    assert str(error.value) == (
        "a step of training fails: RuntimeError: RESOURCE_EXHAUSTED: Out of memory"
    )


def test_how_data_are_to_be_had(tmp_path: Path, data_dir: Path, small: Config) -> None:
    data.load(small.data)
    text = checkup.describe_data(small.data)
    assert f"prepared in {data_dir}/" in text
    assert text.endswith(", 4,000 / 500 / 500 images")
    by_hand = DataConfig(data_dir=str(tmp_path), manual_dir=str(tmp_path))
    name = "t10k-labels-idx1-ubyte.gz"
    (tmp_path / name).write_bytes(b"no gzip")
    with pytest.raises(RunError, match=rf"data.manual_dir: {tmp_path}/{name} has 7 b"):
        checkup.describe_data(by_hand)
    assert [path.name for path in tmp_path.iterdir()] == [name]
    nowhere = DataConfig(data_dir=str(tmp_path), manual_dir=str(tmp_path / "none"))
    with pytest.raises(RunError, match="none is not a folder"):
        checkup.describe_data(nowhere)


def test_damaged_data_are_found_and_nothing_is_written(
    small: Config, tmp_path: Path
) -> None:
    config = DataConfig(name="mnist5k", data_dir=str(tmp_path))
    data.load(config)
    folder = preparation.outlook(config, ask=False).folder
    for path in folder.glob("arrays.npz*"):
        path.unlink()
    assert "prepared" in checkup.describe_data(config)
    assert not list(folder.glob("arrays.npz*"))
    for path in folder.glob("*train*"):
        path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(RunError, match=f"{folder} is damaged"):
        checkup.describe_data(config)


@pytest.mark.parametrize(
    ("version", "words"),
    [
        ("0.7.2", "0.7.2, tested 0.7.2 to 0.12.0.1"),
        ("0.12.0.1", "0.12.0.1, tested 0.7.2 to 0.12.0.1"),
        ("0.10", "0.10, tested 0.7.2 to 0.12.0.1"),
        ("0.7.1", "0.7.1, older than tested (0.7.2 to 0.12.0.1)"),
        ("0.7", "0.7, older than tested (0.7.2 to 0.12.0.1)"),
        ("0.12.0.2", "0.12.0.2, newer than tested (0.7.2 to 0.12.0.1)"),
        ("1.0.0rc1", "1.0.0rc1, newer than tested (0.7.2 to 0.12.0.1)"),
    ],
)
def test_a_version_is_held_against_its_range(version: str, words: str) -> None:
    assert versions.describe(version, Range("0.7.2", "0.12.0.1")) == words


def test_a_patch_of_python_is_what_its_release_is() -> None:
    tested = Range("3.11", "3.13")
    assert versions.describe("3.13.9", tested) == "3.13.9, tested 3.11 to 3.13"
    assert "newer" in versions.describe("3.14.0", tested)
    assert "older" in versions.describe("3.10.12", tested)


def test_a_library_that_is_missing_is_a_problem() -> None:
    with pytest.raises(RunError, match="no-such is not installed: pip install no-such"):
        versions.installed("no-such")


def test_the_floors_are_not_above_what_was_tested() -> None:
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]
    lines = project["dependencies"]
    floors = dict(re.match(r"([\w-]+)>=([\d.]+)", line).groups() for line in lines)
    floors["python"] = project["requires-python"].removeprefix(">=")
    tested = versions.read_tested()
    for name, (oldest, newest) in tested.items():
        assert versions.release(floors[name]) <= versions.release(oldest), name
        assert versions.release(oldest) <= versions.release(newest), name
    assert list(tested) == sorted(tested)


def test_the_tool_widens_the_ranges(tmp_path: Path) -> None:
    assert set(tested.here()) == set(versions.read_tested())
    before = {"jax": Range("0.7.2", "0.9"), "flax": Range("0.12", "0.12.8")}
    after = tested.with_versions(
        before, {"jax": "0.12.0.1", "flax": "0.11.2", "a": "1"}
    )
    assert after == {
        "a": Range("1", "1"),
        "flax": Range("0.11.2", "0.12.8"),
        "jax": Range("0.7.2", "0.12.0.1"),
    }
    path = tmp_path / "tested.tsv"
    path.write_bytes(versions.TESTED.read_bytes())
    tested.main(path)
    for name, (oldest, newest) in versions.read_tested(path).items():
        installed = tested.here()[name]
        assert versions.widened(Range(oldest, newest), installed) == (oldest, newest)


def test_an_accelerator_that_jax_does_not_use_gets_a_remedy(tmp_path: Path) -> None:
    assert machine.seen(tmp_path, {}) == []
    assert [x.platform for x in machine.seen(tmp_path, {"TPU_NAME": "t"})] == ["tpu"]
    for file, platform in (("dev/nvidia0", "gpu"), ("dev/accel0", "tpu")):
        (tmp_path / file).parent.mkdir(exist_ok=True)
        (tmp_path / file).touch()
        (kind,) = [x for x in machine.seen(tmp_path, {}) if x.platform == platform]
        forbidden = machine.remedy(kind, {"JAX_PLATFORMS": "cpu"})
        assert forbidden.endswith("JAX_PLATFORMS=cpu forbids it; unset that")
        missing = kind._replace(plugins=("no-such-plugin",))
        assert machine.remedy(missing, {}).endswith(f"pip install '{kind.extra}'")
        broken = kind._replace(plugins=("jax",))
        assert "jax is installed, but RuntimeError: " in machine.remedy(broken, {})


def test_a_containers_limit_counts(tmp_path: Path) -> None:
    limit = tmp_path / "sys/fs/cgroup/memory.max"
    limit.parent.mkdir(parents=True)
    limit.write_text("1073741824\n")
    assert machine.memory(tmp_path) == machine.GIB
    limit.write_text("max\n")
    assert machine.memory(tmp_path) > machine.GIB
