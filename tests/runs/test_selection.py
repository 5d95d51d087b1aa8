"""Which step of a run is the best one."""

import msgspec

from rnnmnist.evaluation.metrics import make_scores
from rnnmnist.runs.selection import best_step


def test_the_best_step_has_the_highest_balanced_accuracy_with_class_weights() -> None:
    found = {
        step: make_scores(100, [correct], [1.0])
        for step, correct in ((10, 80), (20, 90), (30, 90), (40, 85))
    }
    for has_class_weights in (False, True):
        weights = {"has_class_weights": has_class_weights}
        assert best_step(found | {50: None}, **weights) == 20
        assert best_step({10: None, 20: None}, **weights) == 20
    for step, scores in found.items():
        balanced = (100 - scores.correct) / 100
        found[step] = msgspec.structs.replace(scores, balanced_accuracy=balanced)
    assert best_step(found, has_class_weights=False) == 20
    assert best_step(found, has_class_weights=True) == 10
