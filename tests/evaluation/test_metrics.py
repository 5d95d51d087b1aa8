"""Losses, accuracies and confusion matrices by hand, and their JSON."""

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from rnnmnist.evaluation.intervals import wilson_interval
from rnnmnist.evaluation.metrics import Metrics, Scores, read_metrics_file

# Two networks and six examples of three classes, none of which is of class 2.
LABELS = np.array([0, 0, 0, 0, 1, 1], np.uint8)
PREDICTED = np.array([[0, 0, 0, 1, 1, 1], [0, 2, 2, 2, 0, 1]])
CONFUSIONS = (((3, 1, 0), (0, 2, 0), (0, 0, 0)), ((1, 0, 3), (1, 1, 0), (0, 0, 0)))


def make_scores() -> Scores:
    """Of logits that give the predicted class a probability of a half."""
    logits = np.log(2) * np.eye(3, dtype=np.float32)[PREDICTED]
    return Scores.from_logits(logits, LABELS)


@pytest.mark.parametrize(
    ("correct", "examples", "low", "high"),
    [  # published values of the formula
        (123, 128, 0.912, 0.983),
        (125, 128, 0.933, 0.992),
        (0, 10, 0.0, 0.2775),
        (10, 10, 0.7225, 1.0),
        (9870, 10_000, 0.98459, 0.98904),
    ],
)
def test_wilson_intervals(correct: int, examples: int, low: float, high: float) -> None:
    found = wilson_interval(correct, examples)
    assert found == pytest.approx((low, high), abs=6e-4)


def test_scores_by_hand() -> None:
    scores = make_scores()
    assert scores.confusions == CONFUSIONS
    assert (scores.examples, scores.correct) == (6, (5, 2))
    assert scores.accuracies == (5 / 6, 2 / 6)
    assert scores.accuracy == 7 / 12
    right, wrong = math.log(2), math.log(4)
    losses = ((5 * right + wrong) / 6, (2 * right + 4 * wrong) / 6)
    assert scores.losses == pytest.approx(losses)
    assert scores.loss == pytest.approx(sum(losses) / 2)
    assert scores.confusion.tolist() == [[4, 1, 3], [1, 3, 0], [0, 0, 0]]
    assert scores.accuracy_interval == wilson_interval(3.5, 6)


def test_the_balanced_accuracy_by_hand() -> None:
    """The mean of 3/4 and 2/2, and that of 1/4 and 1/2; a class without examples."""
    scores = make_scores()
    networks = [one.balanced_accuracy for one in scores.split()]
    assert networks == pytest.approx([7 / 8, 3 / 8])
    assert scores.balanced_accuracy == pytest.approx(5 / 8)


def test_the_variation_over_networks_by_hand() -> None:
    """Its interval uses Student's t of one degree of freedom, 12.706, and is clipped.

    With four networks, it is 3.182 standard errors.
    """
    scores = make_scores()
    assert scores.accuracy_std == pytest.approx(1 / 2 / math.sqrt(2))
    assert scores.accuracy_mean_interval == (0.0, 1.0)
    counts = (90, 91, 92, 91)
    tables = [[[count, 100 - count], [0, 0]] for count in counts]
    members = [{"loss": 0.5, "confusion": table} for table in tables]
    four = Scores.from_dict({"members": members})
    half = 3.18245 * math.sqrt(2 / 3) / 100 / 2
    expected = (0.91 - half, 0.91 + half)
    assert four.accuracy_mean_interval == pytest.approx(expected, abs=1e-7)


def test_networks_are_split() -> None:
    scores = make_scores()
    one, other = scores.split()
    assert (one.losses, one.correct) == (scores.losses[:1], (5,))
    assert (other.losses, other.confusions) == (scores.losses[1:], CONFUSIONS[1:])
    assert one.examples == other.examples == 6
    assert one.split() == [one]


