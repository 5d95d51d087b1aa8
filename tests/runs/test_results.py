"""Result files: their content, and which are refused."""

import dataclasses
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from msgspec.structs import asdict
from support import TASK

from rnnmnist.data.examples import permutation_sha256
from rnnmnist.evaluation.metrics import score_confusions
from rnnmnist.runs.results import Result, read_result, result_path, write_result

TABLES = ([[3, 1], [0, 2]], [[2, 2], [1, 1]])
SHA256 = "of all networks"
FULL_TASK = dataclasses.replace(  # with a value in every field
    TASK, feature_names=("level",), sha256="of the data", mean=(0.5,), std=(2.0,)
)
PLAIN: dict[str, Any] = {"task": TASK}
FULL: dict[str, Any] = {
    "task": FULL_TASK,
    "permutation": "bit_reversal",
    "permutation_sha256": permutation_sha256("bit_reversal", 784),
    "trained_on_sha256": "of other data",
}


def make_result(networks: int, **changes: Any) -> Result:
    losses = [0.25, 0.75][:networks]
    scores = score_confusions(np.array(TABLES[:networks]), losses, 5)
    common = {"dataset": "mine", "split": "test", "step": 7, "num_parameters": 9}
    members = [
        Result(**asdict(one) | common, params_sha256=f"of {one.seed}")
        for one in scores.members
    ]
    return Result(
        **asdict(scores) | common | PLAIN | changes | {"members": tuple(members)},
        params_sha256=SHA256,
        tutorial_128=scores,
    )


@pytest.mark.parametrize("changes", [PLAIN, FULL], ids=["plain", "full"])
def test_a_result_is_of_one_network_and_one_data_set(
    tmp_path: Path, changes: dict[str, Any]
) -> None:
    result = make_result(2, **changes)
    assert read_result(result_path(tmp_path, "test", 7), SHA256) is None
    path = write_result(tmp_path, result)
    assert path.name == ("test-7.json" if changes == PLAIN else "test-7-of the d.json")
    assert read_result(path, SHA256) == result
    assert read_result(path, "of others") is None


VALID = msgspec.json.encode(make_result(2, **FULL))


@pytest.mark.parametrize(
    "content",
    [
        b"{",
        VALID.replace(b"mine", b"m\xe9ne"),
        VALID.replace(b'"examples":6', b'"examples":true'),
    ],
)
def test_a_damaged_file_is_no_result(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "test-7.json"
    path.write_bytes(content)
    assert read_result(path, SHA256) is None
    assert read_result(tmp_path, SHA256) is None  # a folder
    path.write_bytes(VALID)
    assert read_result(path, SHA256) is not None
