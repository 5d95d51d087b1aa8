"""The door: what a configuration takes, and what it says to the rest."""

import ast
import json
from pathlib import Path

import pytest
from support import REPOSITORY

from rnnmnist import main
from rnnmnist.config.files import load_config
from rnnmnist.config.schema import FIELDS, Config, DataConfig, TrainConfig
from rnnmnist.errors import UserError
from rnnmnist.training.optimizer import make_schedule

CONFIGS = sorted((REPOSITORY / "configs").glob("*.py"))


def parse(*words: str) -> Config:
    return main.parse(["--config=embedded", *words]).config


def test_overrides_take_the_types_of_their_settings() -> None:
    config = parse(
        "--config.train.learning_rate=1",
        "--config.train.num_steps=1_000",
        "--config.tutorial_128=true",
        "--config.data.data_dir=~/some where",
        "--config.train.num_devices=none",
    )
    assert config.train.learning_rate == 1.0
    assert type(config.train.learning_rate) is float
    assert config.train.num_steps == 1000
    assert config.tutorial_128 is True
    assert config.data.data_dir == str(Path("~/some where").expanduser())
    assert config.train.num_devices is None


@pytest.mark.parametrize(
    ("word", "parts"),
    [
        (
            "--config.train.learning_rte=0.01",
            ["no such setting", "train.learning_rate?"],
        ),
        ("--config.learning_rate=0.01", ["no such setting", "train.learning_rate?"]),
        ("--config.train.num_steps=1e3", ["num_steps", "'1e3'", "a whole number"]),
        ("--config.train.num_steps=0", ["train.num_steps", "at least 1", "not 0"]),
        ("--config.train.learning_rate=nan", ["train.learning_rate", "nan", "above 0"]),
        ("--config.train.learning_rate=-1", ["train.learning_rate", "-1.0"]),
        ("--config.tutorial_128=yes", ["tutorial_128", "true or false", "'yes'"]),
        ("--config.data.name=mnits", ["data.name", "'mnits'", "did you mean mnist"]),
        ("--config.data.max_shift=14", ["data.max_shift", "at most 13", "14"]),
        ("--config.model.cell=LSTM", ["model.cell", "lstm, gru, rnn", "'LSTM'"]),
        ("--config.num_seeds=0", ["num_seeds", "at least 1", "0"]),
        ("--config.train.batch_size=4001", ["batch_size", "4000 training", "4001"]),
        ("--config.train.num_steps=99999999", ["num_steps", "at most 16777215"]),
        ("--config.seed", ["--config.seed", "needs a value"]),
        ("--confg=default", ["--confg", "did you mean --config?"]),
        ("--nothing-like-it", ["--nothing-like-it", "no such flag"]),
        ("default", ["stray argument 'default'"]),
        ("--workdir=", ["--workdir", "must name a directory"]),
        ("--config=default.json", ["default.json", "did you mean default?"]),
        ("--config=" + "x" * 300, ["is not a path"]),
        ("--workdir=" + "x" * 300, ["cannot be used"]),
        ("--workdir=~nobody-of-this-name/x", ["cannot be used"]),
        ("--config.train.learning_rate=1e39", ["at most 1e+38"]),
        ("--config=embeded", ["embeded", "did you mean embedded?", "tutorial"]),
    ],
)
def test_a_mistake_is_named_with_its_value_and_the_remedy(
    word: str, parts: list[str]
) -> None:
    with pytest.raises(UserError) as error:
        parse(word)
    for part in parts:
        assert part in str(error.value)
    assert "\n" not in str(error.value)


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
def test_a_configuration_file_that_does_not_work_is_named(
    tmp_path: Path, text: str, part: str
) -> None:
    path = tmp_path / "mine.py"
    path.write_text(text)
    with pytest.raises(UserError, match=r"mine\.py|train\.num_steps") as error:
        parse(f"--config={path}")
    assert part in str(error.value)


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
@pytest.mark.parametrize("num_steps", [1, 2, 7, 10_000])
def test_every_shipped_configuration_takes_any_number_of_steps(
    path: Path, num_steps: int
) -> None:
    config = load_config(path).replace({"train.num_steps": num_steps})
    schedule = make_schedule(config.train)
    rates = [float(schedule(step)) for step in {0, num_steps // 2, num_steps - 1}]
    assert all(0 < rate <= config.train.learning_rate * 1.0001 for rate in rates)


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_a_configuration_survives_json(path: Path) -> None:
    config = load_config(path)
    assert Config.from_dict(json.loads(json.dumps(config.to_dict()))) == config


def test_an_unknown_key_in_a_checkpoint_is_an_error() -> None:
    tree = Config().to_dict()
    tree["train"]["momentum"] = 0.9
    with pytest.raises(UserError, match=r"train\.momentum: no such setting"):
        Config.from_dict(tree)


def test_a_configuration_cannot_be_changed_in_place() -> None:
    with pytest.raises(AttributeError):
        Config().seed = 1  # type: ignore[misc]


def test_checks_run_wherever_a_section_is_made() -> None:
    with pytest.raises(UserError, match=r"train\.batch_size"):
        TrainConfig(batch_size=0)
    with pytest.raises(UserError, match=r"data\.max_shift: .* not True"):
        DataConfig(max_shift=True)


def test_the_warm_up_is_a_share_and_the_cosine_ends_at_nothing() -> None:
    config = TrainConfig(num_steps=100, warmup_fraction=0.1, learning_rate=1.0)
    schedule = make_schedule(config)
    rates = [float(schedule(step)) for step in range(101)]
    assert rates[:11] == sorted(rates[:11])
    assert rates[0] == pytest.approx(1 / 11)
    assert rates[10] == pytest.approx(1.0)
    assert rates[10:] == sorted(rates[10:], reverse=True)
    assert rates[100] == pytest.approx(0.0, abs=1e-6)


def test_every_setting_is_read_somewhere() -> None:
    read = set()
    for path in (REPOSITORY / "rnnmnist").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Attribute):
                read.add(node.attr)
    unread = {name for name in FIELDS if name.split(".")[-1] not in read}
    assert not unread
