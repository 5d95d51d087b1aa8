"""The file of leave-one-out predictions: what is read again, and what is refused."""

import dataclasses
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from msgspec.structs import asdict
from support import TASK

from rnnmnist.data.examples import Examples
from rnnmnist.evaluation.left_out import read_left_out, write_left_out
from rnnmnist.evaluation.metrics import score_logits
from rnnmnist.runs.logs import Metrics

CLASSES = ("seed", "label", "a, b")
COUNT, SEEDS = 30, 2
LABELS = np.arange(COUNT, dtype=np.int32) % 3
LOGITS = np.random.default_rng(0).normal(size=(SEEDS, COUNT, 3))
LOGITS[:, np.arange(COUNT), LABELS] += 1
TRAIN = Examples(
    stored=np.zeros((COUNT, 4, 1)),
    ids=tuple(f"recording {index}" for index in range(COUNT)),
    labels=LABELS,
)
THREE_CLASSES = dataclasses.replace(TASK, classes=CLASSES)
METRICS = Metrics(
    **asdict(score_logits(LOGITS, LABELS, first_seed=5)), step=1, split="leave_one_out"
)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    write_left_out(tmp_path, METRICS, THREE_CLASSES, TRAIN, LOGITS)
    (path,) = (tmp_path / "evaluation").iterdir()
    return path


def read(workdir: Path) -> np.ndarray | None:
    return read_left_out(workdir, METRICS, THREE_CLASSES, TRAIN)


def test_the_same_logits_are_read(path: Path, tmp_path: Path) -> None:
    np.testing.assert_array_equal(read(tmp_path), LOGITS)


def test_any_class_can_be_a_column_of_its_own(path: Path) -> None:
    table = pd.read_csv(path)
    assert (table["seed"] == np.repeat([5, 6], COUNT)).all()
    names = np.array(CLASSES)
    assert (table["label"] == np.tile(names[LABELS], SEEDS)).all()
    logits = table[[f"logit {name}" for name in CLASSES]].to_numpy()
    np.testing.assert_array_equal(logits, LOGITS.reshape(-1, 3))
    assert (table["predicted"] == names[logits.argmax(axis=1)]).all()
    assert table.shape[1] == 4 + len(CLASSES)


def test_files_of_other_sequences_or_scores_are_not_read(
    path: Path, tmp_path: Path
) -> None:
    content = path.read_text()
    swapped = content.replace("recording 1,", "recording x,")
    swapped = swapped.replace("recording 4,", "recording 1,")
    swapped = swapped.replace("recording x,", "recording 4,")  # of the same class
    damaged = {
        "names": swapped,
        "scores": content.replace(",-", ",-9"),
        "numbers": content.replace(",-", ",x"),
        "rows": content[: content.rindex("recording")],
    }
    for name, text in damaged.items():
        path.write_text(text)
        assert read(tmp_path) is None, name
    path.unlink()
    assert read(tmp_path) is None
