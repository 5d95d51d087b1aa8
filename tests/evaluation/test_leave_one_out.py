"""The CSV table of leave-one-out predictions."""

import dataclasses
import io

import numpy as np
import pandas as pd
import pytest
from support import TASK

from rnnmnist.data.examples import Examples
from rnnmnist.evaluation.leave_one_out import format_table

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


@pytest.mark.parametrize("groups", [None, np.array(["a", "b, c"])[LABELS % 2]])
def test_class_names_are_quoted_as_columns(groups: np.ndarray | None) -> None:
    train = dataclasses.replace(TRAIN, groups=groups)
    text = format_table(range(5, 7), THREE_CLASSES, train, LOGITS)
    table = pd.read_csv(io.StringIO(text))
    assert (table["seed"] == np.repeat([5, 6], COUNT)).all()
    names = np.array(CLASSES)
    assert (table["label"] == np.tile(names[LABELS], SEEDS)).all()
    logits = table[[f"logit {name}" for name in CLASSES]].to_numpy()
    np.testing.assert_array_equal(logits, LOGITS.reshape(-1, 3))
    assert (table["predicted"] == names[logits.argmax(axis=1)]).all()
    columns = ["sequence", "seed", "label", "predicted"]
    if groups is not None:
        columns.insert(1, "group")
        assert (table["group"] == np.tile(groups, SEEDS)).all()
    assert list(table.columns[: -len(CLASSES)]) == columns
