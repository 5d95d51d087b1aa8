"""The classifier with scikit-learn's interface."""

import pickle
import shutil
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
from sklearn.utils.estimator_checks import estimator_checks_generator
from support import called

import rnnmnist
from rnnmnist.data.sequences.validation import describe_swapped_axes
from rnnmnist.errors import UserError
from rnnmnist.runs import logs
from rnnmnist.runs.checkpoint_files import is_whole
from rnnmnist.runs.workdir import list_steps
from rnnmnist.runtime.compilation import compile_seconds

SETTINGS: dict[str, Any] = {"cell": "lstm", "hidden_size": 8, "num_layers": 1}
SETTINGS |= {"batch_size": 8, "num_steps": 60, "learning_rate": 2e-2}
SETTINGS |= {"settings": {"num_devices": 1}}
Y = np.array(["low", "high", "middle"])[np.arange(60) % 3]
X = np.random.default_rng(0).normal(np.arange(60)[:, None, None] % 3, 0.3, (60, 12, 2))


def new(**changes: Any) -> Any:
    return rnnmnist.RNNClassifier(**SETTINGS | changes)


@pytest.fixture(scope="module")
def fitted() -> Any:
    """A classifier after its fit, which no test changes."""
    return new().fit(X, Y)


CHECKS = list(estimator_checks_generator(new()))
assert len(CHECKS) >= 56  # of which one is skipped


@pytest.mark.slow
@pytest.mark.usefixtures("fast_programs")
@pytest.mark.parametrize(
    ("estimator", "check"),
    CHECKS,
    ids=lambda value: getattr(getattr(value, "func", value), "__name__", ""),
)
@pytest.mark.filterwarnings("default::sklearn.exceptions.SkipTestWarning")
def test_a_check_of_scikit_learn(estimator: Any, check: Any) -> None:
    check(estimator)


def test_it_classifies_arrays_and_lists(fitted: Any) -> None:
    """Lists of numbers, too, as `rnnmnist.fit` does."""
    assert fitted.classes_.tolist() == ["high", "low", "middle"]
    assert fitted.score(X, Y) == 1
    assert fitted.n_features_in_ == 2
    for wrong, message in (
        (X[..., :1], "features"),
        (np.ma.masked_greater(X, 1), "X: has masked values"),
    ):
        with pytest.raises(UserError, match=message):
            fitted.predict(wrong)
    lists = [one[: 6 + index % 7] for index, one in enumerate(X)]
    of_lists = new().fit(lists, Y)
    assert of_lists.score(lists, Y) > 0.9
    assert of_lists.predict([X[0, :9, :], X[1]]).shape == (2,)
    numbers = [one[:, 0].tolist() for one in lists]
    assert new().fit(numbers, Y).predict(numbers[:2]).shape == (2,)


# Arguments of `fit`, or parameters, and the start of the error.
WRONG: list[tuple[dict[str, Any], str]] = [
    ({"num_steps": "many"}, "train.num_steps: "),
    ({"batch_size": 0, "early_stopping": True}, "train.batch_size: "),
    ({"settings": {"schedul": "none"}}, "settings: schedul.*'schedule'"),
    ({"settings": {"features": "u"}}, "data.features: names u, "),
    ({"settings": ["num_devices"]}, "settings: "),
    ({"settings": {"workdir": "x"}}, "settings: workdir: "),
    ({"random_state": -1}, "random_state: "),
    ({"early_stopping": True, "cell": "filters"}, "early_stopping: "),
    ({"early_stopping": True, "n_iter_no_change": 0}, "n_iter_no_change: "),
    ({"missing": "ffill"}, "data.missing: "),
    ({"class_weight": {"heigh": 5, "low": 1}}, "train.class_weight: .*'heigh'"),
    ({"y": ["one"] * 60}, "y: has 1 class"),
    ({"y": np.ma.masked_equal(np.arange(60) % 3, 1)}, "y: has masked values"),
    ({"X": np.where(X > 2, np.nan, X)}, '.*missing="forward_fill"'),
    ({"X": [*np.where(X > 2, np.nan, X)]}, '.*missing="forward_fill"'),
    ({"early_stopping": True, "groups": Y}, ".*"),
]


@pytest.mark.parametrize(("given", "start"), WRONG, ids=lambda value: "")
def test_a_wrong_parameter_or_array_is_named(given: dict[str, Any], start: str) -> None:
    arrays = {"X": X, "y": Y, "groups": None}
    parameters = {name: given[name] for name in given.keys() - arrays.keys()}
    arrays |= {name: given[name] for name in given.keys() & arrays.keys()}
    with pytest.raises(UserError, match=f"^{start}"):
        new(**parameters).fit(**arrays)


