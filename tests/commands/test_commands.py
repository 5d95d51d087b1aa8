"""The commands on the embedded data set: complete runs, their files and errors.

If a command's imports, exit code or complete output matter, the test runs the command
in a new process. Otherwise, the test calls the command's `main` in this process, which
has already imported JAX.
"""

import importlib
import json
import re
from pathlib import Path
from typing import Any

import pytest
import trainer
from support import (
    REPOSITORY,
    Command,
    called,
    file_times,
    one_line_error,
    output_of,
    refused,
    run_python,
    save_network,
)

import rnnmnist
from rnnmnist import __main__
from rnnmnist.__main__ import COMMANDS
from rnnmnist.commands import evaluate
from rnnmnist.config.files import load_config
from rnnmnist.config.schema import TrainConfig
from rnnmnist.data.image_datasets import image_task
from rnnmnist.runs.checkpoint_files import write_checksums


def lines(workdir: Path) -> list[dict[str, Any]]:
    text = (workdir / "metrics.jsonl").read_text()
    return [json.loads(line) for line in text.splitlines()]


@pytest.fixture
def workdir(reference_run: Path, tmp_path: Path) -> Path:
    """A copy of the reference run's workdir, which a test may change."""
    return trainer.copy_of(reference_run, tmp_path / "run")


def test_a_run_writes_its_configuration_log_and_checkpoints(
    reference_run: Path,
) -> None:
    output = (reference_run.parent / "printed.txt").read_text()
    config = json.loads((reference_run / "config.json").read_text())
    assert config["model"]["hidden_size"] == 48
    keys = [(line["split"], line["step"]) for line in lines(reference_run)]
    steps = {split: [s for name, s in keys if name == split] for split, _ in keys}
    validation_steps = [20, 40, 60, 80, 100, 120]
    train_steps = sorted({*range(7, 120, 7), *validation_steps})
    assert steps == {"train": train_steps, "validation": validation_steps}
    for line in lines(reference_run):
        assert ("examples_per_second" in line) == (line["split"] == "train")
    assert (reference_run / "120" / "params").is_dir()
    for name in ("evaluate", "report"):
        assert re.search(rf"(-m )?rnnmnist {name} '?--workdir=", output)
    head, _, tail = output.partition("compiling the training step\n")
    assert "loss" in tail and "loss" not in head
    assert re.search(r"\nstep 120/120  100 %  loss \d\.\d+  accuracy", output)


def test_evaluate_reproduces_the_result_of_the_training_command(
    workdir: Path, command: Command
) -> None:
    """If compiled programs cannot be cached, the command warns and continues."""
    (path,) = (workdir / "evaluation").glob("test-*.json")
    content = path.read_text()
    path.unlink()
    variables = {
        "JAX_NUM_CPU_DEVICES": "2",
        "JAX_COMPILATION_CACHE_DIR": "/dev/null/programs",
    }
    process = command("evaluate", f"--workdir={workdir}", **variables)
    assert path.read_text() == content
    assert str(path) in output_of(process)
    (warning,) = process.stderr.splitlines()
    assert warning.startswith("warning: compiled programs cannot be cached")
    evaluate.main([f"--workdir={workdir}", "--step=latest", "--split=validation"])
    result = json.loads((workdir / "evaluation" / "validation-120.json").read_text())
    line = lines(workdir)[-1]
    assert (line["split"], line["step"]) == ("validation", 120)
    assert result["accuracy"] == line["accuracy"]
    assert result["temperature"] != 1  # `metrics.jsonl` has no temperature


def test_a_run_on_other_splits_is_neither_resumed_nor_evaluated(
    workdir: Path, data_dir: Path
) -> None:
    """The run is from a version that did not save a checksum of the embedded splits."""
    for path in workdir.glob("*/header/metadata"):
        content = json.loads(path.read_text())
        content["task"]["sha256"] = None
        path.write_text(json.dumps(content))
        write_checksums(path.parent.parent)
    paths = file_times(workdir).keys()
    arguments = trainer.arguments(workdir, data_dir, "--config.train.num_steps=140")
    assert "trained on data other than mnist5k" in refused("main", *arguments)
    message = refused("evaluate", f"--workdir={workdir}")
    assert f"{workdir} was trained on data other than mnist5k" in message
    assert file_times(workdir).keys() == paths


