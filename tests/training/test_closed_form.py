"""Runs with random filters, whose head is fitted in closed form."""

import functools
import json
import os
import shutil
import signal
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pandas as pd
import pytest
from support import called, data_warnings, output_of

import rnnmnist
from rnnmnist.errors import UserError
from rnnmnist.runs import logs
from rnnmnist.runs.checkpoints import read_arrays
from rnnmnist.runs.records import Record
from rnnmnist.runs.workdir import list_steps
from rnnmnist.runtime.machine import Memory
from rnnmnist.training import closed_form, resume, ridge
from rnnmnist.training.closed_form import LAST_STEP

COUNT, TIME = 60, 30
LABELS = np.array(["high", "low", "middle"])[np.arange(COUNT) % 3]
# Oscillations whose frequency depends on the class.
PHASES = np.random.default_rng(0).uniform(0, 6, (COUNT, 1))
SPEEDS = np.array([1.5, 0.3, 0.8])[np.arange(COUNT) % 3, None]
NOISE = np.random.default_rng(1).normal(size=(COUNT, TIME, 2))
INPUTS = np.sin(SPEEDS * np.arange(TIME) + PHASES)[..., None] + 0.5 * NOISE
LENGTHS = np.random.default_rng(2).integers(5, TIME + 1, COUNT)
SETTINGS: dict[str, Any] = {"cell": "filters", "hidden_size": 40, "num_devices": 1}


def fit(workdir: Path, **changes: Any) -> Path:
    arguments: dict[str, Any] = {"inputs": INPUTS, "labels": LABELS}
    rnnmnist.fit(workdir=workdir, **arguments | SETTINGS | changes)
    return workdir


