"""Result files: their documented fields."""

import dataclasses
import json
from pathlib import Path
from typing import Any

import msgspec
import pytest
from support import TASK

from rnnmnist.runs.metrics import Metrics, Result, to_json, wilson_interval

FIRST = Metrics(
    seed=5,
    examples=6,
    correct=5,
    loss=0.25,
    confusion=((3, 1), (0, 2)),
    balanced_accuracy=7 / 8,
)
SECOND = Metrics(seed=6, examples=6, correct=3, loss=0.75, confusion=((2, 2), (1, 1)))
MEAN = Metrics(examples=6, correct=4, loss=0.2, confusion=((2, 2), (0, 2)))


def make_result(**fields: Any) -> Result:
    common: dict[str, Any] = {
        "dataset": "mine",
        "split": "test",
        "step": 7,
        "num_parameters": 9,
        "params_sha256": "of all",
        "temperature": 1.0,
        "task": TASK,
    }
    return Result(**common | fields)


def test_a_file_of_one_network() -> None:
    result = make_result(members=(FIRST,), member_sha256=("of all",))
    assert result.path == Path("evaluation", "test-7.json")
    content = json.loads(json.dumps(msgspec.to_builtins(to_json(result))))
    assert content.pop("task")["name"] == TASK.name
    assert content.pop("accuracy_interval") == list(wilson_interval(5, 6))
    assert content == {
        "dataset": "mine",
        "split": "test",
        "step": 7,
        "num_parameters": 9,
        "params_sha256": "of all",
        "temperature": 1.0,
        "seed": 5,
        "examples": 6,
        "correct": 5,
        "accuracy": 5 / 6,
        "balanced_accuracy": 7 / 8,
        "loss": 0.25,
        "confusion": [[3, 1], [0, 2]],
    }


def test_a_file_of_an_ensemble_has_the_metrics_of_its_members() -> None:
    result = make_result(
        members=(FIRST, SECOND),
        ensemble=MEAN,
        member_sha256=("of 5", "of 6"),
    )
    content = json.loads(json.dumps(msgspec.to_builtins(to_json(result))))
    expected = {
        "examples": 6,
        "correct": 8,
        "accuracy_mean": 8 / 12,
        "loss": 0.5,
        "confusion": [[5, 3], [1, 3]],
        "ensemble_correct": 4,
        "ensemble_accuracy": 4 / 6,
        "ensemble_loss": 0.2,
    }
    assert content.items() >= expected.items()
    assert content["accuracy_std"] == pytest.approx(2 / 6 / 2**0.5)
    members = content["members"]
    assert [member["params_sha256"] for member in members] == ["of 5", "of 6"]
    assert [member["correct"] for member in members] == [5, 3]


def test_the_file_name_of_a_result_on_other_data_has_their_hash() -> None:
    task = dataclasses.replace(TASK, sha256="of the data")
    result = make_result(members=(FIRST,), member_sha256=("of all",), task=task)
    assert result.path.name == "test-7-of the d.json"
