"""Evaluation counts every image once for any batch size, padding and mesh."""

import functools
import itertools
import json
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
from support import mesh_of, random_examples

from rnnmnist.config.schema import ModelConfig
from rnnmnist.data.datasets import Examples
from rnnmnist.evaluation.intervals import wilson_interval
from rnnmnist.evaluation.metrics import evaluate
from rnnmnist.evaluation.predictions import EvaluationSplit
from rnnmnist.evaluation.results import read_result
from rnnmnist.models.classifier import init_params, make_model

MODEL = make_model(ModelConfig(hidden_size=8))
PARAMS = init_params(MODEL, jax.random.key(0), 1.0)
EXAMPLES = random_examples(1003)
COUNTS = (1, 99, 128, 1003)
CASES = [  # images, batch per device, devices
    (1, 1, 1),
    (1, 64, 8),  # most devices have only padding
    (99, 1, 2),
    (99, 7, 8),
    (128, 64, 2),
    (1003, 64, 8),
    (1003, 5000, 1),
]


@pytest.fixture(scope="module")
def logits() -> np.ndarray:
    """The network's logits for all examples, float64 [examples, classes]."""
    predict = jax.jit(functools.partial(MODEL.apply, {"params": PARAMS}))
    return np.asarray(predict(EXAMPLES.images), np.float64)


@pytest.mark.parametrize(
    ("count", "batch", "devices"),
    [
        *CASES,
        # Each of the others compiles one more program.
        *(
            pytest.param(*case, marks=pytest.mark.slow)
            for case in itertools.product(COUNTS, (1, 7, 64, 5000), (1, 2, 8))
            if case not in CASES and case[0] / case[1] <= 200
        ),
    ],
)
def test_batch_padding_and_devices_change_no_result(
    count: int, batch: int, devices: int, logits: np.ndarray
) -> None:
    examples = Examples(EXAMPLES.images[:count], EXAMPLES.labels[:count])
    logits = logits[:count]
    predicted = logits.argmax(axis=1)
    expected = np.zeros((10, 10), int)
    np.add.at(expected, (examples.labels, predicted), 1)
    chosen = logits[np.arange(count), examples.labels]
    loss = (np.log(np.exp(logits).sum(axis=1)) - chosen).mean()
    split = EvaluationSplit.device_put(examples, mesh_of(devices), batch)
    (result,) = evaluate(MODEL, PARAMS, split)
    np.testing.assert_array_equal(result.confusion, expected)
    assert result.examples == count
    assert result.correct == (predicted == examples.labels).sum()
    assert result.loss == pytest.approx(loss, rel=1e-5)


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


def test_read_result_rejects_inconsistent_results(
    tmp_path: Path,
) -> None:
    path = tmp_path / "test-1.json"
    (result,) = evaluate(
        MODEL, PARAMS, EvaluationSplit.device_put(random_examples(9), mesh_of(1))
    )
    content = result.to_dict() | {"params_sha256": "abc", "step": 1}
    assert read_result(path, "abc") is None
    path.write_text(json.dumps(content))
    assert read_result(path, "abc") == content
    assert read_result(path, "another") is None
    for key in ("correct", "examples", "accuracy", "accuracy_interval", "confusion"):
        changes: tuple[dict[str, Any], ...] = ({key: 8}, {key: None}, {key: []})
        for wrong in changes:
            path.write_text(json.dumps(content | wrong))
            assert read_result(path, "abc") is None
        path.write_text(json.dumps({k: v for k, v in content.items() if k != key}))
        assert read_result(path, "abc") is None
    for text in ("", "{", "[]", "{}", "null", "\x00"):
        path.write_text(text)
        assert read_result(path, "abc") is None


def test_a_result_is_json() -> None:
    (result,) = evaluate(
        MODEL, PARAMS, EvaluationSplit.device_put(random_examples(9), mesh_of(1))
    )
    content = json.loads(json.dumps(result.to_dict()))
    assert sum(map(sum, content["confusion"])) == content["examples"] == 9
    assert content["accuracy"] == content["correct"] / 9
