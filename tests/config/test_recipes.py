"""The number of sequences chooses the network unless the user or a checkpoint does."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support import called, output_of

import rnnmnist
from rnnmnist.config.files import find_config, load_config
from rnnmnist.config.recipes import FEW_SEQUENCES, Given, choose_config, load_named
from rnnmnist.config.resolving import resolve
from rnnmnist.config.schema import Config
from rnnmnist.config.tasks import Task
from rnnmnist.errors import UserError

LABELS = np.arange(30) % 2
INPUTS = np.random.default_rng(0).normal(size=(30, 5, 1)) + LABELS[:, None, None]
# They ask for a trained network.
QUICK: dict[str, Any] = {"num_steps": 2, "hidden_size": 4, "num_layers": 1}
QUICK |= {"batch_size": 5, "num_devices": 1}
FILTERS, TRAINED = (load_config(find_config(name)) for name in ("filters", "trained"))


def chosen(
    sequences: int,
    settings: Mapping[str, object] = {},
    saved: Config | None = None,
) -> tuple[str, str | None]:
    """Returns the cell that the rule chooses, and why."""
    config, reason = choose_config(Given(None, settings), sequences, saved)
    return config.model.cell, reason


def test_few_sequences_have_filters_and_many_a_trained_network() -> None:
    cell, reason = chosen(FEW_SEQUENCES - 1)
    assert (cell, str(FEW_SEQUENCES)[0] in str(reason)) == ("filters", True)
    assert chosen(FEW_SEQUENCES)[0] == "lru"
    of_both: list[dict[str, object]] = [
        {"train.class_weight": "balanced"},
        {"num_seeds": 3},
        {"seed": 1},
    ]
    for settings in of_both:
        assert chosen(10, settings)[0] == "filters"
        assert chosen(10**6, settings)[0] == "lru"


@pytest.mark.parametrize("name", ["train.num_steps", "train.learning_rate"])
def test_a_setting_of_training_asks_for_a_trained_network(name: str) -> None:
    value = TRAINED.flat()[name] or 1
    assert chosen(10, {name: value}) == ("lru", f"since {name} is given")


def test_a_cell_that_is_given_needs_no_reason() -> None:
    assert chosen(10**6, {"model.cell": "filters"}) == ("filters", None)
    assert chosen(10, {"model.cell": "gru"}) == ("gru", None)


def test_a_run_keeps_its_kind_of_network() -> None:
    assert chosen(10**6, saved=FILTERS)[0] == "filters"
    assert chosen(10, saved=TRAINED)[0] == "lru"


def test_a_callback_is_no_given_setting() -> None:
    given = Given(None, argument="callback")
    config, reason = choose_config(given, 10, None)
    assert (config.model.cell, reason) == ("lru", "since callback is given")


@pytest.mark.parametrize("name", ["filters", "trained", "best"])
def test_a_named_configuration_is_used_as_it_is(name: str) -> None:
    config = load_named(name)
    assert config is not None
    for sequences in (10, 10**6):
        found = choose_config(Given(config, {"seed": 3}), sequences, TRAINED)
        assert found == (config.replace({"seed": 3}), None)


def test_weights_of_classes_are_those_of_the_run_unless_they_are_given() -> None:
    weights = (("a", 1.0), ("b", 2.0))
    saved = TRAINED.replace({"train.class_weight": weights})
    for config in (None, TRAINED):
        found, _ = choose_config(Given(config), 10, saved)
        assert found.train.class_weight == weights
        given = Given(config, {"train.class_weight": "balanced"})
        found, _ = choose_config(given, 10, saved)
        assert found.train.class_weight == "balanced"


@pytest.mark.parametrize(
    ("count", "cell", "default"), [(10, "filters", 1000), (FEW_SEQUENCES, "lru", 64)]
)
def test_a_size_is_that_of_filters_or_of_a_network(
    count: int, cell: str, default: int
) -> None:
    sizes = {"train": count, "validation": 0, "test": 0}
    task = Task("mine", 30, 2, ("a", "b"), sizes)
    changes: list[dict[str, object]] = [
        {},
        {"model.hidden_size": 200, "model.differences": False},
    ]
    for given in changes:
        found = resolve(choose_config(Given(None, given), count, None)[0], task).model
        assert found.cell == cell
        assert found.hidden_size == given.get("model.hidden_size", default)
        assert found.differences == given.get("model.differences", True)


def test_filters_refuse_the_settings_of_a_configuration_of_a_network() -> None:
    given = Given(load_named("best"), {"model.cell": "filters"})
    config, _ = choose_config(given, 10, None)
    sizes = {"train": 9, "validation": 9, "test": 9}
    task = Task("mine", 28, 28, ("a", "b"), sizes, image_shape=(28, 28))
    with pytest.raises(UserError, match=r"configuration filters"):
        resolve(config, task)


def test_filters_read_images() -> None:
    given = Given(load_named("filters"), {"data.name": "mnist"})
    config, _ = choose_config(given, 10, None)
    sizes = {"train": 9, "validation": 9, "test": 9}
    task = Task("mine", 28, 28, ("a", "b"), sizes, image_shape=(28, 28))
    assert resolve(config, task).model.cell == "filters"


@pytest.mark.slow
def test_a_callback_and_early_stopping_ask_for_a_trained_network(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    split = np.where(np.arange(30) < 8, "validation", "train")
    model = rnnmnist.fit(
        INPUTS,
        LABELS,
        workdir=tmp_path / "run",
        split=split,
        callback=lambda metrics: True,
    )
    assert model.config.model.cell == "lru"
    assert "a trained network, since callback is given" in capsys.readouterr().out
    classifier = rnnmnist.RNNClassifier(early_stopping=True, settings={"min_steps": 2})
    assert classifier.fit(INPUTS, LABELS).model_.config.model.cell == "lru"


def test_the_command_says_what_was_chosen_and_how_to_have_the_other(
    tmp_path: Path,
) -> None:
    np.savez(tmp_path / "mine.npz", inputs=INPUTS, labels=LABELS)
    data = ("--config=files", f"--config.data.path={tmp_path / 'mine.npz'}")
    printed = output_of(called("main", *data, f"--workdir={tmp_path / 'few'}"))
    reason = f"fewer than {FEW_SEQUENCES:,} training sequences"
    assert f"random filters, for {reason}; model.cell=lru" in printed
    assert "leave one out" in printed
    assert rnnmnist.load(tmp_path / "few").config.model.cell == "filters"


@pytest.mark.slow
def test_a_resume_keeps_the_cell_of_its_checkpoint(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    few, many = tmp_path / "few", tmp_path / "many"
    assert rnnmnist.fit(INPUTS, LABELS, workdir=few).config.model.cell == "filters"
    trained = rnnmnist.fit(INPUTS, LABELS, workdir=many, **QUICK)
    assert trained.config.model.cell == "lru"
    assert "is given; model.cell=filters" in capsys.readouterr().out

    rnnmnist.fit(INPUTS, LABELS, workdir=many, **QUICK)
    assert "complete at step 2" in capsys.readouterr().out
    with pytest.raises(UserError, match="belongs to another run"):
        rnnmnist.fit(INPUTS, LABELS, workdir=few, **QUICK)


def test_groups_of_a_classifier_are_left_out_as_a_whole() -> None:
    groups = np.arange(30) // 4
    classifier = rnnmnist.RNNClassifier().fit(INPUTS, LABELS, groups=groups)
    scores = classifier.model_.validation_metrics
    assert scores is not None
    assert scores.split == "leave_one_group_out"
