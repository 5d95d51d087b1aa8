"""Configurations: settings, checks, files and overrides on the command line."""

import dataclasses
import json
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from support import REPOSITORY, TASK, run_config

from rnnmnist.commands import train
from rnnmnist.config.files import find_config, load_config
from rnnmnist.config.recipes import choose_config
from rnnmnist.config.resolving import resolve
from rnnmnist.config.schema import (
    DEFAULT_LAYERS,
    SETTINGS,
    Config,
    DataConfig,
    TrainConfig,
)
from rnnmnist.config.tasks import Task
from rnnmnist.errors import UserError
from rnnmnist.training.optimizer import compute_learning_rate

CONFIGS = sorted((REPOSITORY / "configs").glob("*.py"))
SIZES = {"train": 60, "validation": 0, "test": 0}
SEQUENCES = Task("mine", 30, 2, ("a", "b"), SIZES)


def parse(*args: str) -> Config:
    """Returns the configuration of a command line, without resolving it."""
    request = train.parse(["--config=embedded", *args]).request
    return choose_config(request)[0]


def test_an_override_is_converted_to_the_type_of_its_setting() -> None:
    for name, text, value in (
        ("train.learning_rate", "1", 1.0),
        ("train.num_steps", "1e3", 1000),
        ("train.ema_decay", "0.99999", 0.99999),  # an inclusive bound
        ("tutorial_128", "true", True),
        ("data.data_dir", "~/some where", str(Path("~/some where").expanduser())),
        ("execution.num_devices", "none", None),
    ):
        result = parse(f"--config.{name}={text}").flat()[name]
        assert result == value
        assert type(result) is type(value)
        assert parse(f"--config.{name}", text).flat()[name] == value


WRONG_VALUES: list[tuple[str, Any]] = [
    ("seed", -1),
    ("seed", 1.5),
    ("seed", np.array([3])),
    ("seed", "x" * 1000),
    ("train.learning_rate", 0),  # an exclusive bound
    ("train.learning_rate", float("nan")),
    ("train.clip_norm", float("inf")),
    ("data.max_shift", True),
    ("data.path", "~nobody here"),
    ("model.cell", "ltsm"),
    ("model.cell", "a.py:A\n"),
    ("model.cell", "a.py:A,1"),
    ("model.cell", "a.py:A,k=b-c"),
    ("model.cell", "a.py:A,k=1,k=2"),
    ("train.class_weight", {"a": 0}),
    ("train.class_weight", [5]),
    ("data.columns", "label=a,label=b"),
]


@pytest.mark.parametrize(("name", "value"), WRONG_VALUES, ids=lambda value: "")
def test_a_wrong_value_raises_a_short_one_line_error(name: str, value: Any) -> None:
    with pytest.raises(UserError, match=f"^{name}: ") as error:
        Config().replace({name: value})
    assert len(str(error.value)) < 250
    assert "\n" not in str(error.value)


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
def test_an_invalid_configuration_file_raises_an_error_with_its_path(
    tmp_path: Path, text: str, part: str
) -> None:
    path = tmp_path / "mine.py"
    path.write_text(text)
    with pytest.raises(UserError, match=r"mine\.py|train\.num_steps") as error:
        parse(f"--config={path}")
    assert part in str(error.value)


