"""The doctor: its report on this machine, and that it changes nothing."""

import json
import logging
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import jax
import pytest
import trainer
from support import REPOSITORY, TASK, Command, one_line_error, refused

from rnnmnist import doctor
from rnnmnist.config.platforms import DEFAULTS
from rnnmnist.config.schema import Config, DataConfig
from rnnmnist.data import datasets, images
from rnnmnist.errors import RunError, UserError
from rnnmnist.runs import workdir
from rnnmnist.training import preflight

Finished = subprocess.CompletedProcess[str]
LABELS = ("versions", "machine", "devices", "data", "workdir", "step", "verdict")


def results(printed: str) -> dict[str, str]:
    """The first result under each label."""
    pairs = [line.split(maxsplit=1) for line in printed.splitlines()]
    return dict(reversed(pairs))


def failure_here(*arguments: str) -> str:
    """The error of the doctor, called in this process."""
    with pytest.raises(RunError) as error:
        doctor.main(["--num_processes=1", *arguments])
    assert error.value.exit_code == 1
    return str(error.value)


def failure(finished: Finished) -> str:
    """The one-line error of a doctor process."""
    lines = finished.stderr.splitlines()
    assert finished.returncode == 1, finished.stderr
    assert len(lines) == 1, finished.stderr
    assert lines[0].startswith("error: ")
    assert "verdict" not in finished.stdout
    return lines[0]


def test_the_report_of_a_machine_on_which_a_run_works(
    command: Command, tmp_path: Path
) -> None:
    """Without prepared data, a network or a home directory."""
    settings = ("model.hidden_size=16", "execution.remat_steps=7")
    flags = [f"--config.{setting}" for setting in settings]
    finished = command("doctor", *flags, cwd=tmp_path, HOME=str(tmp_path / "none"))
    assert finished.returncode == 0, finished.stderr
    assert finished.stderr == ""
    assert tuple(line.split()[0] for line in finished.stdout.splitlines()) == LABELS
    found = results(finished.stdout)
    assert f"jax {jax.__version__}, " in found["versions"]
    assert re.search(r"\d cores? of .* GiB of memory$", found["machine"])
    assert re.match(r"\d+ of \d+ x cpu; ", found["devices"])
    assert "mnist5k: not prepared; a run prepares it from local files" in found["data"]
    assert found["workdir"].startswith(f"{tmp_path}/checkpoints/embedded, writable, ")
    assert re.match(r"compiled in .* ms a step of 128 images; ", found["step"])
    execution = DEFAULTS["cpu"]._replace(remat_steps=7)
    assert found["step"].endswith(f"; {execution.describe()}")
    assert found["verdict"] == "a run of embedded would work here"
    assert list(tmp_path.iterdir()) == []


def test_the_example_in_the_docs_has_every_label() -> None:
    page = (REPOSITORY / "docs/commands.md").read_text()
    (example,) = re.findall(r"\$ python -m rnnmnist\.doctor\n(.*?)```", page, re.S)
    assert tuple(line.split()[0] for line in example.splitlines()) == LABELS


@pytest.mark.parametrize("platform", ["tpu", "gpu"])
def test_a_required_device_is_missing(
    platform: str, capsys: pytest.CaptureFixture[str]
) -> None:
    error = failure_here(f"--require={platform}")
    found = f"--require: jax uses no {platform}: the devices here are 8 x cpu; "
    assert f"a run of embedded would not work here: {found}" in error
    assert set(results(capsys.readouterr().out)) == {*LABELS} - {"step", "verdict"}


