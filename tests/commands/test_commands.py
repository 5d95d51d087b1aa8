"""The commands on the embedded data set: complete runs, their files and errors.

A command runs as a process where its start, its exit code or its whole output matter.
Otherwise its `main` is called in this process, which has already imported jax.
"""

import importlib
import json
import re
import tomllib
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
from rnnmnist.data.image_sets import image_task
from rnnmnist.runs.checkpoint_files import seal


def lines(workdir: Path) -> list[dict[str, Any]]:
    text = (workdir / "metrics.jsonl").read_text()
    return [json.loads(line) for line in text.splitlines()]


@pytest.fixture
def copied(reference_run: Path, tmp_path: Path) -> Path:
    """A copy of the complete run's workdir that a test may change."""
    return trainer.copy_of(reference_run, tmp_path / "run")


def test_a_run_writes_the_files_of_the_contract(reference_run: Path) -> None:
    workdir, printed = reference_run, (reference_run.parent / "printed.txt").read_text()
    config = json.loads((workdir / "config.json").read_text())
    assert config["model"]["hidden_size"] == 48
    assert config["data"]["name"] == "mnist5k"
    keys = [(line["split"], line["step"]) for line in lines(workdir)]
    steps = {split: [s for name, s in keys if name == split] for split, _ in keys}
    validated = [20, 40, 60, 80, 100, 120]
    trained = sorted({*range(7, 120, 7), *validated})
    assert steps == {"train": trained, "validation": validated}
    for line in lines(workdir):
        assert 0 <= line["accuracy"] <= 1
        assert ("examples_per_second" in line) == (line["split"] == "train")
        assert line.get("examples_per_second", 1) > 0
    assert (workdir / "120" / "params").is_dir()
    for name in ("evaluate", "report"):
        assert re.search(rf"(-m )?rnnmnist {name} '?--workdir=", printed)
    before, _, after = printed.partition("compiling the training step\n")
    assert "loss" in after and "loss" not in before
    assert re.search(r"\nstep 120/120  100 %  loss \d\.\d+  accuracy", printed)


def test_a_complete_run_is_not_changed(copied: Path, data_dir: Path) -> None:
    before = {path: path.read_bytes() for path in copied.rglob("*") if path.is_file()}
    args = trainer.arguments(copied, data_dir, "--config.train.num_steps=100")
    line = "complete at step 120 (asked for 100)"
    finished = called("main", *args)
    assert f"\n{line}\n" in output_of(finished)
    assert "\nsteps       120 (5,760 images)\n" in finished.stdout
    assert finished.stderr == ""
    after = {path: path.read_bytes() for path in copied.rglob("*") if path.is_file()}
    assert after == before
    assert f", {line}\n" in output_of(called("doctor", *args))


def test_evaluate_reproduces_the_result_of_the_trainer(
    copied: Path, command: Command
) -> None:
    """Also where compiled programs cannot be kept, of which it warns."""
    (path,) = (copied / "evaluation").glob("test-*.json")
    by_trainer = path.read_text()
    path.unlink()
    variables = {
        "JAX_NUM_CPU_DEVICES": "2",
        "JAX_COMPILATION_CACHE_DIR": "/dev/null/programs",
    }
    finished = command("evaluate", f"--workdir={copied}", **variables)
    assert path.read_text() == by_trainer
    assert str(path) in output_of(finished)
    (warning,) = finished.stderr.splitlines()
    assert warning.startswith("warning: compiled programs are not kept")
    evaluate.main([f"--workdir={copied}", "--step=latest", "--split=validation"])
    result = json.loads((copied / "evaluation" / "validation-120.json").read_text())
    line = lines(copied)[-1]
    assert (line["split"], line["step"]) == ("validation", 120)
    assert result["accuracy"] == line["accuracy"]
    assert result["multiplier"] != 1  # which the metrics do not have
    evaluate.main([f"--workdir={copied}", "--step=100", "--split=train"])
    result = json.loads((copied / "evaluation" / "train-100.json").read_text())
    assert result["examples"] == 4000


def test_a_run_on_other_splits_is_neither_resumed_nor_evaluated(
    copied: Path, data_dir: Path
) -> None:
    """Such as those before the embedded splits had a checksum."""
    for path in copied.glob("*/header/metadata"):
        content = json.loads(path.read_text())
        content["task"]["sha256"] = None
        path.write_text(json.dumps(content))
        seal(path.parent.parent)
    before = file_times(copied).keys()
    longer = trainer.arguments(copied, data_dir, "--config.train.num_steps=140")
    assert "trained on other data than mnist5k" in refused("main", *longer)
    message = refused("evaluate", f"--workdir={copied}")
    assert f"{copied} was trained on other splits of mnist5k" in message
    assert file_times(copied).keys() == before


