"""Result files: their content, and which are refused."""

import json
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from msgspec.structs import asdict
from support import TASK

from rnnmnist.config.tasks import SplitSizes, Task
from rnnmnist.data.examples import permutation_sha256
from rnnmnist.evaluation.metrics import score_confusions
from rnnmnist.runs.results import (
    NetworkResult,
    Result,
    read_result,
    result_path,
    write_result,
)

TABLES = ([[3, 1], [0, 2]], [[2, 2], [1, 1]], [[4, 0], [2, 0]])
SHA256 = "of all networks"
# With a value in every field.
FULL_TASK = Task(
    name="mine",
    time_steps=784,
    features=1,
    classes=("a", "b"),
    examples=SplitSizes(4, 2, 6),
    image_shape=(28, 28),
    feature_names=("level",),
    sha256="of the data",
    mean=(0.5,),
    std=(2.0,),
)
PLAIN: dict[str, Any] = {"task": TASK}
FULL: dict[str, Any] = {
    "task": FULL_TASK,
    "permutation": "bit_reversal",
    "permutation_sha256": permutation_sha256("bit_reversal", 784),
    "trained_on_sha256": "of other data",
}


def make_result(networks: int, tutorial_128: bool = False, **changes: Any) -> Result:
    losses = np.array([0.25, 0.75, 1.25])[:networks]
    scores = score_confusions(np.array(TABLES[:networks]), losses, 5)
    common = {"dataset": "mine", "split": "test", "step": 7, "num_parameters": 9}
    members = [
        NetworkResult(**asdict(one) | common, params_sha256=f"of {one.seed}")
        for one in scores.members
    ]
    return Result(
        **asdict(scores) | common | PLAIN | changes | {"members": tuple(members)},
        params_sha256=SHA256,
        tutorial_128=scores if tutorial_128 else None,
    )


@pytest.mark.parametrize("changes", [PLAIN, FULL], ids=["plain", "full"])
@pytest.mark.parametrize("tutorial_128", [False, True])
@pytest.mark.parametrize("networks", [1, 2, 3])
def test_results_are_restored_from_their_files(
    tmp_path: Path, networks: int, tutorial_128: bool, changes: dict[str, Any]
) -> None:
    result = make_result(networks, tutorial_128, **changes)
    assert read_result(result_path(tmp_path, "test", 7), SHA256) is None
    path = write_result(tmp_path, result)
    assert path.name == ("test-7.json" if changes == PLAIN else "test-7-of the d.json")
    assert read_result(path, SHA256) == result
    assert read_result(path, "of others") is None


def test_the_fields_of_a_result() -> None:
    content = msgspec.to_builtins(make_result(1, tutorial_128=True))
    first_128 = content.pop("tutorial_128")
    interval = content.pop("accuracy_interval")
    assert first_128.pop("accuracy_interval") == interval
    assert interval == pytest.approx([0.43650, 0.96995], abs=1e-5)
    metrics = {
        "examples": 6,
        "correct": 5,
        "accuracy": 5 / 6,
        "balanced_accuracy": 7 / 8,
        "loss": 0.25,
        "confusion": TABLES[0],
        "seed": 5,
    }
    assert json.loads(json.dumps(first_128)) == metrics
    source = {"dataset": "mine", "split": "test", "step": 7}
    task = {
        "name": "mnist",
        "time_steps": 28,
        "features": 28,
        "classes": list("0123456789"),
        "examples": {"train": 55_000, "validation": 5_000, "test": 10_000},
        "image_shape": [28, 28],
        "feature_names": [],
        **dict.fromkeys(("sha256", "mean", "std")),
    }
    network = {"num_parameters": 9, "params_sha256": SHA256}
    expected = metrics | source | network | {"task": task}
    assert json.loads(json.dumps(content)) == expected


def test_the_members_of_a_result_are_results() -> None:
    """Each object has the fields of a result of that network alone, but the task."""
    content = json.loads(json.dumps(msgspec.to_builtins(make_result(3, **FULL))))
    alone = json.loads(json.dumps(msgspec.to_builtins(make_result(1))))
    assert [member["seed"] for member in content["members"]] == [5, 6, 7]
    for member in content["members"]:
        assert member.keys() == alone.keys() - {"task"}
    first = content["members"][0]
    assert {**first, "params_sha256": SHA256, "task": alone["task"]} == alone


VALID = msgspec.json.encode(make_result(2, tutorial_128=True, **FULL))


@pytest.mark.parametrize(
    "content",
    [
        *(b"", b"{", b"[]", b"{}", b"null", b"\x00", b"\xff\xfe{", b'{"step": 1}'),
        VALID.replace(b"mine", b"m\xe9ne"),
        VALID.replace(b'"step":7', b'"step":' + b"7" * 10_000),
        VALID.replace(b'"step":7', b'"step":"7"'),
        VALID.replace(b'"examples":6', b'"examples":true'),
        VALID[:-1] + b',"other":' + b"[" * 100_000,
    ],
)
def test_a_damaged_file_is_no_result(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "test-7.json"
    path.write_bytes(content)
    assert read_result(path, SHA256) is None
    assert read_result(tmp_path, SHA256) is None  # a folder
    path.write_bytes(VALID)
    assert read_result(path, SHA256) is not None