def filters_of(workdir: Path) -> dict[str, np.ndarray]:
    params = read_arrays(workdir, LAST_STEP, "params")
    filters: dict[str, np.ndarray] = params["filters"]
    return filters


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Returns a run on sequences of different lengths."""
    return fit(tmp_path_factory.mktemp("runs") / "run", lengths=LENGTHS)


def test_a_run_is_one_update_with_leave_one_out_validation(
    run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (line,) = logs.read(run)
    assert (line.split, line.step, line.examples) == ("leave_one_out", LAST_STEP, COUNT)
    assert line.accuracy > 0.8
    header = Record(run).headers[LAST_STEP]
    assert header.metrics is not None
    assert (header.metrics.loss, header.metrics.correct) == (line.loss, line.correct)
    assert header.task.examples == {"train": COUNT, "validation": 0, "test": 0}
    fit(run, lengths=LENGTHS)
    printed = capsys.readouterr().out
    assert "\ncomplete at step 1\n" in printed
    assert f"leave-one-out {100 * line.accuracy:.2f} % ({line.correct} of 60; " in (
        printed
    )
    assert logs.read(run) == [line]
    with pytest.raises(UserError, match=r"model\.hidden_size=41"):
        fit(run, lengths=LENGTHS, hidden_size=41)


@pytest.mark.slow
def test_streams_and_batches_of_any_size_predict_alike(tmp_path: Path) -> None:
    """Some sequences are longer than all training sequences.

    Next to spikes, rounding decides whether a filter output is above its threshold.
    """
    inputs = np.concatenate([INPUTS, INPUTS[::-1]], axis=1)[..., :1]
    inputs += 1e7 * (np.random.default_rng(3).random(inputs.shape) < 0.01)
    run = fit(tmp_path / "run", inputs=inputs)
    model = rnnmnist.load(run)
    ends = np.array([50, 60, 3, 1, *[TIME] * 56])
    together = model.classify(inputs, ends)
    over_time = model.classify(inputs, ends, every_step=True)
    for index in range(4):
        end = ends[index]
        alone = model.classify(inputs[index : index + 1, :end])
        np.testing.assert_allclose(alone[0], together[index], atol=1e-5)
        state = model.start()
        for time in range(end):
            state, found = model.step(state, inputs[index, time])
            np.testing.assert_allclose(found, over_time[index, time], atol=1e-5)
        np.testing.assert_allclose(found, together[index], atol=1e-5)


@pytest.mark.slow
def test_members_of_an_ensemble_are_the_draws_of_their_seeds(
    run: Path, tmp_path: Path
) -> None:
    other = fit(tmp_path / "other", lengths=LENGTHS, seed=1)
    both = fit(tmp_path / "both", lengths=LENGTHS, num_seeds=2, num_devices=2)
    params = read_arrays(both, LAST_STEP, "params")
    close = functools.partial(np.testing.assert_allclose, rtol=1e-4, atol=1e-5)
    for index, alone in enumerate((run, other)):
        expected = read_arrays(alone, LAST_STEP, "params")
        jax.tree.map(lambda a, b, i=index: close(a[i], b[0]), params, expected)
    assert (filters_of(other)["phase"] != filters_of(run)["phase"]).all()
    # The temperature of a single network is part of its head.
    temperatures = [rnnmnist.load(each).temperature for each in (run, both)]
    assert temperatures[0] == 1 != temperatures[1]


def test_several_processes_are_rejected(
    run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    header = Record(run).headers[LAST_STEP]
    monkeypatch.setattr(resume, "process_count", lambda: 2)
    with pytest.raises(UserError, match=r"^num_processes: must be 1 for .*filters"):
        resume.check_processes(header.config, header.task, LAST_STEP)


@pytest.mark.slow
def test_user_defined_splits_are_evaluated(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    split = np.array(["train", "validation", "test"])[np.arange(COUNT) // 3 % 3]
    run = fit(tmp_path / "run", split=split, class_weight="balanced")
    summary = capsys.readouterr().out.split("\n\n")[1]
    assert "leave-one-out" not in summary
    lines = [(line.split, line.examples) for line in logs.read(run)]
    assert lines == [("leave_one_out", 21), ("validation", 21)]
    (path,) = (run / "evaluation").iterdir()
    result = json.loads(path.read_text())
    assert (result["split"], result["examples"]) == ("test", 18)
    assert result["num_parameters"] == 5 * 40 * 3 + 3


def test_an_interrupted_run_is_repeated_by_the_same_call(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The run stops before the next member."""
    original = closed_form.fit_member

    def interrupt(*args: Any) -> Any:
        os.kill(os.getpid(), signal.SIGINT)
        return original(*args)

    with (
        monkeypatch.context() as patch,
        pytest.raises(KeyboardInterrupt, match="nothing was saved"),
    ):
        patch.setattr(closed_form, "fit_member", interrupt)
        fit(tmp_path / "run", lengths=LENGTHS, num_seeds=2)
    assert list_steps(tmp_path / "run") == []
    fit(tmp_path / "run", lengths=LENGTHS, num_seeds=2)
    assert list_steps(tmp_path / "run") == [LAST_STEP]


