"""The commands on the embedded data set: complete runs, their files and errors.

Each command runs as a process at least once. Where only its messages or files matter,
its `main` is called in this process, which has already imported jax.
"""

import asyncio
import hashlib
import importlib
import json
import logging
import re
import shlex
import subprocess
import sys
import tomllib
from importlib.metadata import version
from pathlib import Path
from typing import Any

import jax
import pytest
import trainer
from support import REPOSITORY, Command, Once, one_line_error, refused

import rnnmnist
from rnnmnist import cli, evaluate, main, verify
from rnnmnist.__main__ import COMMANDS
from rnnmnist.config.schema import TrainConfig
from rnnmnist.errors import RunError
from rnnmnist.runtime.compilation import compile_seconds, enable_compilation_cache

QUICK = (
    "--config.model.hidden_size=16",
    "--config.train.num_steps=40",
    "--config.train.log_every_steps=9",
    "--config.train.eval_every_steps=20",
)
# For calls in this process, which cannot join others any more and has eight devices.
HERE = ("--num_processes=1", "--config.execution.num_devices=1")


def snapshot(folder: Path) -> dict[str, str]:
    """The hash of every file in a folder."""
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in folder.rglob("*")
        if path.is_file()
    }


def lines(workdir: Path) -> list[dict[str, Any]]:
    return [
        json.loads(text)
        for text in (workdir / "metrics.jsonl").read_text().split("\n")
        if text
    ]


@pytest.fixture(scope="session")
def trained(once: Once, environment: dict[str, str], data_dir: Path) -> Path:
    """The workdir of a complete run; its output is in `../printed.txt`."""

    def train(folder: Path) -> None:
        args = (f"--workdir={folder / 'with space and ü'}", *settings(data_dir))
        finished = rnnmnist_command(environment, "train", *args)
        assert (finished.returncode, finished.stderr) == (0, "")
        (folder / "printed.txt").write_text(finished.stdout)

    return once("commands", train) / "with space and ü"


@pytest.fixture(scope="session")
def resumed(once: Once, command: Command, trained: Path, data_dir: Path) -> Path:
    """The workdir of a run that resumed; its output is in `../printed.txt`.

    It had been killed at step 27: after its first checkpoint, within an epoch and a
    line.
    """

    def resume(folder: Path) -> None:
        workdir = trainer.copy_of(trained, folder / "run")
        trainer.cut_back(workdir, 20)
        text = (workdir / "metrics.jsonl").read_text()
        kept = [x for x in text.splitlines(True) if json.loads(x)["step"] <= 27]
        (workdir / "metrics.jsonl").write_text("".join(kept) + '{"step": 36, "spl')
        finished = command("main", f"--workdir={workdir}", *settings(data_dir))
        assert finished.returncode == 0, finished.stderr
        (folder / "printed.txt").write_text(finished.stdout)

    return once("commands_resumed", resume) / "run"


@pytest.fixture
def copied(trained: Path, tmp_path: Path) -> Path:
    """A copy of the complete run's workdir that a test may change."""
    return trainer.copy_of(trained, tmp_path / "run")


def settings(data_dir: Path) -> tuple[str, ...]:
    """The flags of the complete run, except for the workdir."""
    return (f"--config.data.data_dir={data_dir}", *QUICK)


def test_a_run_writes_the_files_of_the_contract(trained: Path) -> None:
    workdir, printed = trained, (trained.parent / "printed.txt").read_text()
    config = json.loads((workdir / "config.json").read_text())
    assert config["model"]["hidden_size"] == 16
    assert config["data"]["name"] == "mnist5k"
    keys = [(line["split"], line["step"]) for line in lines(workdir)]
    assert len(set(keys)) == len(keys)
    steps = {split: [s for name, s in keys if name == split] for split, _ in keys}
    assert steps == {"train": [9, 18, 20, 27, 36, 40], "validation": [20, 40]}
    for line in lines(workdir):
        assert 0 <= line["accuracy"] <= 1
        assert ("examples_per_second" in line) == (line["split"] == "train")
        assert line.get("examples_per_second", 1) > 0
    assert (workdir / "40" / "params").is_dir()
    for part in (
        "parameters",
        "seconds",
        "validation",
        "test",
        "checkpoint",
        "compile",
    ):
        assert part in printed
    assert "python -m rnnmnist.evaluate" in printed
    assert "python -m rnnmnist.report" in printed
    before, _, after = printed.partition("compiling the training step\n")
    assert "loss" in after and "loss" not in before
    assert re.search(r"epoch 1\.3  step 40/40  loss \d\.\d+  accuracy", printed)


