"""Configurations: declarations, checks, files and command-line overrides."""

import ast
import json
import math
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from support import REPOSITORY, TASK, refused

from rnnmnist import main
from rnnmnist.config.files import load_config
from rnnmnist.config.schema import SETTINGS, Config, DataConfig, TrainConfig
from rnnmnist.config.tasks import SplitSizes, Task, fit_to_task
from rnnmnist.errors import UserError
from rnnmnist.training.optimizer import make_schedule

CONFIGS = sorted((REPOSITORY / "configs").glob("*.py"))
RESOLVED = Config().replace({"train.num_steps": 4300})  # with the default length


def parse(*args: str) -> Config:
    return main.parse(["--config=embedded", *args]).config


def test_overrides_take_the_types_of_their_settings() -> None:
    config = parse(
        "--config.train.learning_rate=1",
        "--config.train.num_steps=1000",
        "--config.tutorial_128=true",
        "--config.data.data_dir=~/some where",
        "--config.execution.num_devices=none",
        "--config.execution.precision=auto",
    )
    assert config.train.learning_rate == 1.0
    assert type(config.train.learning_rate) is float
    assert config.train.num_steps == 1000
    assert config.tutorial_128 is True
    assert config.data.data_dir == str(Path("~/some where").expanduser())
    assert config.execution.num_devices is None
    assert config.execution.precision == "auto"


def test_an_override_can_be_two_arguments() -> None:
    args = ["--config.train.num_steps", "7", "--config.data.max_rotation", "-0.0"]
    joined = ["--config.train.num_steps=7", "--config.data.max_rotation=-0.0"]
    assert parse(*args) == parse(*joined)
    assert parse(*args).train.num_steps == 7
    with pytest.raises(UserError, match=r"train\.learning_rate: must be .*, not '-1'"):
        parse("--config.train.learning_rate", "-1")
    with pytest.raises(UserError, match=r"--config\.seed: expected one argument"):
        parse("--config.seed", "--config.num_seeds", "2")
    with pytest.raises(UserError, match="stray argument '3'"):
        parse("--config.seed=2", "3")


@pytest.mark.parametrize(
    ("arg", "parts"),
    [
        ("--config.train.learning_rte=0.01", ["setting", "'train.learning_rate'?"]),
        ("--config.learning_rate=0.01", ["no such setting", "'train.learning_rate'?"]),
        ("--config.train.num_steps=12.5", ["num_steps", "'12.5'", "an integer"]),
        ("--config.train.num_steps=0", ["train.num_steps", "at least 1", "not '0'"]),
        ("--config.train.learning_rate=nan", ["train.learning_rate", "nan", "above 0"]),
        ("--config.train.learning_rate=-1", ["train.learning_rate", "-1"]),
        ("--config.tutorial_128=yes", ["tutorial_128", "true or false", "'yes'"]),
        ("--config.data.name=mnits", ["data.name", "'mnits'", "one of mnist,"]),
        ("--config.data.max_shift=14", ["data.max_shift", "at most 13", "14"]),
        ("--config.model.cell=LSTM", ["model.cell", "lstm, gru, rnn", "'LSTM'"]),
        ("--config.execution.precision=float23", ["bfloat16", "float32"]),
        ("--config.execution.remat_steps=5", ["divide the 28 time", "not 5"]),
        ("--config.execution.num_devices=0", ["num_devices", "at least 1", "or none"]),
        ("--config.train.num_devices=2", ["did you mean 'execution.num_devices'?"]),
        ("--config.num_seeds=0", ["num_seeds", "at least 1", "0"]),
        ("--config.train.batch_size=65537", ["batch_size", "at most 65536", "65537"]),
        ("--config.data.view=row", ["data.view", "rows, columns", "'row'"]),
        ("--config.data.permutation=random", ["data.permutation", "'random'", "SEED"]),
        ("--config.train.num_steps=99999999", ["num_steps", "at most 16777215"]),
        ("--config.seed", ["--config.seed", "expected one argument"]),
        ("--confg=default", ["--confg", "did you mean '--config'?"]),
        ("--nothing-like-it", ["--nothing-like-it", "no such flag"]),
        ("default", ["stray argument 'default'"]),
        ("--workdir=", ["workdir", "must name a directory"]),
        ("--config=default.json", ["default.json", "did you mean 'default'?"]),
        ("--config=" + "x" * 300, ["File name too long"]),
        ("--workdir=" + "x" * 300, ["File name too long"]),
        ("--workdir=~nobody-of-this-name/x", ["~nobody-of-this-name/x: "]),
        ("--config.train.learning_rate=1e39", ["at most 1e+38"]),
        ("--config=embeded", ["embeded", "did you mean 'embedded'?", "tutorial"]),
    ],
)
def test_errors_name_the_setting_the_value_and_the_remedy(
    arg: str, parts: list[str]
) -> None:
    message = refused("main", arg)
    for part in parts:
        assert part in message


