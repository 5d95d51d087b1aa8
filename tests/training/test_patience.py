"""Runs that end early: by their patience or by a callback."""

import errno
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
import trainer
from support import called, output_of

import rnnmnist
from rnnmnist.config.schema import TrainConfig
from rnnmnist.errors import RunError, UserError
from rnnmnist.runs import logs
from rnnmnist.runs.checkpoints import Checkpoints
from rnnmnist.runs.logs import Metrics
from rnnmnist.runs.workdir import list_steps
from rnnmnist.training import loop
from rnnmnist.training.fit import FIT_SETTINGS

# Which nothing predicts, so that the validation loss soon rises.
LABELS = np.random.default_rng(1).integers(0, 2, 60)
INPUTS = np.random.default_rng(0).normal(size=(60, 5))
SETTINGS: dict[str, Any] = {
    "cell": "lstm",
    "hidden_size": 4,
    "batch_size": 8,
    "num_steps": 400,
    "learning_rate": 0.01,
    "eval_every_steps": 10,
    "num_devices": 1,
}


def fit(workdir: Path, **changes: Any) -> Path:
    return rnnmnist.fit(INPUTS, LABELS, workdir=workdir, **SETTINGS | changes)


def command(workdir: Path, *more: str) -> list[str]:
    """The flags of the same run."""
    data = f"--config.data.path={workdir / 'run.data'}"
    settings = [f"--config.{FIT_SETTINGS[k].name}={v}" for k, v in SETTINGS.items()]
    return ["--config=files", f"--workdir={workdir}", data, *settings, *more]


@pytest.fixture(scope="module")
def stopped(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run with a patience of three validations."""
    return fit(tmp_path_factory.mktemp("stopped") / "run", patience=3)


@pytest.mark.parametrize("patience", [1, 2, 4])
def test_patience_counts_validations_without_a_lower_loss(
    tmp_path: Path, patience: int
) -> None:
    config = TrainConfig(num_steps=1000, patience=patience)
    lowest, waited, since = 9, 0, 0
    for step, loss in enumerate([5, 4, 4, 3, 6, 2, 2, 2, 2, 2, 1], 1):
        for split in ("train", "validation"):
            metrics = Metrics.create(step, split, 50, [0], [float(loss)], [25])
            logs.append(tmp_path, metrics)
        waited += 1
        if loss < lowest:
            lowest, waited, since = loss, 0, step
        found = logs.completion(tmp_path, step, config)
        assert (found is not None) == (waited == patience)
        if found:
            assert f"stopped at step {step} of 1,000: " in found
            assert found.endswith(f"since step {since}")
            break
    assert logs.completion(tmp_path, step, TrainConfig(num_steps=1000)) is None


def test_a_stopped_run_says_why_and_is_complete(
    stopped: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    step = list_steps(stopped)[-1]
    reason = f"stopped at step {step} of 400: no lower validation loss since step"
    (session,) = logs.read(stopped, logs.Session)
    assert str(session.completion).startswith(reason)
    steps = len(logs.read(stopped, Metrics))
    fit(stopped, patience=3)
    output = capsys.readouterr().out
    assert f"\n{session.completion}; train.patience=none or a larger one" in output
    assert f"sequences); {session.completion}\n" in output
    patience = "--config.train.patience=3"
    assert reason in output_of(called("doctor", *command(stopped, patience)))
    assert reason in output_of(called("main", *command(stopped, patience)))
    assert len(logs.read(stopped, Metrics)) == steps
    output_of(called("report", f"--workdir={stopped}"))
    assert reason in (stopped / "report" / "index.html").read_text()


def test_a_run_that_failed_three_times_stops_at_the_same_step(
    stopped: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Before its last validation, between that and its checkpoint, and after it."""
    step, run = list_steps(stopped)[-1], tmp_path / "run"
    places: list[tuple[Any, str, Any]] = [
        (loop, "validate", lambda _, __, at: at),
        (Checkpoints, "save", lambda _, at, *__: at),
        (loop, "evaluate_best_checkpoint", lambda *_: step),
    ]
    for place, name, step_of in places:
        original = getattr(place, name)

        def fail(*args: Any, original: Any = original, step_of: Any = step_of) -> Any:
            if step_of(*args) == step:
                raise RunError("a failure")
            return original(*args)

        with monkeypatch.context() as patch, pytest.raises(RunError, match="a failure"):
            patch.setattr(place, name, fail)
            fit(run, patience=3)
    trainer.assert_same_end(fit(run, patience=3), stopped, step)
    fit(run, patience=4)
    alone = fit(tmp_path / "alone" / "run", patience=4)
    last = list_steps(run)[-1]
    assert last > step
    assert trainer.checksums(run, last) == trainer.checksums(alone, last)
    assert trainer.metrics(run) == trainer.metrics(alone)


def test_a_callback_gets_each_validation_and_ends_the_run(
    stopped: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Its own arrays can be of jax. What it raises leaves a run that resumes."""
    run, seen = tmp_path / "run", list[Metrics]()
    for error in (ValueError("no"), OSError(errno.ENOSPC, "full", "elsewhere")):

        def fail(metrics: Metrics, error: Exception = error) -> bool:
            seen.append(metrics)
            raise error

        with pytest.raises(type(error)) as raised:
            fit(run, patience=3, callback=fail)
        assert raised.value is error
    fit(run, patience=3, callback=lambda _: jax.numpy.ones(3).sum() and np.True_)
    assert list_steps(run)[-1] == 30
    assert "; ended by a callback\n" in capsys.readouterr().out
    fit(run, patience=3, callback=seen.append)
    step = list_steps(stopped)[-1]
    assert [metrics.step for metrics in seen] == [10, 20, *range(40, step + 1, 10)]
    assert seen[-1] == logs.read(run, Metrics)[-1]
    assert trainer.checksums(run, step) == trainer.checksums(stopped, step)


@pytest.mark.parametrize(
    ("name", "value"), [("train.patience", 3), ("callback", print)]
)
def test_without_validation_nothing_can_end_early(
    tmp_path: Path, name: str, value: Any
) -> None:
    with pytest.raises(UserError, match=rf"^{name}: .*needs a validation split"):
        fit(tmp_path / "run", validation=False, **{name.removeprefix("train."): value})
    assert not (tmp_path / "run").exists()