def test_whole_groups_are_left_out(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Each group has a label and a pattern that no other group has.

    The examples are not sorted by group.
    """
    groups = np.arange(COUNT) % 12
    labels = np.where(groups % 2, "odd", "even")
    patterns = np.random.default_rng(0).normal(size=(12, TIME, 2))
    inputs = patterns[groups] + 0.1 * NOISE
    data: dict[str, Any] = {"inputs": inputs, "labels": labels}
    fit(tmp_path / "alone", **data)
    run = fit(tmp_path / "run", groups=groups, **data)
    printed = capsys.readouterr().out
    (alone,) = logs.read(tmp_path / "alone")
    (line,) = logs.read(run)
    assert (alone.split, line.split) == ("leave_one_out", "leave_one_group_out")
    assert alone.accuracy > 0.9 > 0.7 > line.accuracy
    assert f"validation  leave-one-group-out {100 * line.accuracy:.2f}" in printed

    # Each group has five sequences. The table contains the group of each sequence.
    table = pd.read_csv(run / "evaluation" / "leave_one_group_out-1.csv")
    np.testing.assert_array_equal(table["group"], table["sequence"] % 12)
    is_correct = table["label"] == table["predicted"]
    expected = is_correct.groupby(table["group"].astype(str)).mean().to_dict()
    result = rnnmnist.load(run).evaluate()
    assert result.accuracy_by_group == pytest.approx(expected)


@pytest.mark.usefixtures("unrendered")
def test_left_out_predictions_are_kept_for_the_report(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A run that was killed after its checkpoint and then resumed also keeps them."""
    run = tmp_path / "run"
    labels = np.append(LABELS[:50], LABELS[49:59])  # the last ten are wrong
    settings: dict[str, Any] = {"labels": labels, "groups": np.arange(COUNT) % 7}
    settings["lengths"] = LENGTHS
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(Record, "save_result", stop)
        fit(run, **settings)
    path = run / "evaluation" / "leave_one_group_out-1.csv"
    assert not path.exists()
    fit(run, **settings)
    content = path.read_text()
    (line,) = logs.read(run)
    table = pd.read_csv(path)
    assert len(table) == COUNT
    assert (table["label"] == labels[table["sequence"]]).all()
    assert (table["label"] == table["predicted"]).sum() == line.correct < len(table)

    model = rnnmnist.load(run)
    report = model.report()
    assert report.result.split == "leave_one_group_out"
    assert (report.result.correct, report.result.loss) == (line.correct, line.loss)
    result = model.evaluate()
    assert result.split == "leave_one_group_out"
    assert np.trace(result.confusion) == line.correct
    shutil.rmtree(path.parent)
    assert rnnmnist.load(run).evaluate() == result
    fit(run, **settings)  # which is complete
    assert path.read_text() == content


def test_equal_sequences_are_left_out_together(tmp_path: Path) -> None:
    """Otherwise, noise sequences that occur twice would be classified correctly."""
    noise = np.random.default_rng(0).normal(size=(COUNT, TIME))
    twice, labels = np.repeat(noise, 2, axis=0), np.repeat(LABELS, 2)
    run = fit(tmp_path / "run", inputs=twice, labels=labels)
    (line,) = logs.read(run)
    assert (line.split, line.examples) == ("leave_one_out", 120)
    assert line.accuracy < 0.5
    groups = np.arange(120) // 2
    by_group = fit(tmp_path / "groups", inputs=twice, labels=labels, groups=groups)
    found, expected = (
        read_arrays(each, LAST_STEP, "state")["left_out"] for each in (run, by_group)
    )
    np.testing.assert_array_equal(found, expected)


def test_an_evaluation_counts_training_sequences(tmp_path: Path) -> None:
    """The network is evaluated on data in memory, and on a file of other sequences."""
    path = tmp_path / "data.npz"
    run = fit(tmp_path / "run", inputs=INPUTS[:50], labels=LABELS[:50])
    found = rnnmnist.load(run).evaluate(inputs=INPUTS[40:], labels=LABELS[40:])
    assert found.examples_seen_in_training == 10
    np.savez(path, inputs=INPUTS, labels=LABELS)
    flags = [f"--workdir={run}", f"--config.data.path={path}"]
    printed = output_of(called("evaluate", *flags))
    assert "; 50 of 60 also occur in the training data, so the accuracy" in printed
    (file,) = (run / "evaluation").glob("test-1-*.json")
    assert json.loads(file.read_text())["examples_seen_in_training"] == 50


def stop(*args: Any) -> None:
    raise KeyboardInterrupt


@pytest.mark.parametrize(
    "change",
    [{"groups": np.zeros(COUNT, int)}, {"inputs": np.ones((COUNT, TIME, 2))}],
    ids=["one group", "equal sequences"],
)
def test_identical_training_sequences_or_a_single_group_are_rejected(
    change: dict[str, Any], tmp_path: Path
) -> None:
    with data_warnings(), pytest.raises(UserError, match=r"^groups: all training"):
        fit(tmp_path / "run", **change)
    assert not (tmp_path / "run").exists()


def test_sequences_that_exceed_the_memory_are_rejected(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    memory = Memory(total=1 << 20, available=1 << 10)
    monkeypatch.setattr(ridge, "main_memory", lambda: memory)
    with pytest.raises(UserError, match=r"^model\.cell: filters .* 60 .*=lru"):
        fit(tmp_path / "run")
    assert not (tmp_path / "run").exists()
