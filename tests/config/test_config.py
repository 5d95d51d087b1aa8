"""Configurations: declarations, checks, files and command-line overrides."""

import dataclasses
import json
import math
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from support import REPOSITORY, TASK, run_config

from rnnmnist.commands import train
from rnnmnist.config.files import find_config, load_config
from rnnmnist.config.resolving import RunConfig, RunTrainConfig, resolve
from rnnmnist.config.schema import (
    DEFAULT_LAYERS,
    SETTINGS,
    Config,
    DataConfig,
    TrainConfig,
)
from rnnmnist.config.tasks import Task
from rnnmnist.data.image_sets import image_task
from rnnmnist.errors import UserError
from rnnmnist.training.optimizer import Schedule

CONFIGS = sorted((REPOSITORY / "configs").glob("*.py"))


def parse(*args: str) -> Config:
    config: Config = train.parse(["--config=embedded", *args]).config
    return config


def on_images(config: Config) -> RunConfig:
    """What a run with a configuration uses on its own images."""
    return resolve(config, image_task(config.data))


@pytest.mark.parametrize(
    ("name", "text", "value"),
    [
        ("train.learning_rate", "1", 1.0),
        ("train.num_steps", "1e3", 1000),
        ("tutorial_128", "true", True),
        ("data.data_dir", "~/some where", str(Path("~/some where").expanduser())),
        ("execution.num_devices", "none", None),
    ],
)
def test_an_override_takes_the_type_of_its_setting(
    name: str, text: str, value: object
) -> None:
    found = parse(f"--config.{name}={text}").flat()[name]
    assert found == value
    assert type(found) is type(value)


def test_an_override_can_be_two_arguments() -> None:
    args = ["--config.train.num_steps", "7", "--config.data.max_rotation", "-0.0"]
    joined = ["--config.train.num_steps=7", "--config.data.max_rotation=-0.0"]
    assert parse(*args) == parse(*joined)
    with pytest.raises(UserError, match=r"train\.learning_rate: must be .*, not '-1'"):
        parse("--config.train.learning_rate", "-1")
    with pytest.raises(UserError, match=r"--config\.seed: expected one argument"):
        parse("--config.seed", "--config.num_seeds", "2")
    with pytest.raises(UserError, match="stray argument '3'"):
        parse("--config.seed=2", "3")


@pytest.mark.parametrize(
    ("name", "allowed", "refused"),
    [
        ("seed", ("0", "1e3"), ("-1", "1.5", "1e12")),
        ("train.learning_rate", ("1e-9",), ("0", "-1", "nan")),  # both ends are open
        ("train.ema_decay", ("0", "0.99999"), ("-0.1", "1")),  # one of them is
    ],
)
def test_a_range_contains_its_closed_ends_only(
    name: str, allowed: tuple[str, ...], refused: tuple[str, ...]
) -> None:
    for text in allowed:
        assert SETTINGS[name].parse(text) == float(text)
    for text in refused:
        with pytest.raises(UserError, match=f"^{name}: .*{text}"):
            SETTINGS[name].parse(text)


@pytest.mark.parametrize(
    ("text", "part"),
    [
        ("x = (", "SyntaxError"),
        ("x = 1", "must define a function get_config()"),
        ("def get_config(): return {}", "not dict"),
        ("raise SystemExit(0)", "SystemExit"),
        (
            "from rnnmnist.config.schema import *\n"
            "def get_config(): return Config(train=TrainConfig(num_steps='5'))",
            "train.num_steps",
        ),
    ],
)
def test_an_invalid_configuration_file_is_named_in_the_error(
    tmp_path: Path, text: str, part: str
) -> None:
    path = tmp_path / "mine.py"
    path.write_text(text)
    with pytest.raises(UserError, match=r"mine\.py|train\.num_steps") as error:
        parse(f"--config={path}")
    assert part in str(error.value)


