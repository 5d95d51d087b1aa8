"""The lines of `metrics.jsonl`, and the end of a run by patience."""

import json
import re
from pathlib import Path

import pytest
from msgspec.structs import replace
from support import make_metrics, run_config

from rnnmnist.runs import logs
from rnnmnist.runs.metrics import Metrics

ONE = make_metrics(7, "validation", 6, [5], [0.5], first_seed=3)
SEVERAL = make_metrics(7, "train", 6, [5, 3], [0.5, 1.5], first_seed=3)


def test_a_line_has_the_documented_fields() -> None:
    content = SEVERAL.to_json()
    members = content.pop("members")
    line = {"step": 7, "split": "train", "loss": 1.0, "accuracy": 8 / 12}
    assert content == line | {"seed": 3, "correct": 8, "examples": 6}
    assert list(members) == [
        {"seed": 3, "loss": 0.5, "accuracy": 5 / 6, "correct": 5, "examples": 6},
        {"seed": 4, "loss": 1.5, "accuracy": 3 / 6, "correct": 3, "examples": 6},
    ]


def test_invalid_lines_are_ignored(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    assert logs.read(tmp_path) == []
    one, several = json.dumps(ONE.to_json()), json.dumps(SEVERAL.to_json())
    mistyped = several.replace('"loss": 0.5', '"loss": "0.5"')
    others = ['{"step": 7}', "not JSON", "[]", mistyped]
    path.write_text("\n".join([one, *others, several, one[:-9]]))
    assert logs.read(tmp_path) == [ONE, SEVERAL]


@pytest.mark.parametrize("class_weight", ["none", "balanced"])
@pytest.mark.parametrize("patience", [1, 3])
def test_patience_counts_validations_that_are_no_better(
    tmp_path: Path, patience: int, class_weight: str
) -> None:
    """The loss is compared, or with class weights the balanced accuracy."""
    settings = {"train.num_steps": 1000, "train.patience": patience}
    config = run_config(settings | {"train.class_weight": class_weight}).train
    lowest, waited = 9, 0
    for step, loss in enumerate([5, 4, 4, 3, 6, 2, 2, 2, 2, 2, 1], 1):
        for split in ("train", "validation"):
            metrics = make_metrics(step, split, 50, [25], [float(loss)])
            if class_weight == "balanced":  # the loss only rises
                network = Metrics(
                    examples=50, correct=25, loss=step, balanced_accuracy=1 - loss / 9
                )
                metrics = replace(metrics, members=(network,))
            logs.append(tmp_path, metrics)
        lowest, waited = min(loss, lowest), 0 if loss < lowest else waited + 1
        found = logs.describe_completion(logs.read(tmp_path), step, config)
        assert (found is not None) == (waited >= patience)
        reason = f"at step {step} of 1,000: no .* since step {step - waited} "
        assert found is None or re.search(reason, found)
