"""Result files: their content, and which are refused."""

import copy
import dataclasses
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from support import TASK

from rnnmnist.config.tasks import SplitSizes, Task
from rnnmnist.data.views import permutation_sha256
from rnnmnist.evaluation.metrics import Scores
from rnnmnist.evaluation.results import (
    Result,
    path_of,
    read_result,
    result_path,
    write_result,
)

TABLES = ([[3, 1], [0, 2]], [[2, 2], [1, 1]], [[4, 0], [2, 0]])
SHA256 = "of all networks"
# With a value in every field.
FULL_TASK = Task(
    name="mine",
    steps=784,
    features=1,
    classes=("a", "b"),
    examples=SplitSizes(4, 2, 6),
    image_shape=(28, 28),
    feature_names=("level",),
    sha256="of the data",
    mean=(0.5,),
    std=(2.0,),
)
PLAIN: dict[str, Any] = {}
FULL: dict[str, Any] = {
    "task": FULL_TASK,
    "permutation": "bit_reversal",
    "trained_on_sha256": "of other data",
}


def make_scores(networks: int) -> Scores:
    losses = (0.25, 0.75, 1.25)
    members = [
        {"loss": loss, "confusion": table}
        for loss, table in zip(losses, TABLES, strict=True)
    ][:networks]
    return Scores.from_dict({"members": members} if networks > 1 else members[0])


def make_result(networks: int, tutorial_128: bool = False, **changes: Any) -> Result:
    sha256s = (SHA256,) if networks == 1 else ("one", "two", "three")[:networks]
    scores = make_scores(networks)
    result = Result(
        task=TASK,
        split="test",
        step=7,
        seeds=tuple(range(5, 5 + networks)),
        permutation=None,
        trained_on_sha256=None,
        scores=scores,
        num_parameters=9,
        params_sha256=SHA256,
        network_sha256s=sha256s,
        tutorial_128=scores if tutorial_128 else None,
    )
    return dataclasses.replace(result, **changes)


@pytest.mark.parametrize("other", [[[1, 0], [0, 0]], [[6]], [[6, 0, 0]] * 3])
def test_networks_are_scored_on_the_same_examples(other: list[list[int]]) -> None:
    members = [{"loss": 1.0, "confusion": table} for table in (TABLES[0], other)]
    with pytest.raises(ValueError, match="confusion must"):
        Scores.from_dict({"members": members})


RESULTS = [
    make_result(n, first_128, **changes)
    for n in (1, 2, 3)
    for first_128 in (False, True)
    for changes in (PLAIN, FULL)
]


@pytest.mark.parametrize("result", RESULTS)
def test_results_are_restored_from_their_files(tmp_path: Path, result: Result) -> None:
    assert Result.from_dict(result.to_dict()) == result
    path = path_of(tmp_path, result)
    assert (path == result_path(tmp_path, "test", 7)) != result.of_other_data
    assert read_result(path, SHA256) is None
    write_result(tmp_path, result)
    assert read_result(path, SHA256) == result
    assert read_result(path, "of others") is None


def test_the_fields_of_a_result() -> None:
    content = make_result(1, tutorial_128=True).to_dict()
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
    }
    assert first_128 == metrics
    source = {"dataset": "mnist", "split": "test", "step": 7, "seed": 5}
    task = {
        "name": "mnist",
        "steps": 28,
        "features": 28,
        "classes": list("0123456789"),
        "examples": {"train": 55_000, "validation": 5_000, "test": 10_000},
        "image_shape": [28, 28],
        "feature_names": [],
        **dict.fromkeys(("sha256", "mean", "std")),
    }
    network = {"num_parameters": 9, "params_sha256": SHA256}
    assert content == metrics | source | network | {"task": task}


def test_the_fields_of_a_result_on_permuted_pixels_and_on_a_users_data() -> None:
    content = make_result(1, **FULL).to_dict()
    plain = make_result(1).to_dict()
    assert content.keys() - plain.keys() == {
        "permutation",
        "permutation_sha256",
        "trained_on_sha256",
    }
    assert content["permutation"] == "bit_reversal"
    assert content["permutation_sha256"] == permutation_sha256("bit_reversal", 784)
    assert content["trained_on_sha256"] == "of other data"
    assert content["dataset"] == content["task"]["name"] == "mine"
    assert content["task"]["sha256"] == "of the data"


def test_the_members_of_a_result_are_results() -> None:
    """Each object has the fields of a result of that network alone, but the task."""
    result = make_result(3)
    content = result.to_dict()
    members = content["members"]
    assert [member["params_sha256"] for member in members] == ["one", "two", "three"]
    for seed, member, scores in zip(
        result.seeds, members, result.scores.split(), strict=True
    ):
        assert "task" not in member
        own = Result.from_dict(member | {"task": content["task"]})
        assert (own.seeds, own.scores, own.step) == ((seed,), scores, result.step)
        assert own.num_parameters == 9


