"""The doctor: its report on this machine, and that it changes nothing."""

import json
import os
import re
import subprocess
from pathlib import Path
from unittest import mock

import jax
import pytest
import trainer
from support import REPOSITORY, Command, run_python

from rnnmnist import doctor
from rnnmnist.config.schema import Config, DataConfig
from rnnmnist.data import datasets, images
from rnnmnist.errors import RunError, UserError
from rnnmnist.runs import workdir
from rnnmnist.training import loop, preflight
from rnnmnist.training.step import train_steps

LABELS = ("versions", "machine", "devices", "data", "workdir", "step", "verdict")


def labels(printed: str) -> tuple[str, ...]:
    return tuple(line.split()[0] for line in printed.splitlines())


def failure_here(*arguments: str) -> str:
    """The error of the doctor, called in this process."""
    with pytest.raises(RunError) as error:
        doctor.main(["--num_processes=1", *arguments])
    assert error.value.exit_code == 1
    assert "\n" not in str(error.value)
    return str(error.value)


def failure(finished: subprocess.CompletedProcess[str]) -> str:
    """The last line of a doctor process that finds a problem, its error."""
    assert finished.returncode == 1, finished.stderr
    assert "verdict" not in finished.stdout
    line = finished.stderr.splitlines()[-1]
    assert line.startswith("error: a run of embedded would not work here: ")
    return line


def test_the_report_of_a_machine_on_which_a_run_works(
    command: Command, tmp_path: Path
) -> None:
    """Without prepared data, a network or a home directory."""
    home = str(tmp_path / "none")
    finished = command("doctor", *trainer.SETTINGS, cwd=tmp_path, HOME=home)
    assert finished.returncode == 0, finished.stderr
    assert finished.stderr == ""
    assert labels(finished.stdout) == LABELS
    versions, machine, devices, data, folder, step, verdict = (
        line.split(maxsplit=1)[1] for line in finished.stdout.splitlines()
    )
    assert f"jax {jax.__version__}, " in versions
    assert re.search(r"\d cores? of .* GiB of memory$", machine)
    assert devices == "2 of 2 x cpu"
    assert "mnist5k: a run prepares it in " in data
    assert folder.startswith(f"{tmp_path}/checkpoints/embedded, writable, ")
    assert re.match(r"compiled in .* ms a step of 48 images$", step)
    assert verdict == "a run of embedded would work here"
    assert list(tmp_path.iterdir()) == []


def test_a_required_device_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("JAX_PLATFORMS", raising=False)
    assert "require: jax uses 8 x cpu, not a tpu" in failure_here("--require=tpu")
    monkeypatch.setenv("JAX_PLATFORMS", "cpu")
    assert "unset JAX_PLATFORMS" in failure_here("--require=tpu")


