"""Runs on few sequences, with few or no held-out sequences."""

import errno
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
import trainer
from support import SMALL, called

import rnnmnist
from rnnmnist.errors import RunError, UserError
from rnnmnist.runs import logs
from rnnmnist.runs.logs import StepMetrics
from rnnmnist.runs.records import Record
from rnnmnist.runs.workdir import list_steps

# A third of the sequences is of the rare class.
LABELS = np.where(np.arange(60) % 3, "no", "yes")
INPUTS = np.random.default_rng(0).normal(LABELS[:, None] == "yes", size=(60, 5))


def fit(workdir: Path, **changes: Any) -> Path:
    arguments = SMALL | changes
    rnnmnist.fit(INPUTS, LABELS, workdir=workdir, **arguments)
    return workdir


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Returns a folder of runs that several tests read; the first `fit` trains each."""
    return tmp_path_factory.mktemp("runs")


@pytest.mark.usefixtures("unrendered")
@pytest.mark.parametrize("split", ["test", "train"])
def test_a_run_without_validation(
    runs: Path, capsys: pytest.CaptureFixture[str], split: str
) -> None:
    changes: dict[str, Any] = {"validation": False}
    if split == "test":
        changes = {"split": ["train"] * 54 + ["test"] * 6}
    workdir = fit(runs / split, **changes)
    output = capsys.readouterr().out
    sizes = "54 / 0 / 6" if split == "test" else "60 / 0 / 0"
    assert f"{sizes} sequences for training" in output
    assert "\nvalidation  none: " in output
    assert ("\ntest        none: " in output) == (split == "train")
    assert '"validation"' not in (workdir / "metrics.jsonl").read_text()
    assert Record(workdir).select("best").step == 20
    results = sorted((workdir / "evaluation").glob("*"))
    assert [file.name for file in results] == ["test-20.json"] * (split == "test")

    evaluated = called("evaluate", f"--workdir={workdir}", f"--split={split}")
    assert (evaluated.returncode, evaluated.stderr) == (0, "")
    missing = "validation" if split == "test" else "test"
    evaluated = called("evaluate", f"--workdir={workdir}", f"--split={missing}")
    assert evaluated.returncode == 2
    assert f" split: arrays has no {missing} split; " in evaluated.stderr
    text = rnnmnist.load(workdir).report().page.read_text()
    assert ("arrays has no test split" in text) == (split == "train")


@pytest.mark.slow
def test_balanced_weights_equal_the_same_weights_as_a_mapping(tmp_path: Path) -> None:
    plain = {"label_smoothing": 0.0}  # so that results have the losses of the log
    weights = {"no": 60 / 2 / 40, "yes": 60 / 2 / 20}
    balanced = fit(tmp_path / "a", class_weight="balanced", **plain)
    mapped = fit(tmp_path / "b", class_weight=weights, **plain)
    equal = fit(tmp_path / "c", **plain)
    states = [trainer.checksums(run, 20)["state"] for run in (balanced, mapped, equal)]
    assert states[0] == states[1] != states[2]
    fit(tmp_path / "b", class_weight=weights | {"other": 9}, **plain)
    for given in ({"yes": 2}, "balanced", "none"):
        with pytest.raises(UserError, match="class_weight"):
            fit(tmp_path / "b", class_weight=given, **plain)


ENDING: dict[str, Any] = {"num_steps": 200, "learning_rate": 0.02, "patience": 3}


@pytest.fixture(scope="module")
def stopped(runs: Path) -> Path:
    """Returns a run whose validation loss soon rises."""
    return fit(runs / "run", **ENDING)


@pytest.mark.slow
@pytest.mark.usefixtures("unrendered")
def test_a_run_that_stopped_early_is_complete_and_says_why(
    stopped: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    step = list_steps(stopped)[-1]
    config = Record(stopped).headers[step].config.train
    reason = str(logs.describe_completion(logs.read(stopped), step, config))
    assert reason.startswith(f"stopped at step {step} of 200: ")
    lines = logs.read(stopped)
    fit(stopped, **ENDING)
    assert reason in capsys.readouterr().out
    assert logs.read(stopped) == lines


def test_a_callback_gets_each_validation_and_can_stop_the_run(
    stopped: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The callback can use jax. After an exception, the run can be resumed.

    An `OSError` is reported in one line, like the file errors of the run.
    """
    run, seen = tmp_path / "run", list[StepMetrics]()
    for error in (ValueError("no"), OSError(errno.ENOSPC, "full", "elsewhere")):

        def fail(metrics: StepMetrics, error: Exception = error) -> bool:
            seen.append(metrics)
            raise error

        kind = RunError if isinstance(error, OSError) else ValueError
        with pytest.raises(kind) as raised:
            fit(run, callback=fail, **ENDING)
        assert error in (raised.value, raised.value.__cause__)
        assert str(raised.value) in ("no", "elsewhere: full")
    with pytest.raises(UserError, match=r"^callback: must be a function"):
        fit(run, callback="print", **ENDING)
    fit(run, callback=lambda _: jax.numpy.ones(3).sum() and np.True_, **ENDING)
    assert list_steps(run)[-1] == 30
    assert "; stopped by a callback\n" in capsys.readouterr().out
    fit(run, callback=seen.append, **ENDING)
    step = list_steps(stopped)[-1]
    assert [metrics.step for metrics in seen] == [10, 20, *range(40, step + 1, 10)]
    assert seen[-1].to_json().items() >= logs.read(run)[-1].to_json().items()
    assert trainer.checksums(run, step) == trainer.checksums(stopped, step)