def paths_in(content: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Yields the path of every value in a JSON object."""
    if path:
        yield path
    if isinstance(content, dict | list):
        items = content.items() if isinstance(content, dict) else enumerate(content)
        for key, value in items:
            yield from paths_in(value, (*path, key))


def values_at(content: Any, path: tuple[Any, ...]) -> tuple[Any, Any]:
    """Returns the container of a path and its value."""
    for key in path[:-1]:
        content = content[key]
    return content, content[path[-1]]


WRONG: tuple[Any, ...] = (None, True, -1, 8, 0.5, "x", [], {})
# Another value of the same type is another result, which only the checksum could tell.
FREE = {
    1: {"split", "step", "seed", "num_parameters", "loss"},
    2: {"members.params_sha256"},
}
FREE_EVERYWHERE = {
    "trained_on_sha256",
    *(f"task.{name}" for name in ("features", "classes", "image_shape")),
    *(f"task.{name}" for name in ("feature_names", "sha256", "mean", "std")),
    *(f"task.examples.{split}" for split in ("train", "validation", "test")),
}
MAY_BE_MISSING = {("tutorial_128",), ("trained_on_sha256",)}
MAY_BE_NONE = {("task", name) for name in ("image_shape", "sha256", "mean", "std")}


def is_free(networks: int, path: tuple[Any, ...]) -> bool:
    names = [key for key in path if isinstance(key, str)]
    if names[0] == "tutorial_128":
        names = names[1:] or names  # its loss, too
    return ".".join(names) in FREE[networks] | FREE_EVERYWHERE


@pytest.mark.parametrize("networks", [1, 2])
def test_a_changed_field_is_refused(tmp_path: Path, networks: int) -> None:
    """Wherever it is, whatever it becomes."""
    path = tmp_path / "test-7.json"
    content = make_result(networks, tutorial_128=True, **FULL).to_dict()
    changes = 0
    for place in paths_in(content):
        if "accuracy_mean_interval" in place:
            continue  # it depends on the version of scipy and is computed again
        _, old = values_at(content, place)
        for new in WRONG:
            kinds = (int, float) if type(old) is float else (type(old),)
            if new == old or (type(new) in kinds and is_free(networks, place)):
                continue
            if new is None and place in MAY_BE_NONE:
                continue
            changed = copy.deepcopy(content)
            parent, _ = values_at(changed, place)
            parent[place[-1]] = new
            path.write_text(json.dumps(changed))
            assert read_result(path, SHA256) is None, (place, new)
            changes += 1
    assert changes > 200


@pytest.mark.parametrize("networks", [1, 2])
def test_a_missing_or_unknown_field_is_refused(tmp_path: Path, networks: int) -> None:
    path = tmp_path / "test-7.json"
    content = make_result(networks, tutorial_128=True, **FULL).to_dict()
    for place in paths_in(content):
        if "accuracy_mean_interval" in place or place in MAY_BE_MISSING:
            continue
        if place[0] == "task" and isinstance(place[-1], int):
            continue  # fewer classes are another task
        changed = copy.deepcopy(content)
        parent, old = values_at(changed, place)
        del parent[place[-1]]
        path.write_text(json.dumps(changed))
        assert read_result(path, SHA256) is None, place
        if isinstance(old, dict):
            changed = copy.deepcopy(content)
            values_at(changed, place)[1]["other"] = 1
            path.write_text(json.dumps(changed))
            assert read_result(path, SHA256) is None, place
    path.write_text(json.dumps(content | {"other": 1}))
    assert read_result(path, SHA256) is None


def test_the_first_128_images_have_the_same_networks(tmp_path: Path) -> None:
    path = tmp_path / "test-7.json"
    contents = [make_result(n, tutorial_128=True).to_dict() for n in (1, 2, 3)]
    for content in contents:
        for other in contents:
            mixed = content | {"tutorial_128": other["tutorial_128"]}
            path.write_text(json.dumps(mixed))
            accepted = read_result(path, SHA256) is not None
            assert accepted == (content is other)


TEXTS = {
    "empty": b"",
    "cut": b"{",
    "list": b"[]",
    "object": b"{}",
    "null": b"null",
    "zero byte": b"\x00",
    "no UTF-8": b"\xff\xfe{",
    "deep lists": b"[" * 200_000,
    "deep objects": b'{"members": ' * 200_000,
    "deep members": b'{"members": ' + b"[" * 200_000 + b"]" * 200_000 + b"}",
    "digits": b'{"step": ' + b"1" * 10_000 + b"}",
}


@pytest.mark.parametrize("text", TEXTS.values(), ids=TEXTS)
def test_a_damaged_file_is_no_result(tmp_path: Path, text: bytes) -> None:
    path = tmp_path / "test-7.json"
    path.write_bytes(text)
    assert read_result(path, SHA256) is None


@pytest.mark.parametrize(
    "huge", [10**17, 10**160, 10**400, 1.7e308], ids=["17", "160", "400", "float"]
)
@pytest.mark.parametrize("networks", [1, 2])
def test_a_huge_number_is_no_result(tmp_path: Path, networks: int, huge: float) -> None:
    """Also where it overflows the computation of a metric."""
    path = tmp_path / "test-7.json"
    content = make_result(networks, tutorial_128=True).to_dict()
    for place in paths_in(content):
        _, old = values_at(content, place)
        is_other = is_free(networks, place) or place == ("task", "steps")
        same_kind = type(huge) is type(old) and is_other
        if same_kind or "accuracy_mean_interval" in place:
            continue
        changed = copy.deepcopy(content)
        values_at(changed, place)[0][place[-1]] = huge
        path.write_text(json.dumps(changed))
        assert read_result(path, SHA256) is None, place


def test_losses_of_infinite_sum_are_no_result(tmp_path: Path) -> None:
    path = tmp_path / "test-7.json"
    content = make_result(2).to_dict()
    for member in content["members"]:
        member["loss"] = 1.7e308
    path.write_text(json.dumps(content))
    assert read_result(path, SHA256) is None


def test_a_folder_is_no_result(tmp_path: Path) -> None:
    assert read_result(tmp_path, SHA256) is None