def test_a_run_records_command_hardware_versions_and_times(
    trained: Path, data_dir: Path
) -> None:
    session = json.loads((trained / "sessions.jsonl").read_text())
    assert (session["from_step"], session["step"]) == (0, 40)
    # Of the module that `rnnmnist train` names.
    flags = [f"--workdir={trained}", *settings(data_dir)]
    assert shlex.split(session["command"]) == ["python", "-m", "rnnmnist.main", *flags]
    assert session["versions"]["jax"] == version("jax")
    assert re.match(r"\d+ cores? of ", session["hardware"])
    assert re.fullmatch(r"\d+ x cpu", session["devices"])
    seconds = session["seconds"]
    assert 0 < seconds["train"] < seconds["total"]


def test_the_result_file_has_the_fields_of_the_contract(trained: Path) -> None:
    (path,) = (trained / "evaluation").glob("test-*.json")
    result = json.loads(path.read_text())
    assert path.name == f"test-{result['step']}.json"
    assert (result["dataset"], result["split"]) == ("mnist5k", "test")
    assert result["examples"] == sum(map(sum, result["confusion"])) == 500
    trace = sum(row[label] for label, row in enumerate(result["confusion"]))
    assert result["correct"] == trace
    assert result["accuracy"] == trace / 500
    low, high = result["accuracy_interval"]
    assert 0 <= low < result["accuracy"] < high <= 1
    assert [sum(row) for row in result["confusion"]] == [50] * 10
    assert result["num_parameters"] == 4 * (28 * 16 + 16 * 16 + 16) + 170
    assert re.fullmatch(r"[0-9a-f]{64}", result["params_sha256"])
    assert result["loss"] > 0


def test_a_complete_run_is_not_changed(
    copied: Path, data_dir: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = snapshot(copied)
    main.main([f"--workdir={copied}", *settings(data_dir), *HERE])
    assert "complete at step 40" in capsys.readouterr().out
    assert snapshot(copied) == before


def test_evaluate_reproduces_the_result_of_the_trainer(
    copied: Path, command: Command, tmp_path: Path
) -> None:
    """Also where compiled programs cannot be kept."""
    workdir = copied
    (path,) = (workdir / "evaluation").glob("test-*.json")
    by_trainer = path.read_text()
    path.unlink()
    (tmp_path / "file").touch()
    programs = str(tmp_path / "file" / "programs")
    finished = command(
        "evaluate", f"--workdir={workdir}", JAX_COMPILATION_CACHE_DIR=programs
    )
    assert finished.returncode == 0, finished.stderr
    (warning,) = finished.stderr.strip().splitlines()
    assert warning.startswith("warning: compiled programs are not kept")
    assert path.read_text() == by_trainer
    assert str(path) in finished.stdout
    evaluate.main([f"--workdir={workdir}", "--step=latest", "--split=validation"])
    result = json.loads((workdir / "evaluation" / "validation-40.json").read_text())
    (line,) = [
        x for x in lines(workdir) if (x["split"], x["step"]) == ("validation", 40)
    ]
    assert result["accuracy"] == line["accuracy"]
    assert result["loss"] == pytest.approx(line["loss"], rel=1e-6)
    evaluate.main([f"--workdir={workdir}", "--step=20", "--split=train"])
    result = json.loads((workdir / "evaluation" / "train-20.json").read_text())
    assert result["examples"] == 4000


def test_a_resumed_run_ends_with_the_same_bits(trained: Path, resumed: Path) -> None:
    printed = (resumed.parent / "printed.txt").read_text()
    assert "resuming from step 20\n" in printed
    assert trainer.metrics(resumed) == trainer.metrics(trained)
    first, second = (
        json.loads(next((folder / "evaluation").iterdir()).read_text())
        for folder in (trained, resumed)
    )
    assert first["params_sha256"] == second["params_sha256"]


def test_another_run_is_refused(copied: Path, data_dir: Path) -> None:
    before = snapshot(copied)
    common = (f"--workdir={copied}", *settings(data_dir), *HERE)
    assert "seed=3 (checkpoint: 0)" in refused("main", *common, "--config.seed=3")
    error = refused(
        "main", *common, "--config.model.cell=gru", "--config.data.max_shift=0"
    )
    assert "model.cell=gru (checkpoint: lstm)" in error
    assert "data.max_shift=0 (checkpoint: 2)" in error
    error = refused("main", *common, "--config.train.num_steps=30")
    assert "train.num_steps: must be at least 40" in error
    assert snapshot(copied) == before


def test_a_different_number_of_steps_is_a_warning(
    copied: Path,
    data_dir: Path,
    capsys: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
) -> None:
    longer = "--config.train.num_steps=50"
    with caplog.at_level(logging.WARNING, "rnnmnist"):
        main.main([f"--workdir={copied}", *settings(data_dir), *HERE, longer])
    steps, devices = caplog.messages
    assert "train.num_steps was 40 and is now 50" in steps
    assert "execution.num_devices was None and is now 1" in devices
    assert "resuming from step 40" in capsys.readouterr().out
    assert (copied / "50").is_dir()


def test_a_missing_workdir_or_step_is_one_line_and_writes_nothing(
    trained: Path, command: Command, tmp_path: Path
) -> None:
    assert "--workdir" in one_line_error(command("evaluate"))
    missing = tmp_path / "missing"
    assert "does not exist" in refused("evaluate", f"--workdir={missing}")
    assert not missing.exists()
    assert "holds no checkpoint" in refused("evaluate", f"--workdir={tmp_path}")
    error = refused("evaluate", f"--workdir={trained}", "--step=7")
    assert "no step 7" in error
    assert "20, 40" in error
    args = (f"--workdir={trained}", "--split=everything")
    assert "everything" in refused("evaluate", *args)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("args", "part"),
    [
        (["--config.train.learning_rte=0.01"], "did you mean 'train.learning_rate'?"),
        (["--config.train.batch_size=-5"], "train.batch_size"),
        (["--config=no/such/file.py"], "no/such/file.py"),
        (["stray"], "stray argument 'stray'"),
        (["--config.execution.num_devices=3"], "execution.num_devices: must divide"),
        (["--workdir=README.md"], "README.md is a file"),
        (["--workdir=\udcff"], "is not valid UTF-8"),
        (["--config.data.manual_dir=nowhere", "--config=default"], "data.manual_dir"),
    ],
)
def test_a_user_error_is_one_line_and_writes_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, args: list[str], part: str
) -> None:
    (tmp_path / "README.md").touch()
    monkeypatch.chdir(tmp_path)
    data = f"--config.data.data_dir={tmp_path / 'data'}"
    assert part in refused("main", "--num_processes=1", data, *args)
    assert [path.name for path in tmp_path.iterdir() if path.is_file()] == ["README.md"]
    assert not (tmp_path / "checkpoints").exists()


