"""Which step of a run is the best one."""

from rnnmnist.runs.scores import NetworkScores, Scores
from rnnmnist.runs.selection import best_step


def test_the_best_step_has_the_highest_balanced_accuracy_with_class_weights() -> None:
    """The confusion matrices are of 90 examples of one class and 10 of the other."""
    found: dict[int, Scores | None] = {}
    for step, (first, second) in {
        10: (70, 10),  # 80 of 100, and a balanced accuracy of 89 %
        20: (88, 2),
        30: (88, 2),
        40: (84, 1),
    }.items():
        network = NetworkScores(
            examples=100,
            correct=first + second,
            loss=1.0,
            confusion=((first, 90 - first), (10 - second, second)),
        )
        found[step] = Scores(networks=(network,))
    for has_class_weights, best in ((False, 20), (True, 10)):
        weights = {"has_class_weights": has_class_weights}
        assert best_step(found | {50: None}, **weights) == best
        assert best_step({10: None, 20: None}, **weights) == 20
