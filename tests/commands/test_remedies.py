"""The remedies that messages advise: the command that follows one works.

Not here: `data.manual_dir`, which needs the original files (`test_originals.py`), and
the flags of clusters (`test_distributed.py`), and `--format=stablehlo`
(`test_export.py`). Most runs share one compiled training step, since their learning
rate does not depend on the number of steps.
"""

import importlib
import shutil
from pathlib import Path

import numpy as np
import pytest
from support import Once, interrupted_at

from rnnmnist.errors import RunError

ALONE = (
    "--num_processes=1 --config.execution.num_devices=1 --config.model.hidden_size=4"
)
TRAIN = (
    f"main --config=files {ALONE} --config.train.batch_size=10 "
    "--config.train.learning_rate=0.03 --config.train.clip_norm=0 "
    "--config.train.schedule=constant --config.train.warmup_fraction=0 "
    "--config.train.num_steps=10 --config.train.eval_every_steps=10"
)
RUN = f"{TRAIN} --config.data.path=levels.npz --workdir=run"
LONGER = f"{RUN} --config.train.num_steps=20"
DIVERGING = f"{LONGER} --config.train.learning_rate=1e21"
IMAGES = f"main {ALONE} --config.train.num_steps=1 --config.data.data_dir=DATA_DIR"

# A wrong command, what its message advises, and the flags that follow the advice, of
# which a repeated one replaces the earlier one; or the whole command.
REMEDIES = [
    (DIVERGING, "lower train.learning_rate", "--config.train.learning_rate=0.01"),
    (
        DIVERGING,
        "or set train.clip_norm",
        "--config.train.learning_rate=0.01 --config.train.clip_norm=1",
    ),
    (
        f"{RUN} --config.train.num_steps=5",
        "not 5; make the run longer",
        "--config.train.num_steps=10",
    ),
    (
        f"{LONGER} --config.seed=1",
        "use the checkpoint's settings",
        "--config.seed=0",
    ),
    (
        f"{LONGER} --config.execution.num_devices=3",
        "must divide num_seeds x train.batch_size = 10, ",
        "--config.execution.num_devices=5",
    ),
    (
        f"{TRAIN} --workdir=new",
        "data.path: name your sequences with data.path=PATH",
        "--config.data.path=levels.npz",
    ),
    (
        f"{TRAIN} --config.data.path=gaps.npz --workdir=new",
        "set data.missing to forward_fill or zero",
        "--config.data.missing=zero",
    ),
    (
        f"{IMAGES} --config.data.normalize=none --workdir=new",
        "is for sequences only, and mnist5k has images; remove data.normalize=none",
        f"{IMAGES} --workdir=new",
    ),
    (
        f"{IMAGES} --config.data.view=pixels --config.data.pixels_per_step=100 "
        "--workdir=new",
        "must divide the 784 pixels of an image, not 100; use 98",
        "--config.data.pixels_per_step=98",
    ),
    (
        "evaluate --workdir=run --step=7",
        "choose best, latest or one of 10",
        "--step=10",
    ),
    (
        "evaluate --workdir=damaged --step=20",
        "; choose another step",
        "--step=10",
    ),
    (
        "evaluate --workdir=stopped --split=validation",
        "has been validated yet; choose latest or one of 5",
        "--step=latest",
    ),
    (
        "evaluate --workdir=untested",
        "untested has no test split; choose validation",
        "--split=validation",
    ),
    (
        "evaluate --workdir=changed",
        "to evaluate on them, set data.path=",
        "--config.data.path=changed.npz",
    ),
    (
        "evaluate --workdir=images --config.data.path=levels.npz",
        "the run is on mnist5k, not on files; remove it",
        "evaluate --workdir=images",
    ),
    (
        "export --workdir=run --format=safetensors --output=exported",
        "replace it with --force",
        "--force",
    ),
]


def call(command: str) -> str | None:
    """Runs a command in this process; returns the message of its error, if any."""
    name, *argv = command.split()
    try:
        importlib.import_module(f"rnnmnist.{name}").main(argv)
    except RunError as error:
        return str(error)
    return None


@pytest.fixture(scope="module")
def folder(once: Once, data_dir: Path) -> Path:
    """Files of sequences, and runs on them."""

    def fill(folder: Path) -> None:
        folder.mkdir()
        labels = np.arange(40) % 2
        inputs = np.random.default_rng(0).normal(labels[:, None, None], size=(40, 5, 1))
        split = np.array(["train", "train", "validation", "test"]).repeat(10)
        untested = np.where(split == "test", "validation", split)
        np.savez(folder / "untested.npz", inputs=inputs, labels=labels, split=untested)
        np.savez(folder / "changed.npz", inputs=inputs, labels=labels, split=split)
        shutil.copy(folder / "changed.npz", folder / "levels.npz")
        gaps = np.where(np.arange(5)[:, None] == 2, np.nan, inputs)
        np.savez(folder / "gaps.npz", inputs=gaps, labels=labels, split=split)
        for run in ("levels run", "untested untested", "changed changed"):
            file, workdir = run.split()
            path = f"{folder}/{file}.npz"
            train = f"{TRAIN} --config.data.path={path} --workdir={folder}/{workdir}"
            assert call(train) is None
        train = f"{TRAIN} --config.data.path={folder}/levels.npz"
        images = IMAGES.replace("DATA_DIR", str(data_dir))
        assert call(f"{images} --workdir={folder}/images") is None
        longer = f"--workdir={folder}/damaged --config.train.num_steps=20"
        assert call(f"{train} {longer}") is None
        with interrupted_at(5):
            early = f"--workdir={folder}/stopped --config.train.log_every_steps=5"
            assert str(call(f"{train} {early}")).startswith("saved step 5 of 10")
        (folder / "damaged" / "20" / "header" / "metadata").write_bytes(b"")
        np.savez(folder / "changed.npz", inputs=2 * inputs, labels=labels, split=split)
        (folder / "exported" / "safetensors").mkdir(parents=True)

    return once("remedies", fill)


@pytest.mark.parametrize(("command", "advice", "fix"), REMEDIES)
def test_the_command_that_follows_the_advice_of_a_message_works(
    folder: Path,
    data_dir: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    command: str,
    advice: str,
    fix: str,
) -> None:
    shutil.copytree(folder, tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)
    command = command.replace("DATA_DIR", str(data_dir))
    message = call(command)
    assert message is not None
    assert advice in message
    assert call(fix if not fix.startswith("--") else f"{command} {fix}") is None
