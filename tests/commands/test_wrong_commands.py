"""Each kind of wrong command prints a one-line error and writes nothing.

The run on images is the reference run. `test_config.py` and `test_reading.py` test
other values of settings and other sequence files.
"""

import shlex
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import trainer
from support import (
    INPUTS,
    LABELS,
    Once,
    file_times,
    refused,
    save_network,
)

from rnnmnist.config.schema import Config, DataConfig, ModelConfig
from rnnmnist.data import datasets
from rnnmnist.runs.workdir import lock

NEW = "main --config=embedded --workdir=new --config.data.data_dir=DATA_DIR"
NEW_SEQUENCES = "main --config=files --workdir=new --config.data.path="
SETTINGS = " ".join(trainer.SETTINGS)
IMAGES = f"main --num_processes=1 {SETTINGS} --config.data.data_dir=DATA_DIR"


# A wrong setting of a run, and part of the error.
WRONG_SETTINGS = [
    ("train.learning_rte=0.1", "did you mean '--config.train.learning_rate'?"),
    ("learning_rate=0.1", "did you mean '--config.train.learning_rate'?"),
    ("train.momentum=0.9", "no such flag; rnnmnist train --help lists the flags"),
    ("model.cell=absent.py:Cell", "absent.py cannot be imported"),
    ("model.cell=absent_module.a:Cell", "absent_module.a cannot be imported"),
    ("seed=1 --cofig=x", "did you mean '--config'?"),
]
# A path of a sequence file, optional flags, and part of the error.
WRONG_SEQUENCES = [
    ("absent.npz", "absent.npz: No such file or directory"),
    ("x" * 300, "File name too long"),
    ("run.npz --config.data.name=mnist", "data.path: "),
]
# Another wrong command, and part of the error.
WRONG_COMMANDS = [
    ("main --config=embeded", "did you mean 'embedded'?"),
    ("main --workdir=", "workdir: "),
    ("main --workdir=~absent/run", "~absent/run: "),
    ("main --config=embedded --workdir=README.md", "README.md is a file"),
    ("main --workdir=\udcff", "workdir: "),
    ("main --workdir=gs://bucket/run", "gs://bucket/run is a URL"),
    ("main --workdir=runs/a[b]", "a[b]"),
    (
        f"{IMAGES} --config=default --config.data.data_dir=empty "  # no prepared data
        "--config.data.manual_dir=absent",
        "data.manual_dir",
    ),
    (
        f"{IMAGES} --config=embedded --workdir=images --config.data.data_dir=empty "
        "--config.seed=5 --config.model.cell=gru",
        "seed=5 (checkpoint: 0), model.cell=gru (checkpoint: lstm)",
    ),
    ("main --config=files --workdir=new", "data.path: "),
    ("evaluate", "--workdir"),
    ("evaluate --workdir=new", "new contains no checkpoint"),
    ("evaluate --workdir=empty", "empty contains no checkpoint"),
    ("evaluate --workdir=images --step=7", "has no checkpoint 7"),
    ("evaluate --workdir=untested --split=test", "untested has no test split"),
    ("evaluate --workdir=changed", "changed.npz"),
    ("evaluate --workdir=run --config.data.path=named.npz", "has no feature 'x'"),
    ("evaluate --workdir=images --config.data.path=run.npz", "data.path: "),
    ("predict ''", "FILE: "),
    ("predict --workdir=run --stream run.npz", "--stream"),
    ("page --output=page.txt", "'page.txt'"),
    ("export --workdir=images --format=onnx --output=~absent/x", "~absent/x: "),
    ("export --workdir=images --format=onnx --output=README.md", "README.md is a file"),
    ("export --workdir=run --format=stablehlo --output=exported", "--force"),
    ("doctor --require=xpu", "'xpu'"),
]


@pytest.fixture(scope="module")
def folder(
    once: Once, reference_run: Path, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """A folder of sequence files, runs on sequences and on images, and other files.

    Each worker has its own copy, because a command may create the folder of its run
    before it fails, and then removes the folder.
    """

    def fill(folder: Path) -> None:
        folder.mkdir()
        write_runs(folder)
        shutil.copytree(reference_run, folder / "images")
        (folder / "exported/stablehlo").mkdir(parents=True)
        (folder / "empty").mkdir()
        (folder / "README.md").write_text("a text")

    shared = once("wrong_commands", fill)
    return shutil.copytree(shared, tmp_path_factory.mktemp("own") / "wrong_commands")


def write_runs(folder: Path) -> None:
    """Writes sequence files, and saves a network for each."""
    split = np.array(["train", "train", "validation", "test"]).repeat(10)
    arrays: dict[str, Any] = {"inputs": INPUTS, "labels": LABELS, "split": split}
    arrays["feature_names"] = ["x"]
    untested = np.where(split == "test", "train", split)
    splits = {"run": split, "changed": split, "untested": untested}
    for name, values in splits.items():
        path = folder / f"{name}.npz"
        np.savez(path, **arrays | {"split": values})
        data = DataConfig(name="files", path=str(path))
        config = Config(data=data, model=ModelConfig(hidden_size=4))
        save_network(folder / name, config, datasets.load(config).task)
    np.savez(folder / "changed.npz", **arrays | {"inputs": 2 * INPUTS})
    np.savez(folder / "named.npz", **arrays | {"feature_names": ["y"]})


@pytest.mark.parametrize(
    ("line", "message"),
    [
        *((f"{NEW} --config.{setting}", text) for setting, text in WRONG_SETTINGS),
        *((f"{NEW_SEQUENCES}{path}", text) for path, text in WRONG_SEQUENCES),
        *WRONG_COMMANDS,
    ],
)
def test_a_wrong_command_prints_one_line_and_writes_nothing(
    folder: Path,
    data_dir: Path,
    monkeypatch: pytest.MonkeyPatch,
    line: str,
    message: str,
) -> None:
    monkeypatch.chdir(folder)
    times = file_times(folder)
    name, *argv = shlex.split(line.replace("DATA_DIR", str(data_dir)))
    assert message in refused(name, *argv)
    assert file_times(folder) == times


def test_a_workdir_in_use_raises_an_error_before_the_data_are_read(
    tmp_path: Path,
) -> None:
    flags = ("--config=files", "--config.data.path=/absent.npz")
    with lock(tmp_path):
        message = refused("main", *flags, f"--workdir={tmp_path}")
    assert f"{tmp_path} is in use" in message
