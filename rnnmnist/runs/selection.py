"""Selects the best checkpoint of a run and the checkpoints to keep."""

from collections.abc import Iterable

from rnnmnist.config.tasks import MIN_VALIDATION_EXAMPLES
from rnnmnist.runs.checkpoint_files import Header


def outdated_steps(headers: Iterable[Header]) -> set[int]:
    """Returns the steps of the checkpoints to delete.

    A run keeps the best step, the latest step and the latest `train.keep_checkpoints`
    validated steps. The latest step may not be validated, because a signal can stop a
    run between two validations.

    Args:
        headers: the headers of all checkpoints, in ascending order of steps.
    """
    headers = list(headers)
    latest = headers[-1]
    steps = [header.step for header in headers]
    validated_steps = [header.step for header in headers if header.metrics is not None]
    latest_steps = (validated_steps or steps)[-latest.config.train.keep_checkpoints :]
    return {*steps} - {best_header(headers).step, latest.step, *latest_steps}


def best_header(headers: Iterable[Header]) -> Header:
    """Returns the header with the highest validation accuracy, the earliest on a tie.

    If there are class weights, the balanced accuracy is used instead. If there are
    fewer than `MIN_VALIDATION_EXAMPLES` validation examples, the last validated step is
    the best step.
    """

    def sort_key(header: Header) -> tuple[float, int]:
        metrics = header.metrics
        if metrics is None:
            return -1.0, header.step
        if metrics.examples < MIN_VALIDATION_EXAMPLES:
            return 0.0, header.step
        is_weighted = header.config.train.has_class_weights
        if is_weighted and metrics.balanced_accuracy is not None:
            return metrics.balanced_accuracy, -header.step
        return metrics.accuracy, -header.step

    return max(headers, key=sort_key)