@pytest.mark.slow
def test_early_stopping_takes_the_lowest_loss_of_a_tenth(tmp_path: Path) -> None:
    """Of whole groups, if there are any; over enough sequences, the best step."""
    noise = np.random.default_rng(1).permutation(Y)
    stop = {"early_stopping": True, "n_iter_no_change": 3, "num_steps": 400}
    groups = np.arange(600) // 12
    for copies, size, more in ((1, 6, {}), (10, 60, {"groups": groups})):
        inputs, labels = np.tile(X, (copies, 1, 1)), np.tile(noise, copies)
        workdir = tmp_path / str(copies)
        new_one = new(workdir=workdir, **stop).fit(inputs, labels, **more)
        lines = [line for line in logs.read(workdir) if line.split != "train"]
        assert {line.examples for line in lines} == {size}
        steps = [line.step for line in lines]
        updates = round(len(labels) / 8)
        assert all(step % updates == 0 or step == 400 for step in steps)
        trained = len(labels) - size
        assert new_one.n_iter_ == pytest.approx(steps[-1] * 8 / trained, abs=1)
        lowest = min(lines, key=lambda line: line.loss)
        best = min(lines, key=lambda line: (-line.correct, line.step))
        assert new_one.model_.validation_metrics == (lowest if size < 50 else best)
        if steps[-1] < 400:
            assert lines.index(lowest) == len(lines) - 4
    assert len(new_one.model_.task.validation_groups) == 5
    settings = {"num_devices": 1, "keep_checkpoints": 9}
    new_one = new(settings=settings, **stop | {"num_steps": 10}).fit(X, noise)
    assert new_one.model_.config.train.keep_checkpoints == 9


@pytest.mark.slow
def test_fits_of_other_sequences_and_intervals_compile_nothing(fitted: Any) -> None:
    new(class_weight="balanced").fit(X, Y)
    before = compile_seconds()
    others = {"num_devices": 1, "log_every_steps": 7, "keep_checkpoints": 1}
    new(class_weight="balanced", settings=others).fit(X[:33], Y[np.arange(33) * 2 % 41])
    for seed, count in ((0, 60), (1, 59), (0, 33)):
        again = new(random_state=np.int64(seed)).fit(X[:count], Y[:count]).model_
        is_same = again.params_sha256 == fitted.model_.params_sha256
        assert is_same == ((seed, count) == (0, 60))
    assert compile_seconds() == before


def test_a_folder_lives_as_long_as_its_network(tmp_path: Path, capfd: Any) -> None:
    classifier = new().fit(X, Y)
    first = classifier.workdir_
    assert capfd.readouterr() == ("", "")
    assert called("evaluate", f"--workdir={first}", "--split=train").returncode == 0
    second = classifier.fit(X, Y).workdir_
    assert second.exists()
    assert not first.exists()
    del classifier
    assert not second.exists()

    kept = new(workdir=tmp_path / "run", verbose=True)
    assert kept.fit(X, Y).workdir_ == tmp_path / "run"
    assert "step 60/60" in capfd.readouterr().out
    with pytest.raises(UserError, match=r"^workdir: .*run has a run.*; name another"):
        kept.fit(X, Y)


@pytest.mark.slow
def test_a_pickle_carries_the_checkpoint() -> None:
    """Not the folder, which another process does not have, or the optimizer's state."""
    classifier = new(hidden_size=128, num_steps=1).fit(X, Y)
    leaves = jax.tree.leaves(classifier.__getstate__())
    assert not any(isinstance(leaf, jax.Array) for leaf in leaves)
    content = pickle.dumps(classifier)
    shutil.rmtree(classifier.workdir_)
    loaded = pickle.loads(content)
    np.testing.assert_array_equal(loaded.predict_proba(X), classifier.predict_proba(X))
    assert len(content) < 1.5 * 4 * classifier.model_.num_parameters
    (step,) = list_steps(loaded.workdir_)
    assert is_whole(loaded.workdir_ / str(step))


def test_class_weights_are_of_labels() -> None:
    labels = (np.arange(60) % 3).astype(float)
    noise = np.random.default_rng(1).normal(size=X.shape)
    heavy = new(class_weight={0: 1000.0, 1: 0.01, 2: 0.01, 3: 5}).fit(noise, labels)
    weights = heavy.model_.config.train.class_weight
    assert weights == (("0.0", 1000), ("1.0", 0.01), ("2.0", 0.01))
    assert (heavy.predict(noise) == 0.0).mean() > 0.9


def test_missing_values_are_filled() -> None:
    gaps = np.where(X > 2, np.nan, X)
    assert new(missing="zero").fit(gaps, Y).predict(gaps).shape == (60,)


@pytest.mark.slow
def test_swapped_axes_are_warned_of_once(tmp_path: Path) -> None:
    """The collections of aeon are [n, features, time]. Lists and names are clear."""
    swapped = X.swapaxes(1, 2)
    assert describe_swapped_axes(list(swapped)) is None
    names = [f"sensor {number}" for number in range(12)]
    settings: dict[str, Any] = {"cell": "filters", "hidden_size": 10}
    rnnmnist.fit(swapped, Y, workdir=tmp_path, feature_names=names, **settings)
    message = r"pass inputs\.swapaxes\(1, 2\)"
    with pytest.warns(rnnmnist.DataWarning, match=message) as warned:
        new(num_steps=1, verbose=True).fit(swapped, Y)
    assert len(warned) == 1


def test_a_far_value_is_warned_of() -> None:
    far = X.copy()
    far[0, 0, 0] = 1e9
    with pytest.warns(rnnmnist.DataWarning, match=r"0 \(1e\+09\)") as warned:
        rnnmnist.RNNClassifier(hidden_size=10).fit(far, Y)
    assert len(warned) == 1