def test_a_user_error_is_printed_in_one_line_and_exits_2(command: Command) -> None:
    finished = command("main", "stray")
    assert one_line_error(finished).startswith("error: stray argument 'stray'; ")
    assert finished.stdout == ""


@pytest.mark.parametrize("name", ["main", "doctor"])
def test_user_errors_are_reported_before_slow_imports(
    environment: dict[str, str], name: str
) -> None:
    program = (
        f"import sys\nfrom rnnmnist import {name}\n"
        "from rnnmnist.errors import UserError\n"
        f"try: {name}.main(['--config.sed=1'])\n"
        "except UserError: pass\n"
        "print({'jax', 'flax', 'orbax', 'numpy'} & set(sys.modules))"
    )
    finished = subprocess.run(
        [sys.executable, "-c", program], env=environment, capture_output=True, text=True
    )
    assert finished.stdout == "set()\n", finished.stderr


@pytest.mark.parametrize("name", ["main", "evaluate", "doctor"])
def test_help_exits_0(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        importlib.import_module(f"rnnmnist.{name}").main(["--help"])
    assert ended.value.code == 0
    printed = capsys.readouterr().out
    assert f"rnnmnist.{name}" in printed
    if name != "evaluate":
        assert "--config.train.learning_rate VALUE" in printed
        default = f"(default: {TrainConfig().learning_rate})"
        assert default in " ".join(printed.split())


def rnnmnist_command(
    environment: dict[str, str], *args: str, program: tuple[str, ...] = ()
) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*(program or (sys.executable, "-m", "rnnmnist")), *args],
        env=environment,
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
    )


def test_the_package_is_typed_and_has_a_version() -> None:
    assert rnnmnist.__version__ == version("rnnmnist")
    assert (REPOSITORY / "rnnmnist" / "py.typed").exists()


