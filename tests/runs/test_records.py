"""The selection of the best step."""

from support import TASK, make_metrics, run_config

from rnnmnist.config.tasks import MIN_VALIDATION_EXAMPLES
from rnnmnist.runs.checkpoint_files import Header
from rnnmnist.runs.logs import StepMetrics
from rnnmnist.runs.metrics import Metrics
from rnnmnist.runs.records import best_header


def header_of(
    step: int, metrics: StepMetrics | None, class_weight: str = "none"
) -> Header:
    config = run_config({"train.class_weight": class_weight})
    return Header(step=step, config=config, task=TASK, metrics=metrics)


def test_class_weights_select_by_balanced_accuracy() -> None:
    """One class has 90 examples, the other 10."""
    for class_weight, best in (("none", 20), ("balanced", 10)):
        headers = [header_of(50, None, class_weight)]
        for step, (first, second) in {
            10: (70, 10),  # 80 of 100, and a balanced accuracy of 89 %
            20: (88, 2),
            30: (88, 2),
            40: (84, 1),
        }.items():
            network = Metrics(
                examples=100,
                correct=first + second,
                loss=1.0,
                balanced_accuracy=(first / 90 + second / 10) / 2,
            )
            metrics = StepMetrics(members=(network,), step=step, split="validation")
            headers.append(header_of(step, metrics, class_weight))
        assert best_header(headers).step == best


def test_few_or_no_validation_examples_select_the_last_validated_step() -> None:
    few = MIN_VALIDATION_EXAMPLES - 1
    headers = [
        header_of(step, make_metrics(step, "validation", few, [correct], [1.0]))
        for step, correct in ((1, few), (2, 1))
    ]
    assert best_header([*headers, header_of(3, None)]).step == 2
    assert best_header([header_of(1, None), header_of(2, None)]).step == 2
