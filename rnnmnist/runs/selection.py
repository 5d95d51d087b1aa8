"""Which checkpoint of a run is used: the best one, the latest one, or a number."""

import functools
import logging
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import TypeVar

from rnnmnist.config.tasks import MIN_VALIDATION_EXAMPLES
from rnnmnist.errors import RunError, UserError
from rnnmnist.runs.checkpoint_files import DamagedError, read_header
from rnnmnist.runs.scores import Scores
from rnnmnist.runs.workdir import list_steps

T = TypeVar("T")

_warn_once = functools.cache(logging.getLogger(__name__).warning)


def best_step(
    validations: Mapping[int, Scores | None], *, has_class_weights: bool
) -> int:
    """Returns the step with the highest validation accuracy, the earlier one on a tie.

    If the run has class weights, balanced accuracies are compared. The step is the last
    one if there are too few validation examples to compare, and 0 if there are no
    steps.
    """
    validated = {step: scores for step, scores in validations.items() if scores}

    def rank(step: int) -> tuple[float, int]:
        scores = validations[step]
        if scores is None or scores.examples < MIN_VALIDATION_EXAMPLES:
            return 0.0, step
        if has_class_weights and scores.balanced_accuracy is not None:
            return scores.balanced_accuracy, -step
        return scores.accuracy, -step

    return max(validated or validations, key=rank, default=0)


def find_step(
    workdir: Path, selector: str, damaged: Collection[int] = frozenset()
) -> int:
    """Returns the step of the checkpoint `best`, `latest`, or with this number.

    Steps that are known to be damaged are left out.
    """
    if not workdir.is_dir():
        raise UserError(f"workdir: {workdir} does not exist; name a run's folder")
    steps = [step for step in list_steps(workdir) if step not in damaged]
    if not steps:
        raise UserError(
            f"workdir: {workdir} holds no checkpoint; train in it with rnnmnist train"
        )
    names = [str(step) for step in steps]
    if selector == "latest":
        return steps[-1]
    if selector == "best":
        return _find_best(workdir, steps)
    if selector in names:
        return int(selector)
    raise UserError(
        f"step: {workdir} has no step {selector}; choose best, latest or one of "
        f"{', '.join(names)}"
    )


def read_selected_step(workdir: Path, selector: str, function: Callable[[int], T]) -> T:
    """Calls a function with the selected step.

    A running trainer deletes old checkpoints, so the step can disappear while it is
    read. Then the function is called again with the step that is selected by now. If
    the step is damaged, `best` and `latest` select another one, with a warning.
    """
    damaged = set[int]()
    while True:
        step = find_step(workdir, selector, damaged)
        try:
            return function(step)
        except RunError as error:
            if not (workdir / str(step)).exists():
                continue
            damaged.add(step)
            others = set(list_steps(workdir)) - damaged
            is_by_number = selector not in ("best", "latest")
            if not isinstance(error, DamagedError) or is_by_number or not others:
                raise
            _warn_of(error)


def _find_best(workdir: Path, steps: Sequence[int]) -> int:
    """Returns the best step, as far as their headers are undamaged.

    A step whose header is damaged is selected only if no other one was validated.
    """
    validations: dict[int, Scores | None] = dict.fromkeys(steps)
    has_class_weights = False
    for step in steps:
        try:
            header = read_header(workdir, step)
        except DamagedError as error:
            if error.folder.exists():  # else a running trainer has just deleted it
                _warn_of(error)
            continue
        validations[step] = header.metrics
        has_class_weights = header.config.train.has_class_weights
    return best_step(validations, has_class_weights=has_class_weights)


def _warn_of(error: DamagedError) -> None:
    _warn_once(f"{error.folder} is damaged and not used: {error.reason}")