@pytest.mark.parametrize(
    ("text", "part"),
    [
        ("x = (", "SyntaxError"),
        ("x = 1", "must define a function get_config()"),
        ("def get_config(): return {}", "not dict"),
        ("def get_config(): return 1 / 0", "ZeroDivisionError"),
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


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
@pytest.mark.parametrize("num_steps", [1, 2, 7, 10_000])
def test_every_shipped_configuration_accepts_any_number_of_steps(
    path: Path, num_steps: int
) -> None:
    config = load_config(path).replace({"train.num_steps": num_steps})
    schedule = make_schedule(config.train)
    rates = [float(schedule(step)) for step in {0, num_steps // 2, num_steps - 1}]
    assert all(0 < rate <= config.train.learning_rate * 1.0001 for rate in rates)


def test_the_default_configuration_has_the_defaults_of_the_schema() -> None:
    config = load_config(REPOSITORY / "configs/default.py")
    assert (config.train.log_interval, config.train.eval_interval) == (100, 430)
    intervals = ("train.log_every_steps", "train.eval_every_steps")
    assert config.replace(dict.fromkeys(intervals)) == RESOLVED


def test_epochs_are_resolved_to_steps_of_the_reduced_batch() -> None:
    config = Config().replace({"train.num_epochs": 2.5, "train.batch_size": 16})
    assert fit_to_task(config, sequences()).train.num_steps == 9  # of 60 examples
    config = fit_to_task(Config().replace({"train.num_epochs": 7}), sequences())
    assert config.train.num_steps == 7  # each of all examples
    assert config.train.num_epochs is None
    config = Config().replace({"train.num_epochs": 0.001})
    assert fit_to_task(config, sequences()).train.num_steps == 1


def test_the_later_of_steps_and_epochs_wins(tmp_path: Path) -> None:
    def train(text: str, *args: str) -> TrainConfig:
        path = tmp_path / "mine.py"
        path.write_text(
            "from rnnmnist import Config, DataConfig, TrainConfig\n"
            "def get_config():\n"
            f"    return Config(data=DataConfig('mnist5k'), train=TrainConfig({text}))"
        )
        return parse(f"--config={path}", *args).train

    assert train("num_steps=7", "--config.train.num_epochs=2").num_steps == 62
    assert train("num_epochs=2").num_steps == 62
    assert train("num_epochs=2", "--config.train.num_steps=7").num_steps == 7
    both = "num_epochs: 2.* and train.num_steps=7 both set the length"
    with pytest.raises(UserError, match=both):
        train("num_steps=7, num_epochs=2")
    with pytest.raises(UserError, match="both set the length"):
        train("num_steps=4300, num_epochs=2")  # the default, but given
    with pytest.raises(UserError, match=r"^train\.num_steps: must be at most 167"):
        train("num_epochs=1e6")
    config = Config().replace({"train.num_epochs": 2})
    assert Config.from_dict(msgspec.to_builtins(config)) == config
    with pytest.raises(UserError, match=both):
        train("", "--config.train.num_steps=7", "--config.train.num_epochs=2")


@pytest.mark.parametrize(
    ("num_steps", "log", "validate"),
    [(1, 10, 1), (19, 10, 1), (2000, 20, 200), (50_000, 100, 5000)],
)
def test_intervals_follow_the_length_of_a_run(
    num_steps: int, log: int, validate: int
) -> None:
    train = TrainConfig(num_steps=num_steps)
    assert (train.log_interval, train.eval_interval) == (log, validate)
    train = TrainConfig(num_steps=num_steps, log_every_steps=3, eval_every_steps=4)
    assert (train.log_interval, train.eval_interval) == (3, 4)


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_configurations_are_restored_from_json(path: Path) -> None:
    config = load_config(path)
    assert (
        Config.from_dict(json.loads(json.dumps(msgspec.to_builtins(config)))) == config
    )


def test_an_unknown_setting_in_a_saved_configuration_is_refused() -> None:
    tree = msgspec.to_builtins(Config())
    tree["train"]["momentum"] = 0.9
    with pytest.raises(UserError, match=r"^train\.momentum: no such setting"):
        Config.from_dict(tree)
    for name, value in (("optimizer", 3), ("train", 7)):
        with pytest.raises(UserError, match=f"^{name}: no such setting"):
            Config.from_dict(msgspec.to_builtins(Config()) | {name: value})


@pytest.mark.parametrize("name", SETTINGS)
def test_a_setting_that_was_added_since_has_its_default(name: str) -> None:
    config = Config().replace({"seed": 3, "train.num_steps": 7})
    tree = msgspec.to_builtins(config)
    section, _, key = name.rpartition(".")
    del (tree[section] if section else tree)[key]
    default = Config().flat()[name]
    assert Config.from_dict(tree) == config.replace({name: default})


def sequences(**changes: Any) -> Task:
    """A task of sequences."""
    sizes = SplitSizes(train=60, validation=10, test=0)
    return Task("mine", 30, 2, ("a", "b"), sizes, **changes)


def test_a_batch_is_reduced_to_the_training_part() -> None:
    large, full = "--config.train.batch_size=4001", "--config.train.batch_size=4000"
    assert parse(large) == parse(full)
    config = fit_to_task(Config(), sequences())
    assert config == Config(train=TrainConfig(batch_size=60, num_steps=4300))
    assert fit_to_task(config, sequences()) == config


@pytest.mark.parametrize(
    "name", [name for name, one in SETTINGS.items() if one.of == "images"]
)
def test_a_setting_of_images_is_refused_for_sequences(name: str) -> None:
    values: dict[str, dict[str, object]] = {
        "data.view": {"data.view": "columns"},
        "data.permutation": {"data.view": "permuted", "data.permutation": "random:1"},
        "data.pixels_per_step": {"data.view": "pixels", "data.pixels_per_step": 2},
        "data.flip": {"data.flip": True},
        "tutorial_128": {"tutorial_128": True},
    }
    config = RESOLVED.replace(values.get(name, {name: 1}))
    named = "data.view" if "data.view" in values.get(name, {}) else name
    assert fit_to_task(config, TASK) == config
    with pytest.raises(UserError, match=rf"^{named}: is for images only, and mine"):
        fit_to_task(config, sequences())


def test_blocks_divide_the_time_steps() -> None:
    config = RESOLVED.replace({"execution.remat_steps": 28})
    assert fit_to_task(config, TASK) == config
    with pytest.raises(UserError, match=r"^execution\.remat_steps: .* 30 .*, not 28"):
        fit_to_task(config, sequences())


def test_blocks_of_a_linear_recurrence_need_not_divide_the_steps() -> None:
    config = RESOLVED.replace({"model.cell": "lru", "execution.remat_steps": 5})
    assert fit_to_task(config, TASK) == config


@pytest.mark.parametrize("value", ["ltsm", "one", "py:A", "a.py:A\n"])
def test_a_cell_is_a_name_or_a_class_of_a_file(value: str) -> None:
    assert Config().replace({"model.cell": "lru"}).model.is_linear
    assert Config().replace({"model.cell": "a.py:A"}).model.is_user_cell
    allowed = "one of lstm, gru, rnn, mingru, lru or FILE.py:CLASS"
    with pytest.raises(UserError) as error:
        Config().replace({"model.cell": value})
    assert str(error.value) == f"model.cell: must be {allowed}, not {value!r}"


@pytest.mark.parametrize("cell", ["gru", "lru", "a.py:A"])
def test_layers_and_initializers_are_for_some_cells(cell: str) -> None:
    layers = {"model.cell": cell, "model.num_layers": 2}
    if cell == "lru":
        assert Config().replace(layers).model.size == "2 layers of 128 units"
    else:
        with pytest.raises(UserError, match=r"num_layers: 2 needs .*=mingru or lru"):
            Config().replace(layers)
    settings = {"model.cell": cell, "model.initializer": "tutorial"}
    if cell == "gru":
        Config().replace(settings)
    else:
        with pytest.raises(UserError, match=r"tutorial needs .*=lstm or gru or rnn"):
            Config().replace(settings)


def test_sections_are_checked_on_construction() -> None:
    with pytest.raises(UserError, match=r"train\.batch_size"):
        TrainConfig(batch_size=0)
    with pytest.raises(UserError, match=r"data\.max_shift: .* not True"):
        DataConfig(max_shift=True)
    for section in ({"num_steps": 3}, 3, DataConfig()):
        with pytest.raises(UserError, match=r"^train: must be a TrainConfig, not "):
            Config(train=section)  # type: ignore[arg-type]


def test_values_get_the_type_of_their_setting() -> None:
    assert type(TrainConfig(learning_rate=1).learning_rate) is float
    settings = ("num_steps=1e3", "learning_rate=1", "clip_norm=2")
    train = parse(*(f"--config.train.{text}" for text in settings)).train
    found = [train.num_steps, train.learning_rate, train.clip_norm]
    assert [repr(value) for value in found] == ["1000", "1.0", "2.0"]
    for value in (10**500, np.zeros((2, 2)), "x" * 1000):
        with pytest.raises(UserError, match=r"^seed: must be an integer") as error:
            Config(seed=value)  # type: ignore[arg-type]
        assert len(str(error.value)) < 150
        assert "\n" not in str(error.value)
    for number in (math.nan, math.inf, -math.inf, "1"):
        with pytest.raises(UserError, match=r"^train\.clip_norm: must be a number"):
            TrainConfig(clip_norm=number)  # type: ignore[arg-type]


def test_the_learning_rate_rises_linearly_and_decays_to_zero() -> None:
    config = TrainConfig(num_steps=100, warmup_fraction=0.1, learning_rate=1.0)
    schedule = make_schedule(config)
    rates = [float(schedule(step)) for step in range(101)]
    assert rates[:11] == sorted(rates[:11])
    assert rates[0] == pytest.approx(1 / 11)
    assert rates[10] == pytest.approx(1.0)
    assert rates[10:] == sorted(rates[10:], reverse=True)
    assert rates[100] == pytest.approx(0.0, abs=1e-6)


def test_every_setting_is_used() -> None:
    read = set()
    for path in (REPOSITORY / "rnnmnist").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Attribute):
                read.add(node.attr)
    unread = {name for name in SETTINGS if name.split(".")[-1] not in read}
    assert not unread
