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
    one if there are too few validation examples to compare.
    """

    def rank(header: Header) -> tuple[float, int]:
        scores = header.metrics
        if scores is None or scores.examples < MIN_VALIDATION_EXAMPLES:
            return 0.0, header.step
        is_weighted = header.config.train.has_class_weights
        if is_weighted and scores.balanced_accuracy is not None:
            return scores.balanced_accuracy, -header.step
        return scores.accuracy, -header.step

    validated = [header for header in headers if header.metrics is not None]
    return max(validated or headers, key=rank)


def select(workdir: Path, selector: str) -> Header:
    """Returns the header of the checkpoint `best`, `latest`, or with this number."""
    if not workdir.is_dir():
        raise UserError(f"workdir: {workdir} does not exist; name a run's folder")
    steps = list_steps(workdir)
    if not steps:
        raise UserError(
            f"workdir: {workdir} holds no checkpoint; train in it with rnnmnist train"
        )
    names = [str(step) for step in steps]
    if selector == "latest":
        selector = names[-1]
    if selector == "best":
        return best_header([read_header(workdir, step) for step in steps])
    if selector in names:
        return read_header(workdir, int(selector))
    raise UserError(
        f"step: {workdir} has no step {selector}; choose best, latest or one of "
        f"{', '.join(names)}"
    )
