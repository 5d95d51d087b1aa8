"""Evaluation: every image once, whatever the batch, padding and devices."""

import json
from pathlib import Path

import jax
import numpy as np
import pytest
from support import mesh_of, random_examples

from rnnmnist.config import ModelConfig
from rnnmnist.evaluation import EvaluationSplit, evaluate, kept_result
from rnnmnist.intervals import wilson_interval
from rnnmnist.model import init_params, make_model

MODEL = make_model(ModelConfig(hidden_size=16))
PARAMS = init_params(MODEL, jax.random.key(0), 1.0)


@pytest.mark.parametrize("count", [1, 99, 128, 1003])
def test_batch_padding_and_devices_change_no_result(count: int) -> None:
    examples = random_examples(count)
    logits = np.asarray(MODEL.apply({"params": PARAMS}, examples.images), np.float64)
    answers = logits.argmax(axis=1)
    expected = np.zeros((10, 10), int)
    np.add.at(expected, (examples.labels, answers), 1)
    chosen = logits[np.arange(count), examples.labels]
    loss = (np.log(np.exp(logits).sum(axis=1)) - chosen).mean()
    for devices in (1, 2, 8):
        for batch in (1, 7, 64, 5000):
            if count / batch > 200:
                continue
            split = EvaluationSplit.put(examples, mesh_of(devices), batch)
            (result,) = evaluate(MODEL, PARAMS, split)
            np.testing.assert_array_equal(result.confusion, expected)
            assert result.examples == count
            assert result.correct == (answers == examples.labels).sum()
            assert result.loss == pytest.approx(loss, rel=1e-5)


def test_images_that_are_lost_or_counted_twice_are_an_error() -> None:
    examples = random_examples(20)
    split = EvaluationSplit.put(examples, mesh_of(1))
    wrong = EvaluationSplit(split.images, split.labels, 21, split.mesh)
    with pytest.raises(RuntimeError, match="counted 20 of 21"):
        evaluate(MODEL, PARAMS, wrong)


@pytest.mark.parametrize(
    ("correct", "examples", "low", "high"),
    [  # from the formula's published worked values, and the field notes' two
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


def test_a_kept_result_is_of_these_parameters_and_adds_up(tmp_path: Path) -> None:
    path = tmp_path / "test-1.json"
    (result,) = evaluate(
        MODEL, PARAMS, EvaluationSplit.put(random_examples(9), mesh_of(1))
    )
    document = result.to_dict() | {"params_sha256": "abc", "step": 1}
    assert kept_result(path, "abc") is None
    path.write_text(json.dumps(document))
    assert kept_result(path, "abc") == document
    assert kept_result(path, "another") is None
    for key in ("correct", "examples", "accuracy", "accuracy_interval", "confusion"):
        for wrong in ({key: 8}, {key: None}, {key: []}):
            path.write_text(json.dumps(document | wrong))
            assert kept_result(path, "abc") is None
        path.write_text(json.dumps({k: v for k, v in document.items() if k != key}))
        assert kept_result(path, "abc") is None
    for text in ("", "{", "[]", "{}", "null", "\x00"):
        path.write_text(text)
        assert kept_result(path, "abc") is None


def test_a_result_is_json() -> None:
    (result,) = evaluate(
        MODEL, PARAMS, EvaluationSplit.put(random_examples(9), mesh_of(1))
    )
    document = json.loads(json.dumps(result.to_dict()))
    assert sum(map(sum, document["confusion"])) == document["examples"] == 9
    assert document["accuracy"] == document["correct"] / 9