def test_only_a_path_names_a_file_of_the_users(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A file with the name of a shipped configuration is not run instead of it."""
    monkeypatch.chdir(tmp_path)
    for name in ("filters", "mine", "mine.py"):
        Path(name).write_text("")
    assert find_config("filters") == REPOSITORY / "configs/filters.py"
    assert find_config("mine.py") == tmp_path / "mine.py"
    assert find_config("./filters") == tmp_path / "filters"
    for absent in ("mine", "filters.py", "configs/filters.py"):
        with pytest.raises(
            UserError, match=f"^config: there is no configuration {absent}; "
        ):
            find_config(absent)


def test_the_default_configuration_has_the_defaults_of_the_schema() -> None:
    config = resolve(load_config(REPOSITORY / "configs/default.py"), TASK)
    found = config.replace({"train.log_every_steps": 43})
    assert found == resolve(Config(), TASK)


def test_a_run_has_a_value_for_what_a_user_leaves_to_its_default() -> None:
    config = resolve(Config(), TASK)
    unset = [name for name, value in Config().flat().items() if value is None]
    filled = [name for name in unset if config.flat()[name] is not None]
    assert {"model.hidden_size", "train.batch_size", "train.num_steps"} <= {*filled}
    for name in filled:
        with pytest.raises(UserError, match=f"^{name}: must be .*, not None$"):
            config.replace({name: None})


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
@pytest.mark.parametrize("num_steps", [1, 10_000])
def test_a_resolved_configuration_is_that_of_its_run(
    path: Path, num_steps: int
) -> None:
    """Of every configuration that is shipped."""
    given = load_config(path)
    if given.model.fitting == "gradient":
        given = given.replace({"train.num_steps": num_steps})
    task = SEQUENCES if given.data.name == "files" else TASK
    config = resolve(given, task)
    assert resolve(config, task) == config
    for one, value in given.flat().items():
        assert value is None or config.flat()[one] == value
    for saved in (given, config):
        tree = json.loads(json.dumps(msgspec.to_builtins(saved)))
        assert resolve(Config.from_dict(tree), task) == config


def test_epochs_are_resolved_to_steps_of_the_reduced_batch() -> None:
    config = Config().replace({"train.num_epochs": 2.5, "train.batch_size": 16})
    assert resolve(config, sequences()).train.num_steps == 9  # of 60 examples
    changes = {"train.num_epochs": 7, "train.batch_size": 128}
    config = resolve(Config().replace(changes), sequences())
    assert config.train.num_steps == 7  # each of all examples
    assert config.train.num_epochs is None
    config = Config().replace({"train.num_epochs": 0.001})
    assert resolve(config, sequences()).train.num_steps == 1


def test_the_later_of_steps_and_epochs_wins(tmp_path: Path) -> None:
    def train(text: str, *args: str) -> RunTrainConfig:
        path = tmp_path / "mine.py"
        path.write_text(
            "from rnnmnist import Config, DataConfig, TrainConfig\n"
            "def get_config():\n"
            f"    return Config(data=DataConfig('mnist5k'), train=TrainConfig({text}))"
        )
        return on_images(parse(f"--config={path}", *args)).train

    steps, epochs = "--config.train.num_steps=7", "--config.train.num_epochs=2"
    assert train("num_steps=7", epochs).num_steps == 62
    assert train("num_epochs=2").num_steps == 62
    assert train("num_epochs=2", steps).num_steps == 7
    for text, args in (("num_steps=7, num_epochs=2", ()), ("", (steps, epochs))):
        with pytest.raises(UserError, match=r"num_epochs: 2.* both set the length"):
            train(text, *args)
    with pytest.raises(UserError, match=r"^train\.num_steps: must be at most 167"):
        train("num_epochs=1e6")


def test_a_run_of_any_length_is_validated_about_ten_times() -> None:
    for num_steps in (1, 19, 2000, 50_000):
        train = run_config({"train.num_steps": num_steps}).train
        assert 10 <= train.log_every_steps <= 100
        assert min(num_steps, 10) <= num_steps // train.eval_every_steps < 20
        given = {"train.log_every_steps": 3, "train.eval_every_steps": 4}
        train = run_config(given | {"train.num_steps": num_steps}).train
        assert (train.log_every_steps, train.eval_every_steps) == (3, 4)


def test_an_unknown_setting_in_a_saved_configuration_is_refused() -> None:
    tree = msgspec.to_builtins(Config())
    tree["train"]["momentum"] = 0.9
    with pytest.raises(UserError, match=r"^train\.momentum: no such setting"):
        Config.from_dict(tree)
    for name, value in (("optimizer", 3), ("train", 7)):
        with pytest.raises(UserError, match=f"^{name}: no such setting"):
            Config.from_dict(msgspec.to_builtins(Config()) | {name: value})


def test_a_setting_that_was_added_since_has_its_default() -> None:
    config = Config().replace({"seed": 3, "train.num_steps": 7})
    for name in ("num_seeds", "train.num_steps", "model.cell"):
        tree = msgspec.to_builtins(config)
        section, _, key = name.rpartition(".")
        del (tree[section] if section else tree)[key]
        expected = config.replace({name: SETTINGS[name].default})
        assert Config.from_dict(tree) == expected


def sequences(**changes: Any) -> Task:
    """A task of sequences."""
    sizes = {"train": 60, "validation": 10, "test": 0}
    task = Task("mine", 30, 2, ("a", "b"), sizes)
    return dataclasses.replace(task, **changes)


SEQUENCES = sequences()


def test_a_batch_is_reduced_to_the_training_part() -> None:
    config = resolve(Config().replace({"train.batch_size": 128}), sequences())
    assert config.train.batch_size == 60


def test_the_batch_of_sequences_grows_with_their_number() -> None:
    files = load_config(find_config("trained"))
    sizes = []
    for count in (5, 100, 1000, 10_000, 1_000_000):
        task = sequences(examples={"train": count, "validation": 0, "test": 0})
        train = resolve(files, task).train
        assert train.batch_size <= count
        assert train.num_steps >= 600
        sizes.append(train.batch_size)
        given = files.replace({"train.batch_size": 3, "train.num_epochs": 1000})
        train = resolve(given, task).train
        assert (train.batch_size, train.num_steps) == (3, round(1000 * count / 3))
    assert sizes == sorted(sizes)
    assert (sizes[1], sizes[-1]) == (16, 128)


def test_a_setting_of_images_is_refused_for_sequences() -> None:
    for name, value in (("data.view", "columns"), ("tutorial_128", True)):
        config = Config().replace({name: value})
        resolve(config, TASK)
        with pytest.raises(UserError, match=rf"^{name}: .*mine"):
            resolve(config, SEQUENCES)


@pytest.mark.parametrize("cell", ["lru", "lstm"])
def test_the_recipe_of_files_depends_on_the_cell_and_on_the_length(cell: str) -> None:
    """Nothing but the cell has to be set."""
    recipe = parse("--config=files", f"--config.model.cell={cell}")
    for time_steps, given, window in (
        (500, None, 1),
        (501, None, 8),
        (501, 1, 1),
        (30, 12, 12),
    ):
        config = recipe.replace({"model.window": given})
        task = dataclasses.replace(sequences(), time_steps=time_steps)
        found = resolve(config, task)
        stride = {1: 1, 8: 2, 12: 3}[window]
        assert (found.model.window, found.model.stride) == (window, stride)
        assert found.model.num_layers == (DEFAULT_LAYERS if cell == "lru" else 1)
        assert found.train.num_steps == 600
    with pytest.raises(UserError, match=r"^model\.window: .* at most 30, the time"):
        resolve(recipe.replace({"model.window": 31}), sequences())
    images = dataclasses.replace(TASK, time_steps=784, features=1)
    assert resolve(Config(), images).model.window == 1


def test_a_cell_can_be_a_class_of_the_users() -> None:
    for cell in ("/x y/a.py:A", "a:A", "a.b.c:A"):
        assert Config().replace({"model.cell": cell}).model.is_user_cell
    for cell in ("ltsm", ":A", "a-b:A", "a.py:A\n", "a:A.B"):
        with pytest.raises(UserError, match=r"^model\.cell: ") as error:
            Config().replace({"model.cell": cell})
        assert repr(cell) in str(error.value)


@pytest.mark.parametrize(
    ("name", "value", "cells", "others"),
    [
        ("num_layers", 2, ("lru",), ("lstm", "filters", "a.py:A")),
        ("initializer", "tutorial", ("lstm", "gru"), ("lru", "a.py:A")),
        ("initializer", "chrono", ("lstm",), ("gru", "lru", "a.py:A")),
        # A checkpoint of a run that ignored it can still be read.
        ("forget_bias", 2.0, ("lstm",), ("gru", "filters")),
    ],
)
def test_some_settings_are_for_some_cells(
    name: str, value: object, cells: tuple[str, ...], others: tuple[str, ...]
) -> None:
    for cell in cells:
        run_config({"model.cell": cell, f"model.{name}": value})
    for cell in others:
        config = Config().replace({"model.cell": cell, f"model.{name}": value})
        with pytest.raises(UserError, match=rf"^model\.{name}: .*{value}"):
            resolve(config, TASK)


def test_sections_are_checked_on_construction() -> None:
    with pytest.raises(UserError, match=r"data\.max_shift: .* not True"):
        DataConfig(max_shift=True)
    for section in ({"num_steps": 3}, 3, DataConfig()):
        with pytest.raises(UserError, match=r"^train: must be a TrainConfig, not "):
            Config(train=section)  # type: ignore[arg-type]


@pytest.mark.parametrize("convert", [lambda number: number, np.array])
def test_numbers_of_numpy_are_those_of_python(convert: Any) -> None:
    pairs: dict[str, tuple[Any, Any]] = {
        "seed": (np.int64(3), 3),
        "train.learning_rate": (np.logspace(-3, -1, 3)[1], 0.01),
        "train.num_steps": (np.uint8(7), 7),
        "train.weight_decay": (np.float32(0.25), 0.25),
        "data.validation": (np.bool_(False), False),
        "model.cell": (np.str_("gru"), "gru"),
    }
    weight = convert(np.float32(0.5))
    given = {name: convert(number) for name, (number, _) in pairs.items()}
    config = Config().replace(given | {"train.class_weight": {"a": weight}})
    found = config.flat()
    assert found["train.class_weight"] == (("a", 0.5),)
    for name, (_, expected) in pairs.items():
        assert found[name] == expected
        assert type(found[name]) is type(expected)
    for value in (np.float64(0.5), np.bool_(True), np.array([3])):
        with pytest.raises(UserError, match=r"^seed: must be an integer"):
            Config(seed=convert(value))


def test_a_path_is_absolute_wherever_it_is_set(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = "data.path"
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    for text, path in (("a/b", "a/b"), ("~/b", "home/b"), (f"{tmp_path}/b", "b")):
        config = Config().replace({name: text})
        assert config.flat()[name] == str(tmp_path / path)
        assert SETTINGS[name].parse(text) == str(tmp_path / path)
        assert Config.from_dict(msgspec.to_builtins(config)) == config
    with pytest.raises(UserError, match=rf"^{name}: ~nobody here: "):
        Config().replace({name: "~nobody here"})


def test_values_of_other_types_are_refused_in_a_short_line() -> None:
    for value in (10**500, np.zeros((2, 2)), "x" * 1000):
        with pytest.raises(UserError, match=r"^seed: must be an integer") as error:
            Config(seed=value)  # type: ignore[arg-type]
        assert len(str(error.value)) < 150
        assert "\n" not in str(error.value)
    with pytest.raises(UserError, match=r"^train\.clip_norm: must be a number"):
        TrainConfig(clip_norm=math.inf)


def test_the_learning_rate_rises_linearly_and_decays_to_zero() -> None:
    settings = {"train.warmup_fraction": 0.1, "train.learning_rate": 1.0}
    config = run_config(settings | {"train.num_steps": 100}).train
    rates = [float(Schedule.create(config)(step)) for step in range(101)]
    assert rates[:11] == sorted(rates[:11])
    assert rates[0] == pytest.approx(1 / 11)
    assert rates[10] == pytest.approx(1.0)
    assert rates[10:] == sorted(rates[10:], reverse=True)
    assert rates[100] == pytest.approx(0.0, abs=1e-6)
