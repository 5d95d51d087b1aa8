"""Which checkpoint of a run is used: the best one, the latest one, or a number."""

from collections.abc import Sequence
from pathlib import Path

from rnnmnist.config.tasks import MIN_VALIDATION_EXAMPLES
from rnnmnist.errors import UserError
from rnnmnist.runs.checkpoint_files import Header, read_header
from rnnmnist.runs.workdir import list_steps


def best_header(headers: Sequence[Header]) -> Header:
    """Returns the step with the highest validation accuracy, the earlier one on a tie.

    If the run has class weights, balanced accuracies are compared. The step is the last
    validated one if there are too few validation examples to compare.
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


def select(workdir: Path, selector: str) -> Header:
    """Returns the header of the checkpoint `best`, `latest`, or with this number."""
    steps = list_steps(workdir)
    if not steps:
        raise UserError(
            f"workdir: {workdir} holds no checkpoint; name the folder of a run, or "
            "train in it with rnnmnist train"
        )
    if selector == "best":
        return best_header([read_header(workdir, step) for step in steps])
    selected = {str(step): step for step in steps} | {"latest": steps[-1]}
    if selector not in selected:
        raise UserError(
            f"step: {workdir} has no step {selector}; choose best, latest or one of "
            f"{', '.join(map(str, steps))}"
        )
    return read_header(workdir, selected[selector])