@pytest.mark.parametrize(
    ("setting", "part"),
    [
        ("data.data_dir={folder}", "train-images-idx3-ubyte.gz, "),
        ("data.data_dir={folder}/file/data", "data.data_dir: {folder}/file is a file"),
        ("execution.num_devices=3", "execution.num_devices: must divide num_seeds x"),
    ],
)
def test_the_error_is_that_of_the_run(
    environment: dict[str, str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    setting: str,
    part: str,
) -> None:
    """Without a network."""
    for name in environment:
        if "proxy" in name.lower():
            monkeypatch.setenv(name, environment[name])
    (tmp_path / "file").touch()
    setting, part = (text.format(folder=tmp_path) for text in (setting, part))
    error = failure_here("--config=tutorial", f"--config.{setting}")
    assert error.startswith("a run of tutorial would not work here: ")
    assert part in error
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_a_folder_in_which_nobody_can_write_is_a_problem() -> None:
    assert "here: /proc/" in failure_here("--workdir=/proc/rnnmnist/run")


@pytest.mark.slow
def test_what_jax_says_of_an_unusable_plugin_is_one_line(
    command: Command, tmp_path: Path
) -> None:
    """Not the traceback that jax logs."""
    plugin = tmp_path / "jax_plugins" / "mine" / "__init__.py"
    plugin.parent.mkdir(parents=True)
    plugin.write_text("def initialize(): raise OSError('the driver is old\\nby far')")
    path = f"{REPOSITORY}{os.pathsep}{tmp_path}"
    finished = command("doctor", "--require=gpu", PYTHONPATH=path)
    failure(finished)
    reason, _ = finished.stderr.splitlines()
    assert reason.startswith("error: Jax plugin ")
    assert reason.endswith(": OSError: the driver is old")


def test_a_missing_platform_is_one_line(
    environment: dict[str, str], data_dir: Path, tmp_path: Path
) -> None:
    """As in a notebook whose variables name a TPU that it no longer has."""
    program = (
        "import sys\n"
        "from rnnmnist import cli, doctor, main\n"
        "from rnnmnist.errors import UserError\n"
        "try: main.main(sys.argv[1:])\n"
        "except UserError as error: print(cli.format_error(error))\n"
        "cli.run(doctor.main)"
    )
    variables = environment | {"JAX_PLATFORMS": "cuda"}
    argv = "-c", program, f"--config.data.data_dir={data_dir}"
    finished = run_python(*argv, environment=variables, cwd=tmp_path)
    assert "JAX_PLATFORMS=cuda requires it" in finished.stdout
    assert "jax finds no device: " in failure(finished)
    assert list(tmp_path.iterdir()) == []


def test_a_workdir_in_use_is_named(data_dir: Path, tmp_path: Path) -> None:
    with workdir.lock(tmp_path):
        owner = workdir.read_owner(tmp_path)
        error = failure_here(*trainer.arguments(tmp_path, data_dir))
        assert f"{tmp_path} is in use by process {os.getpid()} on " in error
        assert workdir.read_owner(tmp_path) == owner


def test_a_run_to_resume_and_another_run(reference_run: Path, tmp_path: Path) -> None:
    folder = trainer.copy_of(reference_run, tmp_path / "run")
    trainer.cut_back(folder, 100)
    config = Config.from_dict(json.loads((folder / "config.json").read_text()))
    checks = preflight.check_run(config, folder, None)
    text = next(text for label, text in checks if label == "workdir")
    assert text.endswith("a run resumes from step 100")
    with pytest.raises(UserError, match=r"another run: seed=5 \(checkpoint: 0\)"):
        dict(preflight.check_run(config.replace({"seed": 5}), folder, None))


def test_the_owner_file_of_a_dead_trainer_is_ignored(tmp_path: Path) -> None:
    (tmp_path / ".trainer").write_text(f"process {os.getpid()} on here")
    with workdir.lock(tmp_path):
        owner = str(workdir.read_owner(tmp_path))
        assert str(os.getpid()) in owner
        in_use = re.escape(f"{tmp_path} is in use by {owner}")
        with pytest.raises(UserError, match=in_use), workdir.lock(tmp_path):
            pass
    assert workdir.read_owner(tmp_path) is None


def test_a_step_that_diverges_is_a_problem(data_dir: Path, tmp_path: Path) -> None:
    error = failure_here(*trainer.arguments(tmp_path, data_dir, *trainer.WILD))
    assert re.search(r"not finite.*lower train.learning_rate", error)


def test_damaged_data_are_detected_without_writing(tmp_path: Path) -> None:
    config = DataConfig(name="mnist5k", data_dir=str(tmp_path))
    datasets.load(config)
    folder = Path(images.make_builder(config).data_dir)
    text = preflight.describe_data(config, None)
    assert text == f"mnist5k: prepared in {folder}, 4,000 / 500 / 500 images"
    for path in folder.glob("*train*"):
        path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(RunError, match=f"{folder}: cannot be read"):
        preflight.describe_data(config, None)


def test_a_damaged_file_of_sequences_is_a_problem(tmp_path: Path) -> None:
    path = tmp_path / "data.csv"
    rows = "".join(f"{i},0,{i},{'uv'[i % 2]}\n" for i in range(8))
    path.write_text(f"sequence,time,x,label\na,0,inf,u\n{rows}")
    error = failure_here("--config=files", f"--config.data.path={path}")
    assert "a run of files would not work here: " in error
    assert "the value of sequence 'a' at time step 0, feature x, is larger" in error


def test_a_run_with_class_weights_can_resume(
    data_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The step that is timed is the weighted one."""
    timed = mock.Mock(side_effect=train_steps)
    monkeypatch.setattr(loop, "train_steps", timed)
    flags = "--config.train.class_weight=balanced", "--config.train.num_steps=1"
    trainer.run(tmp_path, data_dir, *flags)
    doctor.main(["--num_processes=1", *trainer.arguments(tmp_path, data_dir, *flags)])
    assert {len(call.args[4]) for call in timed.mock_calls} == {10}
