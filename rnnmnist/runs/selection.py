"""Which checkpoints of a run are kept, and which one is the best."""

from collections.abc import Iterable

from rnnmnist.config.tasks import MIN_VALIDATION_EXAMPLES
from rnnmnist.runs.checkpoint_files import Header


def outdated_steps(headers: Iterable[Header]) -> set[int]:
    """Returns the steps of checkpoints that are not kept, of ascending ones.

    The best step, the last one, and `train.keep_checkpoints` of the newest validated
    ones are kept. A step that a signal has saved between two validations is not
    validated.
    """
    kept = list(headers)
    last = kept[-1]
    steps = [header.step for header in kept]
    validated = [header.step for header in kept if header.metrics is not None]
    newest = (validated or steps)[-last.config.train.keep_checkpoints :]
    return {*steps} - {best_header(kept).step, last.step, *newest}


def best_header(headers: Iterable[Header]) -> Header:
    """Returns the step with the highest validation accuracy, the earlier one on a tie.

    With class weights, balanced accuracies are compared. With too few validation
    examples to compare, the last validated step is returned.
    """

    def rank(header: Header) -> tuple[float, int]:
        scores = header.metrics
        if scores is None:
            return -1.0, header.step
        if scores.examples < MIN_VALIDATION_EXAMPLES:
            return 0.0, header.step
        is_weighted = header.config.train.has_class_weights
        if is_weighted and scores.balanced_accuracy is not None:
            return scores.balanced_accuracy, -header.step
        return scores.accuracy, -header.step

    return max(headers, key=rank)
