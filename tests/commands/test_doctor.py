"""The doctor reports on this machine and leaves no files behind."""

import re
from collections.abc import Sequence
from pathlib import Path

import jax
import pytest
import trainer
from support import called, disconnect, output_of, run_python

from rnnmnist.commands import doctor
from rnnmnist.errors import RunError


@pytest.fixture
def offline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Simulates a machine without a network, a home folder or prepared data."""
    disconnect(monkeypatch)
    monkeypatch.setenv("HOME", str(tmp_path / "none"))
    monkeypatch.chdir(tmp_path)


@pytest.mark.usefixtures("offline")
def test_the_report_of_a_run_that_works(tmp_path: Path) -> None:
    process = called("doctor", *trainer.SETTINGS, "--num_processes=1")
    assert process.stderr == ""
    lines = output_of(process).splitlines()
    versions, machine, header, verdict = lines
    assert f"jax {jax.__version__}, " in versions
    assert re.search(r"\d cores? of .* GiB of memory$", machine)
    assert "on mnist5k, first seed 0, cpu devices: 2, " in header
    assert header.endswith(f"{tmp_path}/checkpoints/embedded")
    assert re.match("a run of embedded would work here: its trial took .* s$", verdict)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.usefixtures("offline")
@pytest.mark.parametrize(
    ("flags", "part"),
    [
        (["--require=tpu"], "require: JAX uses 8 x cpu, not a tpu; "),
        (
            ["--config=tutorial", "--config.data.data_dir=/dev/null/tfds"],
            "data.data_dir: /dev/null is a file",
        ),
        (["--config=tutorial"], "train-images-idx3-ubyte.gz, "),
        (trainer.WILD, "non-finite"),
    ],
)
def test_a_problem_is_reported_in_one_line(
    tmp_path: Path, flags: Sequence[str], part: str
) -> None:
    """The line contains the error that the run would raise."""
    run = tmp_path / "run"
    arguments = trainer.arguments(run, tmp_path, *flags, "--num_processes=1")
    with pytest.raises(RunError, match=r"a run of \w+ would not work here: ") as error:
        doctor.main(arguments)
    assert part in str(error.value)
    assert "\n" not in str(error.value)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_a_missing_platform_is_reported_in_one_line(
    environment: dict[str, str], data_dir: Path, tmp_path: Path
) -> None:
    """A notebook, for example, may set variables for a TPU that has been removed."""
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
    process = run_python(*argv, environment=variables, cwd=tmp_path)
    assert process.returncode == 1
    assert "change JAX_PLATFORMS=cuda" in process.stdout
    assert "would not work here: JAX found no device: " in process.stderr
    assert list(tmp_path.iterdir()) == []
