"""Selects the best checkpoint of a run and the checkpoints to keep."""

from collections.abc import Iterable

from rnnmnist.config.tasks import MIN_VALIDATION_EXAMPLES
from rnnmnist.runs.checkpoint_files import Header


def outdated_steps(headers: Iterable[Header]) -> set[int]:
    """Returns the steps of checkpoints to delete, from headers in ascending order.

    The best step, the last step and the `train.keep_checkpoints` newest validated steps
    are kept. If a signal stops a run between two validations, the saved step is not
    validated.
    """
    kept = list(headers)
    last = kept[-1]
    steps = [header.step for header in kept]
    validated = [header.step for header in kept if header.metrics is not None]
    newest = (validated or steps)[-last.config.train.keep_checkpoints :]
    return {*steps} - {best_header(kept).step, last.step, *newest}


def best_header(headers: Iterable[Header]) -> Header:
    """Returns the header with the highest validation accuracy; ties go to the earliest.

    With class weights, balanced accuracy is compared. With fewer than
    `MIN_VALIDATION_EXAMPLES` validation examples, the last validated step is the best.
    """

    def rank(header: Header) -> tuple[float, int]:
        metrics = header.metrics
        if metrics is None:
            return -1.0, header.step
        if metrics.examples < MIN_VALIDATION_EXAMPLES:
            return 0.0, header.step
        is_weighted = header.config.train.has_class_weights
        if is_weighted and metrics.balanced_accuracy is not None:
            return metrics.balanced_accuracy, -header.step
        return metrics.accuracy, -header.step

    return max(headers, key=rank)