def test_the_error_lists_every_problem(
    environment: dict[str, str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """No data, no network, and a folder in which even root cannot write."""
    for name in environment:
        if "proxy" in name.lower():
            monkeypatch.setenv(name, environment[name])
    error = failure_here(
        "--config=tutorial",
        f"--config.data.data_dir={tmp_path}/data",
        "--workdir=/proc/rnnmnist/run",
        "--config.execution.num_devices=3",  # then no step is tried
    )
    assert "\n" not in error
    assert error.startswith("a run of tutorial would not work here: ")
    for part in (
        "execution.num_devices: must divide num_seeds x train.batch_size = 128, ",
        "train-images-idx3-ubyte.gz, ",
        "data.manual_dir",
        "; and /proc/",
    ):
        assert part in error
    found = results(capsys.readouterr().out)
    assert found["data"].startswith("NO: data.name: mnist")
    assert "verdict" not in found
    assert list(tmp_path.iterdir()) == []


def test_a_missing_platform_is_one_line(
    environment: dict[str, str], data_dir: Path, tmp_path: Path
) -> None:
    """As in a notebook whose variables name a TPU that it no longer has."""
    program = (
        "import sys, absl.logging\n"
        "from rnnmnist import cli, doctor, errors, main\n"
        "absl.logging.set_verbosity(absl.logging.FATAL)  # as `cli.run` does\n"
        "try: doctor.main(['--require=gpu'])\n"
        "except errors.RunError as error: print('required:', error)\n"
        "try: main.main(sys.argv[1:])\n"
        "except errors.UserError as error: print('training:', error)\n"
        "cli.run(doctor.main)\n"
    )
    finished = subprocess.run(
        [sys.executable, "-c", program, f"--config.data.data_dir={data_dir}"],
        env=environment | {"JAX_PLATFORMS": "cuda", "PYTHONPATH": str(REPOSITORY)},
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )
    error = failure(finished)
    assert "jax finds no device: " in error
    assert "JAX_PLATFORMS=cuda" in error
    required = (
        r"^required: .*--require: jax uses no gpu: jax finds no device: .*install jax"
    )
    assert re.search(required, finished.stdout, re.M)
    trained = r"^training: .*JAX_PLATFORMS=cuda requires it.*\n"
    assert re.search(trained, finished.stdout, re.M)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("args", "part"),
    [
        (["--requir=gpu"], "--requir: no such flag; did you mean '--require'?"),
        (["--require=xpu"], "'xpu' (choose from"),
        (["--config.sed=1"], "did you mean 'seed'?"),
        (["--config=embeded"], "did you mean 'embedded'?"),
        (
            ["--config.execution.precision=half"],
            "precision: must be one of auto, float32,",
        ),
        (["--config.execution.remat_rows=7"], "did you mean 'execution.remat_steps'?"),
        (["--config.execution.remat_steps=0"], "must be an integer at least 1 or none"),
        (["--workdir=file"], "file is a file"),
        (["gpu"], "stray argument 'gpu'"),
    ],
)
def test_user_errors_name_the_argument(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    args: list[str],
    part: str,
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.chdir(tmp_path)
    assert part in refused("doctor", *args)
    assert capsys.readouterr().out == ""


def test_a_user_error_is_one_line_and_exits_2(command: Command) -> None:
    finished = command("doctor", "--requir=gpu")
    assert "did you mean '--require'?" in one_line_error(finished)
    assert finished.stdout == ""


def test_folders_that_cannot_be_written(command: Command, tmp_path: Path) -> None:
    """The compilation cache is optional; the folder of the data set is not."""
    (tmp_path / "file").touch()
    finished = command(
        "doctor",
        "--config.execution.num_devices=3",
        f"--config.data.data_dir={tmp_path}/file/data",
        JAX_COMPILATION_CACHE_DIR=str(tmp_path / "file" / "programs"),
    )
    warning, error = finished.stderr.splitlines()
    assert warning.startswith("warning: compiled programs are not kept")
    assert error.startswith("error: a run of embedded would not work here: execution.")
    assert f"; and data.data_dir: {tmp_path}/file is a file" in error
    assert finished.returncode == 1


def test_a_workdir_in_use_is_named(
    environment: dict[str, str], data_dir: Path, tmp_path: Path
) -> None:
    program = (
        "import sys\n"
        "from pathlib import Path\n"
        "from rnnmnist.runs.workdir import lock, read_owner\n"
        "with lock(Path(sys.argv[1])):\n"
        "    mine = read_owner(Path(sys.argv[1]))\n"
        "    print('locked', flush=True)\n"
        "    sys.stdin.read()\n"
        "    print(read_owner(Path(sys.argv[1])) == mine)\n"
    )
    args = trainer.arguments(tmp_path, data_dir, "--config.execution.num_devices=5")
    with subprocess.Popen(
        [sys.executable, "-c", program, tmp_path],
        env=environment,
        cwd=REPOSITORY,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "locked\n"
        error = failure_here(*args)  # so that no step is tried
        assert f"--workdir: {tmp_path} is in use by process {process.pid} on " in error
        printed, _ = process.communicate(timeout=60)
    assert printed == "True\n"


def test_a_run_to_resume_and_another_run(reference_run: Path, tmp_path: Path) -> None:
    folder = trainer.copy_of(reference_run, tmp_path / "run")
    trainer.cut_back(folder, 100)
    config = Config.from_dict(json.loads((folder / "config.json").read_text()))
    text = preflight.describe_workdir(config, folder, TASK)
    assert text.endswith("a run resumes from step 100")
    with pytest.raises(RunError, match=r"another run: seed=5 \(checkpoint: 0\)"):
        preflight.describe_workdir(config.replace({"seed": 5}), folder, TASK)


@pytest.mark.exhaustive  # the lock itself is tested above
def test_the_doctor_does_not_disturb_a_trainer(
    command: Command, environment: dict[str, str], data_dir: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "run"
    longer = ("--config.train.num_steps=200000", "--config.model.hidden_size=8")
    args = trainer.arguments(folder, data_dir, *longer)
    process = trainer.start(environment, args)
    error = failure(command("doctor", *args))
    assert f"{folder} is in use by process {process.pid} on " in error
    assert process.poll() is None
    process.send_signal(signal.SIGTERM)
    _, stderr = process.communicate(timeout=60)
    assert process.returncode == 143, stderr

    step = max(int(path.name) for path in folder.iterdir() if path.name.isdecimal())
    config = Config.from_dict(json.loads((folder / "config.json").read_text()))
    text = preflight.describe_workdir(config, folder, TASK)
    assert text.endswith(f"a run resumes from step {step}")


def test_the_owner_file_of_a_dead_trainer_is_ignored(tmp_path: Path) -> None:
    (tmp_path / ".trainer").write_text(f"process {os.getpid()} on here")
    with workdir.lock(tmp_path):
        owner = str(workdir.read_owner(tmp_path))
        assert str(os.getpid()) in owner
        in_use = re.escape(f"{tmp_path} is in use by {owner}")
        with pytest.raises(UserError, match=in_use), workdir.lock(tmp_path):
            pass
    assert workdir.read_owner(tmp_path) is None


def test_damaged_checkpoints_are_listed(
    small: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def found(*good: int) -> str:
        faults = {step: None if step in good else "torn" for step in (10, 20, 30)}
        monkeypatch.setattr(preflight, "list_steps", lambda _: list(faults))
        monkeypatch.setattr(preflight, "step_to_resume", lambda *_: 30)
        monkeypatch.setattr(preflight, "find_fault", lambda _, step: faults[step])
        return preflight.describe_workdir(small, tmp_path, TASK).split("GiB free, ")[1]

    assert found(10, 20, 30) == "complete at step 30: a run changes nothing"
    aside = "is damaged and would be quarantined (torn)"
    assert found(10, 20) == f"a run resumes from step 20; step 30 {aside}"
    text = f"a run starts again from step 0; step 30 {aside}; step 20 {aside}"
    assert found().startswith(text)


def test_a_step_that_diverges_or_crashes_is_one_line(
    small: Config, monkeypatch: pytest.MonkeyPatch
) -> None:
    wild = {"train.learning_rate": 1e30, "train.clip_norm": 0.0}
    small = small.replace({"execution.num_devices": 1, "data.max_shift": 0, **wild})
    with pytest.raises(RunError, match=r"not finite.*lower train.learning_rate"):
        preflight.describe_step(small, TASK, None)

    def crash(*_: object, **__: object) -> None:
        raise RuntimeError("RESOURCE_EXHAUSTED: Out of memory\nwhile\nrunning")

    monkeypatch.setattr(preflight, "train_range", crash)
    found = preflight.attempt(preflight.describe_step, small, TASK, None)
    assert (
        str(found)
        == "a training step fails: RuntimeError: RESOURCE_EXHAUSTED: Out of memory"
    )


def test_the_source_of_the_data_is_described(
    tmp_path: Path, data_dir: Path, small: Config
) -> None:
    datasets.load(small.data)
    text = preflight.describe_data(small.data, None)
    assert f"prepared in {data_dir}/" in text
    assert text.endswith(", 4,000 / 500 / 500 images")
    nowhere = DataConfig(data_dir=str(tmp_path), manual_dir=str(tmp_path / "none"))
    with pytest.raises(RunError, match="none is not a folder"):
        preflight.describe_data(nowhere, None)


def test_damaged_data_are_detected_without_writing(
    small: Config, tmp_path: Path
) -> None:
    config = DataConfig(name="mnist5k", data_dir=str(tmp_path))
    datasets.load(config)
    folder = Path(images.make_builder(config).data_dir)
    assert "prepared" in preflight.describe_data(config, None)
    for path in folder.glob("*train*"):
        path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(RunError, match=f"{folder} is damaged"):
        preflight.describe_data(config, None)


def test_what_jax_says_of_missing_accelerators_is_reported(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """In one line, without the traceback that jax logs."""
    monkeypatch.delenv("JAX_PLATFORMS", raising=False)
    text = preflight.describe_devices(8, None, 1, None)
    assert text == "8 of 8 x cpu; jax found no accelerator"
    text = preflight.describe_devices(6, None, 2, None)
    assert "6 of 8 x cpu, the most that can split 2 seeds and a batch of 6; " in text

    call = "Exception when calling jax_plugins.xla_cuda12.initialize()"

    def devices() -> list[jax.Device]:
        try:
            raise RuntimeError("the driver is too old\nby far")
        except RuntimeError:
            logging.getLogger("jax._src.xla_bridge").exception(call)
        return jax.devices()

    monkeypatch.setattr(preflight, "devices", devices)
    reason = f"{call}: RuntimeError: the driver is too old"
    assert preflight.describe_devices(8, None, 1, None).endswith(f"; {reason}")
    monkeypatch.setenv("JAX_PLATFORMS", "cpu")
    with pytest.raises(
        RunError, match=r"too old; JAX_PLATFORMS=cpu .*; install jax\[cud"
    ):
        preflight.describe_devices(8, None, 1, "gpu")


def test_libraries_that_cannot_be_imported_are_one_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "rnnmnist.training.preflight", None)
    error = failure_here()
    assert error.startswith("a run of embedded would not work here: ModuleNotFoundErr")
    assert tuple(results(capsys.readouterr().out)) == ("machine", "versions")


def test_a_damaged_file_of_sequences_is_a_problem(tmp_path: Path) -> None:
    path = tmp_path / "data.csv"
    rows = "".join(f"{i},0,{i},{'uv'[i % 2]}\n" for i in range(8))
    path.write_text(f"sequence,time,x,label\na,0,inf,u\n{rows}")
    error = failure_here("--config=files", f"--config.data.path={path}")
    assert "a run of files would not work here: " in error
    assert "the value of sequence 'a' at time step 0, feature x, is larger" in error