def test_a_diverged_network_is_scored_without_warnings() -> None:
    logits = np.full((1, 6, 3), np.nan, np.float32)
    scores = Scores.from_logits(logits, LABELS)
    assert scores.examples == 6
    assert math.isnan(scores.loss)


def test_scores_are_restored_from_json() -> None:
    scores = make_scores()
    members = [{"seed": 3}, {"seed": 4}]
    content = json.loads(json.dumps(scores.to_dict(members)))
    assert Scores.from_dict(content) == scores
    assert [member["seed"] for member in content["members"]] == [3, 4]
    for one, member in zip(scores.split(), content["members"], strict=True):
        own = json.loads(json.dumps(one.to_dict([{}])))
        assert Scores.from_dict(own) == Scores.from_dict(member) == one
        assert own.items() <= member.items()


@pytest.mark.parametrize(
    "confusion",
    [
        None,
        [],
        "12",
        [1, 2],
        [[1, 2]],
        [[1, 2], [3]],
        [[1, 2], [3, 4.0]],
        [[1, 2], [3, True]],
        [[1, 2], [3, -1]],
        [[0, 0], [0, 0]],
        [[]],
    ],
)
def test_what_is_no_confusion_matrix_is_refused(confusion: Any) -> None:
    good = {"loss": 0.5, "confusion": [[1, 2], [3, 4]]}
    bad = good | {"confusion": confusion}
    with pytest.raises(ValueError, match="confusion"):
        Scores.from_dict(bad)
    with pytest.raises(ValueError, match="confusion"):
        Scores.from_dict({"members": [bad, good]})


# The lines of metrics.jsonl.

ONE = Metrics(examples=6, losses=(0.5,), correct=(5,), step=7, split="validation")
SEVERAL = Metrics(examples=6, losses=(0.5, 1.5), correct=(5, 3), step=7, split="train")


@pytest.mark.parametrize("metrics", [ONE, SEVERAL])
def test_metrics_are_restored_from_json(metrics: Metrics) -> None:
    seeds = (3, 4)[: len(metrics.correct)]
    content = json.loads(json.dumps(metrics.to_dict(seeds)))
    assert Metrics.from_dict(content) == metrics


def test_the_fields_of_metrics() -> None:
    line = {"step": 7, "split": "validation", "loss": 0.5, "accuracy": 5 / 6}
    assert ONE.to_dict([3]) == line | {"correct": 5, "examples": 6}
    content = SEVERAL.to_dict([3, 4])
    members = content.pop("members")
    line = {"step": 7, "split": "train", "loss": 1.0, "accuracy": 8 / 12}
    assert content == line | {"correct": 8, "examples": 6}
    assert members == [
        {"seed": 3, "loss": 0.5, "accuracy": 5 / 6, "correct": 5},
        {"seed": 4, "loss": 1.5, "accuracy": 3 / 6, "correct": 3},
    ]


@pytest.mark.parametrize("name", ["step", "split", "loss", "correct", "examples"])
@pytest.mark.parametrize("value", [None, True, [], {}, [1]])
def test_metrics_of_other_types_are_refused(name: str, value: Any) -> None:
    content = ONE.to_dict([3])
    with pytest.raises(ValueError, match=f"{name} must be"):
        Metrics.from_dict(content | {name: value})
    with pytest.raises(ValueError, match=f"{name} must be"):
        Metrics.from_dict({key: old for key, old in content.items() if key != name})


def test_other_lines_of_a_metrics_file_are_left_out(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    assert read_metrics_file(path) == []
    lines = [
        json.dumps(ONE.to_dict([3])),
        '{"step": 7}',
        '{"step": "7", "split": "train"}',
        "not JSON",
        "[]",
        json.dumps(SEVERAL.to_dict([3, 4]) | {"members": []}),
        json.dumps(SEVERAL.to_dict([3, 4])),
        json.dumps(ONE.to_dict([3]))[:-9],  # incomplete
    ]
    path.write_text("\n".join(lines))
    assert read_metrics_file(path) == [ONE, SEVERAL]
