"""The doctor: its report on this machine, and that it changes nothing."""

import os
import re
from collections.abc import Sequence
from pathlib import Path

import jax
import pytest
import trainer
from support import Command, file_times, run_python

from rnnmnist.commands import doctor
from rnnmnist.config.schema import DataConfig
from rnnmnist.data import images
from rnnmnist.errors import RunError, UserError
from rnnmnist.runs import workdir


def test_the_report_of_a_machine_on_which_a_run_works(
    command: Command, tmp_path: Path
) -> None:
    """Without prepared data, a network or a home directory."""
    home = str(tmp_path / "none")
    finished = command("doctor", *trainer.SETTINGS, cwd=tmp_path, HOME=home)
    assert finished.returncode == 0, finished.stderr
    assert finished.stderr == ""
    lines = finished.stdout.splitlines()
    versions, machine, folder, data, devices, _, verdict = (
        line.split(maxsplit=1)[1] for line in lines
    )
    assert f"jax {jax.__version__}, " in versions
    assert re.search(r"\d cores? of .* GiB of memory$", machine)
    assert folder.startswith(f"{tmp_path}/checkpoints/embedded, ")
    assert "mnist5k: a run downloads 0 files and " in data
    assert devices == "2 of 2 x cpu"
    assert verdict == "a run of embedded would work here"
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("flags", "part"),
    [
        (["--require=tpu"], "require: jax uses 8 x cpu, not a tpu; "),
        (["--workdir=/proc/rnnmnist/run"], "/proc/"),
        (
            ["--config.data.data_dir=/dev/null/tfds"],
            "data.data_dir: /dev/null is a file",
        ),
        (["--config.execution.num_devices=5"], "execution.num_devices: must divide "),
        (["--config=tutorial"], "train-images-idx3-ubyte.gz, "),
        (trainer.WILD, "not finite"),
    ],
)
def test_a_problem_is_one_line(
    environment: dict[str, str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    flags: Sequence[str],
    part: str,
) -> None:
    """Without a network. It is the error of the run."""
    for name in environment:
        if "proxy" in name.lower():
            monkeypatch.setenv(name, environment[name])
    run = tmp_path / "run"
    arguments = trainer.arguments(run, tmp_path, *flags, "--num_processes=1")
    with pytest.raises(RunError, match=r"a run of \w+ would not work here: ") as error:
        doctor.main(arguments)
    assert part in str(error.value)
    assert "\n" not in str(error.value)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_a_missing_platform_is_one_line(
    environment: dict[str, str], data_dir: Path, tmp_path: Path
) -> None:
    """As in a notebook whose variables name a TPU that it no longer has."""
    program = (
        "import sys\n"
        "from rnnmnist.commands import command_line, doctor, train\n"
        "from rnnmnist.errors import UserError\n"
        "try: train.main(sys.argv[1:])\n"
        "except UserError as error: print(command_line.format_error(error))\n"
        "command_line.run(doctor.main)"
    )
    variables = environment | {"JAX_PLATFORMS": "cuda"}
    argv = "-c", program, f"--config.data.data_dir={data_dir}"
    finished = run_python(*argv, environment=variables, cwd=tmp_path)
    assert finished.returncode == 1
    assert "JAX_PLATFORMS=cuda requires it" in finished.stdout
    assert "would not work here: jax finds no device: " in finished.stderr
    assert list(tmp_path.iterdir()) == []


def test_a_workdir_in_use_is_named_but_no_dead_trainer(tmp_path: Path) -> None:
    (tmp_path / ".trainer").write_text(f"process {os.getpid()} on here")
    with workdir.lock(tmp_path):
        owner = str(workdir.read_owner(tmp_path))
        assert str(os.getpid()) in owner
        in_use = re.escape(f"{tmp_path} is in use by {owner}")
        with pytest.raises(UserError, match=in_use), workdir.lock(tmp_path):
            pass
    assert workdir.read_owner(tmp_path) is None


def test_damaged_data_are_detected_without_writing(
    prepared: DataConfig, tmp_path: Path
) -> None:
    folder = Path(images.make_builder(prepared).data_dir)
    for path in folder.glob("*train*"):
        path.write_bytes(path.read_bytes()[:1000])
    before = file_times(tmp_path)
    arguments = trainer.arguments(tmp_path / "run", tmp_path, "--num_processes=1")
    with pytest.raises(RunError, match=f"{folder}: cannot be read"):
        doctor.main(arguments)
    assert file_times(tmp_path) == before