def test_help_and_wrong_flags_need_no_slow_imports(environment: dict[str, str]) -> None:
    """Tab completion of public names does not need slow imports, either."""
    program = (
        "import sys\nimport rnnmnist\nfrom rnnmnist.commands import doctor, train\n"
        "from rnnmnist.errors import UserError\n"
        "try: train.main(['--help'])\n"
        "except SystemExit: pass\n"
        "try: doctor.main(['--config.sed=1'])\n"
        "except UserError: pass\n"
        "print({*rnnmnist.__all__} - {*dir(rnnmnist)})\n"
        "print({'jax', 'flax', 'orbax', 'numpy'} & {*sys.modules})"
    )
    output = output_of(run_python("-c", program, environment=environment))
    assert output.startswith("usage: rnnmnist train ")
    assert "--config.train.learning_rate VALUE" in output
    default = f"(default: {TrainConfig().learning_rate})"
    assert default in " ".join(output.split())
    assert output.endswith("\nset()\nset()\n")


def test_a_user_error_is_one_line_with_exit_code_2(command: Command) -> None:
    process = command("__main__", "trian")
    one_line_error(process)
    assert process.stdout == ""


def test_the_package_lists_its_commands(capsys: pytest.CaptureFixture[str]) -> None:
    __main__.main([])
    _, _, *lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == list(COMMANDS)
    for line, name in zip(lines, COMMANDS, strict=True):
        doc = importlib.import_module(f"rnnmnist.commands.{name}").__doc__ or ""
        assert line.endswith(f"  {doc.splitlines()[0]}")


def test_the_console_script_runs_exit_handlers(
    environment: dict[str, str],
) -> None:
    """Profilers and coverage tools depend on exit handlers."""
    program = (
        "import atexit\nfrom rnnmnist.__main__ import run\n"
        "atexit.register(print, 'at exit')\nrun()"
    )
    argv = "-c", program, "page", "--version"
    process = run_python(*argv, environment=environment)
    assert (process.returncode, process.stderr) == (0, "")
    assert process.stdout == f"{rnnmnist.__version__}\nat exit\n"


def test_the_tutorial_is_also_evaluated_on_the_first_128_images(
    data_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = {"data.name": "mnist5k", "data.data_dir": str(data_dir)}
    config = load_config(REPOSITORY / "configs/tutorial.py").replace(data)
    workdir = save_network(tmp_path / "run", config, image_task(config.data))
    evaluate.main([f"--workdir={workdir}"])
    result = json.loads((workdir / "evaluation" / "test-3.json").read_text())
    assert result["tutorial_128"]["examples"] == 128
    assert "first 128 examples: " in capsys.readouterr().out


@pytest.mark.parametrize(("learning_rate", "wrong_step"), [("1e15", 2), ("1e38", 1)])
def test_a_non_finite_update_stops_the_run(
    data_dir: Path, tmp_path: Path, learning_rate: str, wrong_step: int
) -> None:
    """The error contains the step, and the log contains all earlier updates."""
    rate = f"--config.train.learning_rate={learning_rate}"
    args = trainer.arguments(tmp_path, data_dir, *trainer.WILD, rate)
    process = called("main", *args)
    assert process.returncode == 1
    message = (
        rf"error: step {wrong_step} produced non-finite values.*learning rate 1e\+"
    )
    assert re.match(message, process.stderr)
    assert [line["step"] for line in lines(tmp_path)] == list(range(1, wrong_step))
    assert not (tmp_path / "1").exists()


@pytest.mark.slow
# The stream that discards the output stays open until the process ends.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.filterwarnings("ignore:unclosed file.*null:ResourceWarning")
def test_a_quiet_command_prints_only_warnings_and_errors(
    data_dir: Path, tmp_path: Path
) -> None:
    arguments = ["--quiet", f"--workdir={tmp_path / 'run'}", "--config.seed=0"]
    arguments += [f"--config.data.data_dir={data_dir}", *trainer.SETTINGS]
    process = called("main", *arguments, "--config.train.num_steps=2")
    assert (process.stdout, process.stderr) == ("", "")
    process = called("main", *arguments, "--config.train.num_steps=4")
    assert process.stdout == ""
    assert "train.num_steps was 2 and is now 4" in process.stderr
    assert one_line_error(called("evaluate", "--quiet", "--workdir=absent"))
