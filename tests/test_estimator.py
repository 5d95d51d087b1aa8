"""`RNNClassifier`, the scikit-learn estimator."""

import pickle
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sklearn.utils.estimator_checks import estimator_checks_generator

import rnnmnist
from rnnmnist.errors import UserError
from rnnmnist.runs import logs
from rnnmnist.runs.workdir import list_steps

SETTINGS: dict[str, Any] = {"cell": "lstm", "hidden_size": 8, "num_layers": 1}
SETTINGS |= {"batch_size": 8, "num_steps": 60, "learning_rate": 2e-2}
SETTINGS |= {"settings": {"num_devices": 1}}
Y = np.array(["low", "high", "middle"])[np.arange(60) % 3]
X = np.random.default_rng(0).normal(np.arange(60)[:, None, None] % 3, 0.3, (60, 12, 2))


def new(**changes: Any) -> Any:
    return rnnmnist.RNNClassifier(**SETTINGS | changes)


CHECKS = list(estimator_checks_generator(new()))
assert len(CHECKS) >= 56  # one of them is skipped


@pytest.mark.slow
@pytest.mark.usefixtures("fast_programs")
@pytest.mark.parametrize(
    ("estimator", "check"),
    CHECKS,
    ids=lambda value: getattr(getattr(value, "func", value), "__name__", ""),
)
@pytest.mark.filterwarnings("default::sklearn.exceptions.SkipTestWarning")
def test_the_scikit_learn_checks_pass(estimator: Any, check: Any) -> None:
    check(estimator)


@pytest.mark.slow
@pytest.mark.usefixtures("fast_programs")
def test_a_run_in_a_folder_is_resumed(tmp_path: Path, capfd: Any) -> None:
    classifier = new().fit(X, Y)
    assert classifier.workdir_ is None
    assert capfd.readouterr() == ("", "")

    kept = new(workdir=tmp_path / "run", verbose=True)
    assert kept.fit(X, Y).workdir_ == tmp_path / "run"
    assert "step 60/60" in capfd.readouterr().out
    kept.fit(X, Y)
    assert "complete at step 60" in capfd.readouterr().out
    with pytest.raises(UserError, match=r"^workdir: .*trained on data other"):
        kept.fit(2 * X, Y)