@pytest.mark.parametrize("args", [(), ("--help",)])
def test_the_package_lists_its_commands(
    environment: dict[str, str], args: tuple[str, ...]
) -> None:
    finished = rnnmnist_command(environment, *args)
    assert (finished.returncode, finished.stderr) == (0, "")
    usage, empty, *listed = finished.stdout.splitlines()
    assert usage.startswith("usage: rnnmnist COMMAND ")
    assert empty == ""
    assert [line.split()[0] for line in listed] == list(COMMANDS)
    for line, module in zip(listed, COMMANDS.values(), strict=True):
        doc = importlib.import_module(f"rnnmnist.{module}").__doc__ or ""
        assert line.endswith(f"  {doc.splitlines()[0]}")


def test_every_command_has_a_name() -> None:
    modules = {
        path.stem
        for path in (REPOSITORY / "rnnmnist").glob("*.py")
        if "\ndef main(" in path.read_text()
    }
    assert set(COMMANDS.values()) == modules - {"__main__"}


def test_the_package_runs_its_commands(environment: dict[str, str]) -> None:
    helped = rnnmnist_command(environment, "train", "--help")
    assert (helped.returncode, helped.stderr) == (0, "")
    assert "usage: python -m rnnmnist.main " in helped.stdout
    refused = rnnmnist_command(environment, "train", "--config.sed", "1")
    assert "did you mean 'seed'?" in one_line_error(refused)


def test_an_unknown_command_is_one_line_and_exits_2(
    environment: dict[str, str],
) -> None:
    finished = rnnmnist_command(environment, "trian")
    line = f"error: trian: no such command; the commands are {', '.join(COMMANDS)}"
    assert one_line_error(finished) == line
    assert finished.stdout == ""


def test_the_console_script_is_the_package(environment: dict[str, str]) -> None:
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]
    module, function = project["scripts"]["rnnmnist"].split(":")
    # The script that pip writes, which an editable installation may lack.
    script = f"import sys\nfrom {module} import {function}\nsys.exit({function}())"
    program = (sys.executable, "-c", script)
    listed = rnnmnist_command(environment, program=program)
    assert listed.stdout == rnnmnist_command(environment).stdout
    finished = rnnmnist_command(environment, "verify", program=program)
    assert "--workdir" in one_line_error(finished)


