"""The cell depends on the number of sequences, unless the user or a run has set it."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support import called, output_of

import rnnmnist
from rnnmnist.config import recipes
from rnnmnist.config.files import find_config, load_config
from rnnmnist.config.recipes import (
    FEW_BINARY_SEQUENCES,
    FEW_SEQUENCES,
    Request,
    choose_config,
    load_config_by_name,
)
from rnnmnist.config.resolving import resolve
from rnnmnist.config.schema import Config, DataConfig
from rnnmnist.config.tasks import Task
from rnnmnist.data.datasets import open_data_source
from rnnmnist.data.sequences.checking import check_arrays

LABELS = np.arange(30) % 2
INPUTS = np.random.default_rng(0).normal(size=(30, 20, 1)) + LABELS[:, None, None]
FILTERS, TRAINED = (load_config(find_config(name)) for name in ("filters", "trained"))


def choose(
    sequences: int,
    settings: Mapping[str, object] = {},
    saved: Config | None = None,
) -> tuple[str, str | None]:
    """Returns the chosen cell and the reason for the choice."""
    config, reason = choose_config(Request(None, settings), saved, sequences)
    return str(config.model.cell), reason


def test_few_sequences_get_filters_and_many_get_a_trained_network() -> None:
    """A cell, a training setting, a callback or a resumed run overrides the rule."""
    assert load_config_by_name("files") is load_config_by_name(Path("files")) is None
    few, many = FEW_SEQUENCES - 1, FEW_SEQUENCES
    for settings in ({}, {"train.class_weight": "balanced"}):
        cell, reason = choose(few, settings)
        assert (cell, f"{FEW_SEQUENCES:,}" in str(reason)) == ("filters", True)
        assert choose(many, settings)[0] == "lru"
    for name in ("train.num_steps", "model.num_layers"):
        assert choose(few, {name: 1}) == ("lru", f"because {name} is set")
    config, reason = choose_config(Request(None, has_callback=True))
    assert (config.model.cell, reason) == ("lru", "because callback is set")
    assert choose(many, {"model.cell": "filters"}) == ("filters", None)
    assert choose(few, {"model.cell": "gru"}) == ("gru", None)
    assert choose(many, saved=FILTERS) == ("filters", None)
    assert choose(few, saved=TRAINED) == ("lru", None)


def test_binary_features_lower_the_threshold_for_a_trained_network() -> None:
    generator = np.random.default_rng(0)
    one_hot = np.eye(5)[generator.integers(5, size=(FEW_SEQUENCES - 1, 4))]
    one_hot[..., 0] = 7  # a constant feature
    one_hot[5, 0, 1] = np.nan
    lengths = generator.integers(1, 5, size=len(one_hot))
    one_hot[np.arange(4) >= lengths[:, None]] = 0.5  # the padding
    other = one_hot.copy()
    other[-1, 0, 2] = 0.5
    split = np.repeat(["train", "test"], [len(one_hot) - 1, 1])
    labels = np.arange(len(one_hot)) % 2
    limit = FEW_BINARY_SEQUENCES
    for inputs, splits, cell, count in (
        (one_hot, None, "lru", len(one_hot)),
        (one_hot, None, "lru", limit),
        (one_hot, None, "filters", limit - 1),
        (other, None, "filters", len(one_hot)),
        (other, split, "lru", len(one_hot)),
    ):
        sequences = check_arrays(inputs, labels, lengths=lengths, split=splits)
        config, reason = choose_config(
            Request(None), None, count, sequences.has_binary_features
        )
        assert config.model.cell == cell
        number = limit if inputs is one_hot or splits is not None else FEW_SEQUENCES
        assert f" {number:,} training sequences" in str(reason)
        assert ("with binary features" in str(reason)) == (number == limit)


@pytest.mark.slow
def test_binary_features_are_detected_in_arrays_and_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(recipes, "FEW_BINARY_SEQUENCES", len(LABELS))
    inputs = np.random.default_rng(0).integers(2, size=(30, 20, 1))
    np.savez(tmp_path / "mine.npz", inputs=inputs, labels=LABELS)
    data = DataConfig(name="files", path=str(tmp_path / "mine.npz"))
    assert open_data_source(data).has_binary_features()
    small: dict[str, Any] = {
        "workdir": tmp_path / "run",
        "hidden_size": 4,
        "verbose": False,
    }
    model = rnnmnist.fit(inputs, LABELS, **small)
    assert model.config.model.cell == "lru"
    reason = f"for at least {len(LABELS)} training sequences with binary features"
    assert model.reason == reason
    longer = rnnmnist.fit(inputs, LABELS, num_steps=610, **small)
    assert longer.record.headers[610].reason == reason


@pytest.mark.parametrize("name", ["filters", "trained", "best"])
def test_a_configuration_from_the_user_is_not_replaced(name: str) -> None:
    config = load_config_by_name(name)
    assert config is not None
    choice = choose_config(Request(config, {"seed": 3}), TRAINED, 10)
    assert choice == (config.replace({"seed": 3}), None)


@pytest.mark.parametrize(
    ("count", "cell", "default"), [(10, "filters", 1000), (FEW_SEQUENCES, "lru", 64)]
)
def test_the_default_hidden_size_depends_on_the_chosen_cell(
    count: int, cell: str, default: int
) -> None:
    sizes = {"train": count, "validation": 0, "test": 0}
    task = Task("mine", 30, 2, ("a", "b"), sizes)
    for settings, size in ({}, default), ({"model.hidden_size": 200}, 200):
        config, _ = choose_config(Request(None, settings), sequences=count)
        model = resolve(config, task).model
        assert (model.cell, model.hidden_size) == (cell, size)


@pytest.mark.slow
def test_the_command_prints_the_chosen_cell_and_the_alternative(
    tmp_path: Path,
) -> None:
    """The last call resumes the run and keeps its cell."""
    np.savez(tmp_path / "mine.npz", inputs=INPUTS, labels=LABELS)
    flags = ["--config=files", f"--config.data.path={tmp_path / 'mine.npz'}"]
    flags.append("--config.model.hidden_size=4")
    few = [*flags, f"--workdir={tmp_path / 'few'}"]
    many = [*flags, f"--workdir={tmp_path / 'many'}", "--config.train.num_steps=2"]
    output = output_of(called("main", *few))
    reason = f"fewer than {FEW_SEQUENCES:,} training sequences"
    assert f"random filters, for {reason}; to override, set model.cell=lru" in output
    assert "leave-one-out" in output
    output = output_of(called("main", *many))
    assert (
        "because train.num_steps is set; to override, set model.cell=filters" in output
    )
    assert "complete at step 2" in output_of(called("main", *many))
