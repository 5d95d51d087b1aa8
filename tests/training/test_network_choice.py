"""The number of sequences chooses the network unless the user or a checkpoint does."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support import called, output_of

import rnnmnist
from rnnmnist.config.files import find_config, load_config
from rnnmnist.config.resolving import choose_network, resolve
from rnnmnist.config.schema import Config
from rnnmnist.config.tasks import Task
from rnnmnist.runs.checkpoint_files import newest_readable
from rnnmnist.training.console import describe_choice
from rnnmnist.training.fit import configure

LABELS = np.arange(30) % 2
INPUTS = np.random.default_rng(0).normal(size=(30, 5, 1)) + LABELS[:, None, None]
LIMIT = load_config(find_config("files")).model.filters_below
# They ask for a trained network.
QUICK: dict[str, Any] = {"num_steps": 2, "hidden_size": 4, "num_layers": 1}
QUICK |= {"batch_size": 5, "num_devices": 1}


def cell_of(run: Path) -> str:
    _, header = newest_readable(run)
    assert header is not None
    return header.config.model.cell


def chosen(sequences: int, **settings: object) -> str:
    """Returns the cell of a run of `fit` on so many training sequences."""
    return choose_network(configure(settings), sequences).model.cell


def test_few_sequences_have_filters_and_many_a_trained_network() -> None:
    """Unless a setting that filters do not have is given."""
    assert chosen(LIMIT - 1) == "filters"
    assert chosen(LIMIT) == "lru"
    assert chosen(99, filters_below=99) == "lru"
    assert chosen(10**6, cell="filters") == "filters"
    assert chosen(10, cell="gru") == "gru"
    assert chosen(10, num_steps=8, filters_below=100) == "lru"
    recipe = load_config(find_config("files"))
    for name in ("train.num_steps", "train.learning_rate"):
        given = recipe.override({name: recipe.flat()[name] or 1})
        assert choose_network(given, 10).model.cell == "lru"
    for of_both in ({"class_weight": "balanced"}, {"num_seeds": 3}, {"seed": 1}):
        assert chosen(10, **of_both) == "filters"


@pytest.mark.parametrize(
    ("count", "cell", "default"), [(10, "filters", 1000), (LIMIT, "lru", 64)]
)
def test_a_size_is_that_of_filters_or_of_a_network(
    count: int, cell: str, default: int
) -> None:
    sizes = {"train": count, "validation": 0, "test": 0}
    task = Task("mine", 30, 2, ("a", "b"), sizes)
    for given in ({}, {"hidden_size": 200, "differences": False}):
        found = resolve(choose_network(configure(given), count), task).model
        assert found.cell == cell
        assert found.hidden_size == given.get("hidden_size", default)
        assert found.differences == given.get("differences", True)


def test_a_size_in_a_file_is_that_of_its_network() -> None:
    given = load_config(find_config("best")).override({"model.cell": "filters"})
    assert given.model.hidden_size is None


@pytest.mark.slow
def test_a_callback_and_early_stopping_ask_for_a_trained_network(
    tmp_path: Path,
) -> None:
    split = np.where(np.arange(30) < 8, "validation", "train")
    run = rnnmnist.fit(
        INPUTS,
        LABELS,
        workdir=tmp_path / "run",
        split=split,
        callback=lambda metrics: True,
        verbose=False,
    )
    assert cell_of(run) == "lru"
    classifier = rnnmnist.RNNClassifier(early_stopping=True, settings={"min_steps": 2})
    assert classifier.fit(INPUTS, LABELS).predictor_.config.model.cell == "lru"


def test_the_command_says_what_was_chosen_and_how_to_have_the_other(
    tmp_path: Path,
) -> None:
    np.savez(tmp_path / "mine.npz", inputs=INPUTS, labels=LABELS)
    data = ("--config=files", f"--config.data.path={tmp_path / 'mine.npz'}")
    printed = output_of(called("main", *data, f"--workdir={tmp_path / 'few'}"))
    assert f"fewer than {LIMIT:,} training sequences; model.cell=lru" in printed
    assert "leave one out" in printed
    assert cell_of(tmp_path / "few") == "filters"


@pytest.mark.slow
def test_a_resume_keeps_the_cell_of_its_checkpoint(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    few = rnnmnist.fit(INPUTS, LABELS, workdir=tmp_path / "few")
    assert cell_of(few) == "filters"
    many = rnnmnist.fit(INPUTS, LABELS, workdir=tmp_path / "many", **QUICK)
    assert cell_of(many) == "lru"
    assert "setting is given; model.cell=filters" in capsys.readouterr().out

    rnnmnist.fit(INPUTS, LABELS, workdir=few, filters_below=1)
    assert "complete at step 1" in capsys.readouterr().out
    rnnmnist.fit(INPUTS, LABELS, workdir=many, **QUICK)
    assert "complete at step 2" in capsys.readouterr().out
    with pytest.raises(rnnmnist.errors.UserError, match="belongs to another run"):
        rnnmnist.fit(INPUTS, LABELS, workdir=few, **QUICK)


def test_groups_of_a_classifier_are_left_out_as_a_whole() -> None:
    groups = np.arange(30) // 4
    classifier = rnnmnist.RNNClassifier().fit(INPUTS, LABELS, groups=groups)
    scores = classifier.predictor_.validation
    assert scores is not None
    assert scores.split == "leave_one_group_out"


@pytest.mark.xfail(strict=True, reason="takes it for a given setting")
def test_a_configuration_without_a_limit_gives_no_setting() -> None:
    task = Task("mine", 30, 2, ("a", "b"), {"train": 9, "validation": 0, "test": 0})
    config = resolve(Config().replace({"data.name": "files"}), task)
    assert "setting is given" not in (describe_choice(config.model) or "")


@pytest.mark.slow
@pytest.mark.xfail(strict=True, reason="takes it for a given setting")
def test_a_callback_is_no_given_setting(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    split = np.where(np.arange(30) < 8, "validation", "train")
    rnnmnist.fit(
        INPUTS,
        LABELS,
        workdir=tmp_path / "run",
        split=split,
        callback=lambda metrics: True,
    )
    printed = capsys.readouterr().out
    assert "a trained network, " in printed
    assert "setting is given" not in printed
