"""The commands on the embedded data set: complete runs, their files and errors.

Each command runs as a process at least once. Where only its messages or files matter,
its `main` is called in this process, which has already imported jax.
"""

import asyncio
import importlib
import json
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
from support import (
    REPOSITORY,
    Command,
    Once,
    file_times,
    one_line_error,
    run_python,
)

import rnnmnist
from rnnmnist import __main__, cli, evaluate, main
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


def lines(workdir: Path) -> list[dict[str, Any]]:
    text = (workdir / "metrics.jsonl").read_text()
    return [json.loads(line) for line in text.splitlines()]


def settings(data_dir: Path) -> tuple[str, ...]:
    """The flags of the complete run, except for the workdir."""
    return (f"--config.data.data_dir={data_dir}", *QUICK)


@pytest.fixture(scope="session")
def trained(once: Once, command: Command, data_dir: Path) -> Path:
    """The workdir of a complete run; its output is in `../printed.txt`."""

    def train(folder: Path) -> None:
        args = (f"--workdir={folder / 'with space and ü'}", *settings(data_dir))
        finished = command("__main__", "train", *args)
        assert (finished.returncode, finished.stderr) == (0, "")
        (folder / "printed.txt").write_text(finished.stdout)

    return once("commands", train) / "with space and ü"


@pytest.fixture
def copied(trained: Path, tmp_path: Path) -> Path:
    """A copy of the complete run's workdir that a test may change."""
    return trainer.copy_of(trained, tmp_path / "run")


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
    parts = ["parameters", "seconds", "validation", "test", "checkpoint", "compile"]
    for part in parts:
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


def without_compilation_cache(
    command: Command, *args: str
) -> subprocess.CompletedProcess[str]:
    """Runs a command that cannot keep its compiled programs, of which it warns."""
    finished = command(*args, JAX_COMPILATION_CACHE_DIR="/dev/null/programs")
    assert finished.returncode == 0, finished.stderr
    (warning,) = finished.stderr.splitlines()
    assert warning.startswith("warning: compiled programs are not kept")
    return finished


def test_a_complete_run_is_not_changed(
    copied: Path, command: Command, data_dir: Path
) -> None:
    before = file_times(copied)
    args = (f"--workdir={copied}", *settings(data_dir))
    finished = without_compilation_cache(command, "main", *args)
    assert "complete at step 40" in finished.stdout
    assert file_times(copied) == before


def test_evaluate_reproduces_the_result_of_the_trainer(
    copied: Path, command: Command
) -> None:
    (path,) = (copied / "evaluation").glob("test-*.json")
    by_trainer = path.read_text()
    path.unlink()
    finished = without_compilation_cache(command, "evaluate", f"--workdir={copied}")
    assert path.read_text() == by_trainer
    assert str(path) in finished.stdout
    evaluate.main([f"--workdir={copied}", "--step=latest", "--split=validation"])
    result = json.loads((copied / "evaluation" / "validation-40.json").read_text())
    line = lines(copied)[-1]
    assert (line["split"], line["step"]) == ("validation", 40)
    assert result["accuracy"] == line["accuracy"]
    assert result["loss"] == pytest.approx(line["loss"], rel=1e-6)
    evaluate.main([f"--workdir={copied}", "--step=20", "--split=train"])
    result = json.loads((copied / "evaluation" / "train-20.json").read_text())
    assert result["examples"] == 4000


def test_a_resumed_run_ends_with_the_same_bits(
    trained: Path, copied: Path, command: Command, data_dir: Path
) -> None:
    """Killed at step 27: after the first checkpoint, within an epoch and a line."""
    trainer.cut_back(copied, 20)
    path = copied / "metrics.jsonl"
    kept = [x for x in path.read_text().splitlines(True) if json.loads(x)["step"] <= 27]
    path.write_text("".join(kept) + '{"step": 36, "spl')
    finished = command("main", f"--workdir={copied}", *settings(data_dir))
    assert finished.returncode == 0, finished.stderr
    assert "resuming from step 20\n" in finished.stdout
    assert trainer.metrics(copied) == trainer.metrics(trained)
    first, second = (
        json.loads(next((folder / "evaluation").iterdir()).read_text())
        for folder in (trained, copied)
    )
    assert first["params_sha256"] == second["params_sha256"]


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


@pytest.mark.parametrize(
    "args", [["__main__", "trian"], ["main", "stray"], ["evaluate"], ["verify"]]
)
def test_a_user_error_is_printed_in_one_line_and_exits_2(
    command: Command, args: list[str]
) -> None:
    finished = command(*args)
    one_line_error(finished)
    assert finished.stdout == ""


@pytest.mark.parametrize("args", [[], ["--help"]])
def test_the_package_lists_its_commands(
    args: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    __main__.main(args)
    usage, empty, *listed = capsys.readouterr().out.splitlines()
    assert usage.startswith("usage: rnnmnist COMMAND ")
    assert empty == ""
    assert [line.split()[0] for line in listed] == list(COMMANDS)
    for line, module in zip(listed, COMMANDS.values(), strict=True):
        doc = importlib.import_module(f"rnnmnist.{module}").__doc__ or ""
        assert line.endswith(f"  {doc.splitlines()[0]}")


def test_the_console_script_runs_a_command_that_ends_normally(
    environment: dict[str, str],
) -> None:
    """Profilers, coverage and other functions at exit run."""
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]
    module, function = project["scripts"]["rnnmnist"].split(":")
    # As the script that pip writes, which an editable installation may lack.
    program = (
        f"import atexit\nfrom {module} import {function}\n"
        f"atexit.register(print, 'at exit')\n{function}()"
    )
    argv = [sys.executable, "-c", program, "verify", "--workdir=checkpoints/reference"]
    finished = subprocess.run(
        argv, env=environment, cwd=REPOSITORY, capture_output=True, text=True
    )
    assert (finished.returncode, finished.stderr) == (0, "")
    assert finished.stdout == "step 18060  good\nat exit\n"


def test_the_package_is_typed_and_has_a_version() -> None:
    assert rnnmnist.__version__ == version("rnnmnist")
    assert (REPOSITORY / "rnnmnist" / "py.typed").exists()


def test_every_command_has_a_name() -> None:
    modules = {
        path.stem
        for path in (REPOSITORY / "rnnmnist").glob("*.py")
        if "\ndef main(" in path.read_text()
    }
    assert set(COMMANDS.values()) == modules - {"__main__"}


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


def test_a_program_that_is_half_written_is_compiled_again_without_a_warning(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As by another process, or by one that was killed while it wrote."""
    monkeypatch.setenv("JAX_COMPILATION_CACHE_DIR", str(tmp_path))
    program = "import warnings, jax; from rnnmnist import cli; "
    program += "from rnnmnist.runtime.compilation import use_cpu; use_cpu(); "
    program += "warnings.showwarning = cli._show_warning; "
    program += "print(jax.jit(lambda x: x + 1)(1)); warnings.warn('another')"
    for _ in range(2):
        finished = run_python("-c", program)
        assert (finished.stdout, finished.stderr) == ("2\n", "warning: another\n")
        for path in tmp_path.glob("*-cache"):
            path.write_bytes(path.read_bytes()[:100])


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