@pytest.mark.slow
def test_a_pickle_contains_the_network(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The pickle contains neither sequences nor optimizer state. The cell is custom."""
    monkeypatch.chdir(tmp_path)
    Path("own.py").write_text("from flax.linen import GRUCell as Own\n")
    classifier = new(cell="own.py:Own", hidden_size=128, num_steps=1).fit(X, Y)
    content = pickle.dumps(classifier)
    monkeypatch.chdir("/")
    loaded = pickle.loads(content)
    np.testing.assert_array_equal(loaded.predict_proba(X), classifier.predict_proba(X))
    assert len(content) < 1.5 * 4 * classifier.model_.num_parameters


@pytest.mark.slow
@pytest.mark.usefixtures("fast_programs")
def test_a_fit_reports_the_chosen_network_and_its_accuracy() -> None:
    filters = rnnmnist.RNNClassifier(hidden_size=10).fit(X, Y, groups=np.arange(60) % 9)
    assert filters.cell_ == "filters"
    assert filters.model_.reason == "for fewer than 2,000 training sequences"
    metrics = filters.model_.validation_metrics
    assert metrics is not None
    assert filters.leave_one_out_score_ == metrics.accuracy > 0.9
    assert metrics.split == "leave_one_group_out"
    assert pickle.loads(pickle.dumps(filters)).model_.reason == filters.model_.reason

    trained = new().fit(X, Y)
    assert (trained.cell_, trained.model_.reason) == ("lstm", None)
    assert not hasattr(trained, "leave_one_out_score_")


@pytest.mark.slow
@pytest.mark.usefixtures("fast_programs")
def test_lists_and_arrays_are_classified() -> None:
    lists = [values[: 6 + index % 7] for index, values in enumerate(X)]
    classifier = new().fit(lists, Y)
    assert classifier.classes_.tolist() == ["high", "low", "middle"]
    assert classifier.score(lists, Y) > 0.9
    assert classifier.predict(X).shape == (60,)
    with pytest.raises(UserError, match="features"):
        classifier.predict(X[..., :1])
    numbers = [values[:, 0].tolist() for values in lists]  # one feature
    assert new().fit(numbers, Y).predict(numbers).shape == (60,)


# Arguments of `fit` or parameters of the classifier, and the start of the message.
WRONG: list[tuple[dict[str, Any], str]] = [
    ({"num_steps": "many"}, "train.num_steps: "),
    ({"settings": {"schedul": "none"}}, "schedul: .*'schedule'"),
    ({"settings": {"workdir": "x"}}, "workdir: "),
    (
        {"settings": {"num_steps": 3}},
        "settings: num_steps is determined by a parameter",
    ),
    ({"settings": {"patience": 3}, "early_stopping": True}, "settings: patience "),
    ({"early_stopping": True, "batch_size": "16"}, "train.batch_size: "),
    ({"random_state": -1}, "seed: "),
    ({"early_stopping": True, "n_iter_no_change": 0}, "train.patience: "),
    ({"class_weight": {"heigh": 5, "low": 1}}, "train.class_weight: .*'heigh'"),
    ({"y": ["one"] * 60}, "y: must have at least 2 classes"),
    ({"y": np.ma.masked_equal(np.arange(60) % 3, 1)}, "y: contains masked values"),
    ({"X": np.ma.masked_greater(X, 1)}, "X: contains masked values"),
    ({"X": np.where(X > 2, np.nan, X)}, '.*missing="forward_fill".* lengths'),
    ({"X": np.array([*X[:59], X[59, :5]], object)}, r"X: .*list\(X\)"),
]


@pytest.mark.parametrize(("arguments", "start"), WRONG, ids=lambda value: "")
def test_an_error_identifies_the_invalid_parameter_or_array(
    arguments: dict[str, Any], start: str
) -> None:
    arrays = {"X": X, "y": Y}
    parameters = {name: arguments[name] for name in arguments.keys() - arrays.keys()}
    arrays |= {name: arguments[name] for name in arguments.keys() & arrays.keys()}
    with pytest.raises(UserError, match=f"^{start}"):
        new(**parameters).fit(**arrays)


@pytest.mark.slow
def test_early_stopping_selects_the_kept_checkpoint_with_the_lowest_loss(
    tmp_path: Path,
) -> None:
    """There are few validation sequences. Then the best checkpoint is deleted."""
    stopping = new(
        workdir=tmp_path, early_stopping=True, n_iter_no_change=3, num_steps=40
    )
    loss: dict[int, float] = {}
    for lost in (None, "lowest"):
        if lost is not None:
            shutil.rmtree(tmp_path / str(min(loss, key=loss.__getitem__)))
        stopping.fit(X, Y)
        kept = list_steps(tmp_path)
        loss = {
            line.step: line.loss
            for line in logs.read(tmp_path)
            if line.split == "validation" and line.step in kept
        }
        best = min(loss, key=loss.__getitem__)
        assert stopping.model_.checkpoint_step == best


@pytest.mark.slow
def test_early_stopping_selects_the_best_step_on_a_tenth_of_the_groups(
    tmp_path: Path,
) -> None:
    inputs, labels = np.tile(X, (10, 1, 1)), np.random.default_rng(1).permutation(Y)
    inputs += np.random.default_rng(2).normal(0, 0.1, inputs.shape)
    stopping = new(
        workdir=tmp_path, early_stopping=True, n_iter_no_change=3, num_steps=400
    )
    stopping.fit(inputs, np.tile(labels, 10), groups=np.arange(600) // 12)
    lines = [line for line in logs.read(tmp_path) if line.split != "train"]
    assert {line.examples for line in lines} == {60}
    last = lines[-1].step
    assert stopping.n_iter_ == pytest.approx(last * 8 / 540, abs=1)
    best = min(lines, key=lambda line: (-line.correct, line.step))
    assert stopping.model_.validation_metrics.step == best.step
    if last < 400:
        lowest = min(lines, key=lambda line: line.loss)
        assert lines.index(lowest) == len(lines) - 4