def test_a_resumed_run_ends_with_the_same_bits(
    reference_run: Path, copied: Path, data_dir: Path
) -> None:
    """Killed after step 112: after a checkpoint, within an epoch and a line."""
    trainer.cut_back(copied, 100)
    path = copied / "metrics.jsonl"
    text = path.read_text()
    path.write_text(text[: text.index('"step": 112')])
    assert "resuming from step 100\n" in trainer.run(copied, data_dir)
    trainer.assert_same_end(copied, reference_run)


def test_user_errors_are_reported_before_slow_imports(
    environment: dict[str, str],
) -> None:
    program = (
        "import sys\nfrom rnnmnist.commands import doctor, train\n"
        "from rnnmnist.errors import UserError\n"
        "for command in (train, doctor):\n"
        "    try: command.main(['--config.sed=1'])\n"
        "    except UserError: pass\n"
        "print({'jax', 'flax', 'orbax', 'numpy'} & set(sys.modules))"
    )
    finished = run_python("-c", program, environment=environment)
    assert finished.stdout == "set()\n", finished.stderr


def test_help_lists_all_settings() -> None:
    printed = output_of(called("main", "--help"))
    assert "usage: rnnmnist train" in printed
    assert "--config.train.learning_rate VALUE" in printed
    default = f"(default: {TrainConfig().learning_rate})"
    assert default in " ".join(printed.split())


def test_a_user_error_is_printed_in_one_line_and_exits_2(command: Command) -> None:
    finished = command("__main__", "trian")
    one_line_error(finished)
    assert finished.stdout == ""


def test_the_package_lists_its_commands(capsys: pytest.CaptureFixture[str]) -> None:
    __main__.main([])
    usage, empty, *listed = capsys.readouterr().out.splitlines()
    assert usage.startswith("usage: rnnmnist COMMAND ")
    assert empty == ""
    assert [line.split()[0] for line in listed] == list(COMMANDS)
    for line, name in zip(listed, COMMANDS, strict=True):
        doc = importlib.import_module(f"rnnmnist.commands.{name}").__doc__ or ""
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
    argv = "-c", program, "page", "--version"
    finished = run_python(*argv, environment=environment)
    assert (finished.returncode, finished.stderr) == (0, "")
    assert finished.stdout == f"{rnnmnist.__version__}\nat exit\n"


def test_the_tutorial_also_scores_the_first_128_images(
    data_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = {"data.name": "mnist5k", "data.data_dir": str(data_dir)}
    config = load_config(REPOSITORY / "configs/tutorial.py").replace(data)
    train = config.train
    assert train.log_every_steps == 10
    workdir = save_network(tmp_path / "run", config, image_task(config.data))
    evaluate.main([f"--workdir={workdir}"])
    result = json.loads((workdir / "evaluation" / "test-3.json").read_text())
    assert result["examples"] == 500
    assert result["tutorial_128"]["examples"] == 128
    assert "on the first 128" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ((), r"step 2 was not applied.*learning rate \d[.\d]*e\+"),
        # Loss and gradient of the only step are finite before its update.
        (("--config.train.num_steps=1",), "step 1 is not saved"),
    ],
)
def test_a_non_finite_step_stops_the_run_and_is_named(
    data_dir: Path, tmp_path: Path, flags: tuple[str, ...], message: str
) -> None:
    args = trainer.arguments(tmp_path, data_dir, *trainer.WILD, *flags)
    finished = called("main", *args)
    assert finished.returncode == 1
    assert re.match(f"error: {message}", finished.stderr)
    assert [line["step"] for line in lines(tmp_path)] == [1]
    assert not (tmp_path / "1").exists()


def test_the_result_of_another_network_is_replaced(
    copied: Path, reference_run: Path, data_dir: Path
) -> None:
    (path,) = (copied / "evaluation").glob("test-*.json")
    honest = json.loads(path.read_text())
    path.write_text(json.dumps(honest | {"params_sha256": "0" * 64, "correct": 499}))
    trainer.run(copied, data_dir)
    trainer.assert_same_end(copied, reference_run)


def test_a_quiet_command_prints_warnings_and_errors_only(
    data_dir: Path, tmp_path: Path
) -> None:
    arguments = ["--quiet", f"--workdir={tmp_path / 'run'}", "--config.seed=0"]
    arguments += [f"--config.data.data_dir={data_dir}", *trainer.SETTINGS]
    trained = called("main", *arguments, "--config.train.num_steps=2")
    assert (trained.stdout, trained.stderr) == ("", "")
    longer = called("main", *arguments, "--config.train.num_steps=4")
    assert longer.stdout == ""
    assert "train.num_steps was 2 and is now 4" in longer.stderr
    wrong = called("evaluate", "--quiet", f"--workdir={tmp_path / 'absent'}")
    assert wrong.stdout == ""
    assert one_line_error(wrong)