def test_missing_data_without_a_network_are_one_line(
    environment: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in environment:
        if "proxy" in name.lower():
            monkeypatch.setenv(name, environment[name])
    error = refused(
        "main",
        "--config=default",
        f"--config.data.data_dir={tmp_path / 'data'}",
        f"--workdir={tmp_path / 'run'}",
        *HERE,
    )
    for part in (
        "train-images-idx3-ubyte.gz",
        "data.manual_dir",
        "configs/embedded.py",
    ):
        assert part in error
    assert not (tmp_path / "run").exists()


def test_a_damaged_original_file_is_one_line(tmp_path: Path) -> None:
    name = "t10k-images-idx3-ubyte.gz"
    (tmp_path / name).write_bytes(b"\x1f\x8b")
    for other in ("train-images-idx3", "train-labels-idx1", "t10k-labels-idx1"):
        (tmp_path / f"{other}-ubyte.gz").write_bytes(b"no gzip")
    error = refused(
        "main",
        "--config=default",
        f"--config.data.data_dir={tmp_path / 'data'}",
        f"--config.data.manual_dir={tmp_path}",
        f"--workdir={tmp_path / 'run'}",
        *HERE,
    )
    assert f"{tmp_path / name}, has wrong checksum" in error
    assert not (tmp_path / "run").exists()


def test_the_tutorial_also_scores_the_first_128_images(
    data_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    workdir = tmp_path / "run"
    args = (
        "--config=tutorial",
        "--config.data.name=mnist5k",
        f"--config.data.data_dir={data_dir}",
        "--config.model.hidden_size=8",
        "--config.train.num_steps=25",
        f"--workdir={workdir}",
    )
    main.main([*args, *HERE])
    result = json.loads((workdir / "evaluation" / "test-25.json").read_text())
    assert result["examples"] == 500
    assert result["tutorial_128"]["examples"] == 128
    assert "on the first 128" in capsys.readouterr().out
    train = [line["step"] for line in lines(workdir) if line["split"] == "train"]
    assert train == [10, 20, 25]


def test_a_non_finite_loss_stops_the_run_and_names_the_step(
    data_dir: Path, tmp_path: Path
) -> None:
    args = (
        "--config.train.learning_rate=1e30",
        "--config.train.clip_norm=0",
        "--config.data.max_shift=0",
    )
    with pytest.raises(RunError) as error:
        main.main([f"--workdir={tmp_path}", *settings(data_dir), *HERE, *args])
    assert error.value.exit_code == 1
    named = re.match(r"step (\d+) was not applied", str(error.value))
    assert named is not None, error
    assert re.search(r"learning rate \d[.\d]*e\+", str(error.value))
    assert lines(tmp_path)[-1]["step"] == int(named[1]) - 1


@pytest.mark.slow  # the same warning as that of `evaluate`
def test_a_run_needs_no_compilation_cache(
    command: Command, data_dir: Path, tmp_path: Path, unoptimized: dict[str, str]
) -> None:
    (tmp_path / "file").touch()
    missing = {"JAX_COMPILATION_CACHE_DIR": str(tmp_path / "file" / "programs")}
    finished = command(
        "main",
        f"--workdir={tmp_path / 'run'}",
        *settings(data_dir),
        "--config.train.num_steps=1",
        **unoptimized | missing,
    )
    assert finished.returncode == 0, finished.stderr
    (warning,) = finished.stderr.strip().splitlines()
    assert warning.startswith("warning: compiled programs are not kept")


def test_compiled_programs_are_kept_in_the_configured_folder(
    environment: dict[str, str], trained: Path
) -> None:
    assert trained.is_dir()
    folder = Path(environment["JAX_COMPILATION_CACHE_DIR"])
    names = [path.name for path in folder.iterdir()]
    assert any("train_steps" in name for name in names)
    assert any("predict_batches" in name for name in names)


def test_compile_seconds_are_counted_once() -> None:
    """Also if several commands have run in one process."""
    enable_compilation_cache()
    enable_compilation_cache()
    before = compile_seconds()
    event = "/jax/core/compile/backend_compile_duration"
    jax.monitoring.record_event_duration_secs(event, 5.0)
    assert compile_seconds() - before == pytest.approx(5.0)


def test_parameters_that_overflow_are_not_saved(data_dir: Path, tmp_path: Path) -> None:
    """In the only step, whose loss and gradient are finite."""
    workdir = tmp_path / "run"
    args = (
        "--config.train.num_steps=1",
        "--config.train.learning_rate=1e38",
        "--config.train.weight_decay=0.9",
        "--config.train.warmup_fraction=0",
        "--config.data.max_shift=0",
    )
    with pytest.raises(RunError, match=r"step 1 (was not applied|is not saved)"):
        main.main([f"--workdir={workdir}", *settings(data_dir), *HERE, *args])
    assert not (workdir / "1").exists()


def test_the_result_of_another_network_is_replaced(
    copied: Path, data_dir: Path
) -> None:
    (path,) = (copied / "evaluation").glob("test-*.json")
    honest = json.loads(path.read_text())
    path.write_text(json.dumps(honest | {"params_sha256": "0" * 64, "correct": 499}))
    main.main([f"--workdir={copied}", *settings(data_dir), *HERE])
    again = json.loads(path.read_text())
    # On one device, the sum of the losses may have another last bit.
    assert again.pop("loss") == pytest.approx(honest.pop("loss"), rel=1e-6)
    assert again == honest


def test_a_shipped_model_cannot_be_resumed(
    data_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shipped = REPOSITORY / "checkpoints" / "reference"
    workdir = trainer.copy_of(shipped, tmp_path / "reference")
    before = snapshot(workdir)
    args = ("--config=default", f"--config.data.data_dir={data_dir}", *HERE)
    error = refused("main", f"--workdir={workdir}", *args)
    assert "holds parameters only" in error
    assert snapshot(workdir) == before
    verify.main([f"--workdir={workdir}"])
    assert capsys.readouterr().out.endswith("  good\n")


def test_a_command_ends_normally(environment: dict[str, str]) -> None:
    """Profilers, coverage and other functions at exit run."""
    program = (
        "import atexit, sys\n"
        "from rnnmnist import cli, verify\n"
        "atexit.register(print, 'at exit')\n"
        "cli.run(verify.main)\n"
    )
    finished = subprocess.run(
        [sys.executable, "-c", program, "--workdir=checkpoints/reference"],
        env=environment,
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert finished.returncode == 0, finished.stderr
    assert finished.stdout == "step 18060  good\nat exit\n"


def test_only_failures_of_orbax_after_a_failed_read_are_hidden(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    class Failing:
        def __del__(self) -> None:
            raise ValueError("a fault in __del__")

    async def read() -> None:
        try:
            await asyncio.sleep(0)
        except GeneratorExit as error:
            raise ValueError("cannot read") from error

    monkeypatch.setattr(sys, "unraisablehook", cli._show_unraisable)
    reading = read()
    reading.send(None)
    del reading
    assert capsys.readouterr().err == ""
    Failing()
    assert "ValueError: a fault in __del__" in capsys.readouterr().err