def test_a_configuration_file_must_be_passed_as_a_path(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A file in the current directory does not shadow a shipped configuration."""
    monkeypatch.chdir(tmp_path)
    for name in ("filters", "mine", "mine.py"):
        Path(name).write_text("")
    assert find_config("filters") == REPOSITORY / "configs/filters.py"
    assert find_config("mine.py") == tmp_path / "mine.py"
    assert find_config("./filters") == tmp_path / "filters"
    nothing: Any = None
    for absent in ("mine", "filters.py", "configs/filters.py", nothing):
        with pytest.raises(UserError, match=f"^config: .*{absent}"):
            find_config(absent)


def test_resolving_fills_in_defaults() -> None:
    config = resolve(Config(), TASK)
    none_names = [name for name, value in Config().flat().items() if value is None]
    names = [name for name in none_names if config.flat()[name] is not None]
    assert {"model.hidden_size", "train.batch_size", "train.num_steps"} <= {*names}
    for name in names:
        with pytest.raises(UserError, match=f"^{name}: must be .*, not None$"):
            config.replace({name: None})
    default = resolve(load_config(REPOSITORY / "configs/default.py"), TASK)
    assert default.replace({"train.log_every_steps": 43}) == config


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_resolving_twice_changes_nothing(path: Path) -> None:
    """This is true for every shipped configuration, and for a single training step."""
    recipe = load_config(path)
    task = SEQUENCES if recipe.data.name == "files" else TASK
    lengths = (None,) if recipe.model.is_closed_form else (None, 1)
    for num_steps in lengths:
        if num_steps is not None:
            recipe = recipe.replace({"train.num_steps": num_steps})
        config = resolve(recipe, task)
        assert resolve(config, task) == config
        for name, value in recipe.flat().items():
            is_num_epochs = name == "train.num_epochs"  # resolved to `num_steps`
            assert value is None or is_num_epochs or config.flat()[name] == value
        for saved_config in (recipe, config):
            tree = json.loads(json.dumps(msgspec.to_builtins(saved_config)))
            assert resolve(Config.from_dict(tree), task) == config


def test_the_last_value_of_num_steps_or_num_epochs_is_used() -> None:
    steps, epochs = {"train.num_steps": 7}, {"train.num_epochs": 2}
    steps_config, epochs_config = map(Config().replace, (steps, epochs))
    assert resolve(steps_config.replace(epochs), TASK) == resolve(epochs_config, TASK)
    assert resolve(epochs_config.replace(steps), TASK) == resolve(steps_config, TASK)
    recipe = Config().replace({"train.min_steps": 600})
    assert resolve(recipe.replace(epochs), TASK) == resolve(epochs_config, TASK)
    with pytest.raises(UserError, match=r"num_epochs: must not be set"):
        resolve(Config().replace(steps | epochs), TASK)


def test_epochs_are_converted_to_steps_with_at_most_the_training_split_per_batch() -> (
    None
):
    for epochs, batch_size, num_steps in ((2.5, 16, 9), (7, 128, 7), (0.001, 16, 1)):
        settings = {"train.num_epochs": epochs, "train.batch_size": batch_size}
        train = run_config(settings, SEQUENCES).train  # 60 sequences
        assert train.num_steps == num_steps
        assert train.num_epochs is None
        assert train.batch_size == min(batch_size, 60)


def test_every_run_is_validated_about_ten_times() -> None:
    for num_steps in (1, 19, 2000, 50_000):
        train = run_config({"train.num_steps": num_steps}).train
        assert 10 <= train.log_every_steps <= 100
        assert min(num_steps, 10) <= num_steps // train.eval_every_steps < 20


def test_a_configuration_saved_by_another_version_is_restored_or_rejected() -> None:
    """A missing setting gets its default. An unknown or invalid setting is an error."""
    config = Config().replace({"seed": 3, "train.num_steps": 7})
    tree = msgspec.to_builtins(config)
    del tree["num_seeds"], tree["train"]["num_steps"]
    default = {"train.num_steps": SETTINGS["train.num_steps"].default}
    assert Config.from_dict(tree) == config.replace(default)
    for name, value in (("train", {"momentum": 0.9}), ("optimizer", 3), ("train", 7)):
        with pytest.raises(TypeError):
            Config.from_dict(tree | {name: value})


def test_the_default_batch_size_grows_with_the_number_of_sequences() -> None:
    files = load_config(find_config("trained"))
    sizes = []
    for count in (5, 100, 10_000, 1_000_000):
        task = dataclasses.replace(SEQUENCES, examples=SIZES | {"train": count})
        train = resolve(files, task).train
        assert train.num_steps >= 600
        sizes.append(train.batch_size)
    assert sizes == sorted(sizes)
    assert (sizes[0], sizes[1], sizes[-1]) == (5, 16, 128)


@pytest.mark.parametrize(("cell", "layers"), [("lru", DEFAULT_LAYERS), ("lstm", 1)])
def test_default_layers_and_windows_depend_on_the_cell_and_the_sequence_length(
    cell: str, layers: int
) -> None:
    recipe = parse("--config=files", f"--config.model.cell={cell}")
    for time_steps, user_window, window, stride in (
        (500, None, 1, 1),
        (501, None, 8, 2),
        (30, 12, 12, 3),
    ):
        task = dataclasses.replace(SEQUENCES, time_steps=time_steps)
        model = resolve(recipe.replace({"model.window": user_window}), task).model
        assert (model.window, model.stride) == (window, stride)
        assert model.num_layers == layers
    pixels = dataclasses.replace(TASK, time_steps=784, features=1)
    assert resolve(Config(), pixels).model.window == 1


def test_patience_counts_epochs_of_the_training_split() -> None:
    """A tenth of the 2,100 sequences is held out for validation."""
    examples = {"train": 1890, "validation": 210, "test": 0}
    task = dataclasses.replace(SEQUENCES, examples=examples)
    train = resolve(Config(train=TrainConfig(patience=3)), task).train
    assert (train.batch_size, train.eval_every_steps) == (16, 118)
    large_batches = TrainConfig(patience=3, batch_size=1000, eval_every_steps=None)
    assert resolve(Config(train=large_batches), task).train.eval_every_steps == 2
    explicit_interval = TrainConfig(patience=3, eval_every_steps=7)
    assert resolve(Config(train=explicit_interval), task).train.eval_every_steps == 7


# A task, and settings that contradict it or each other. The message begins with the
# first setting.
CONTRADICTIONS: list[tuple[Task, dict[str, object]]] = [
    (SEQUENCES, {"data.view": "columns"}),
    (TASK, {"data.path": "a.npz"}),
    (TASK, {"data.permutation": "random:1"}),
    (TASK, {"model.num_layers": 2, "model.cell": "filters"}),
    (TASK, {"model.forget_bias": 2.0, "model.cell": "gru"}),
    (TASK, {"train.num_steps": 5, "model.cell": "filters"}),
    (TASK, {"data.max_shift": 2, "model.cell": "filters"}),
    (TASK, {"train.loss": "every_step", "model.bidirectional": True}),
    (SEQUENCES, {"train.patience": 3}),
    (SEQUENCES, {"train.class_weight": {"b": 1, "aa": 1}}),
    (SEQUENCES, {"model.stride": 5, "model.window": 4}),
    (TASK, {"train.num_steps": 2**30, "train.batch_size": 2}),
]


@pytest.mark.parametrize(("task", "settings"), CONTRADICTIONS, ids=lambda value: "")
def test_settings_that_contradict_each_other_or_the_task_raise_an_error(
    task: Task, settings: dict[str, object]
) -> None:
    name = next(iter(settings))
    with pytest.raises(UserError, match=f"^{name}: "):
        resolve(Config().replace(settings), task)


@pytest.mark.parametrize(
    ("name", "value", "expected"),
    [
        ("seed", np.int64(3), 3),
        ("train.weight_decay", np.float32(0.25), 0.25),
        ("data.validation", np.bool_(False), False),
        ("model.cell", np.str_("gru"), "gru"),
    ],
)
def test_numpy_scalars_are_converted_to_python_values(
    name: str, value: Any, expected: object
) -> None:
    for scalar in (value, np.array(value)):
        result = Config().replace({name: scalar}).flat()[name]
        assert result == expected
        assert type(result) is type(expected)


def test_paths_become_absolute_in_python_and_on_the_command_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    for text, path in (("a/b", "a/b"), ("~/b", "home/b"), (f"{tmp_path}/b", "b")):
        assert DataConfig(path=text).path == str(tmp_path / path)
        assert SETTINGS["data.path"].parse(text) == str(tmp_path / path)


def test_the_learning_rate_rises_linearly_and_then_decays_to_zero() -> None:
    settings = {"train.warmup_fraction": 0.1, "train.learning_rate": 1.0}
    config = run_config(settings | {"train.num_steps": 100}).train
    learning_rates = [float(compute_learning_rate(config, step)) for step in range(101)]
    np.testing.assert_allclose(learning_rates[:11], np.arange(1, 12) / 11, rtol=1e-6)
    assert learning_rates[10:] == sorted(learning_rates[10:], reverse=True)
    assert learning_rates[100] == pytest.approx(0.0, abs=1e-6)
