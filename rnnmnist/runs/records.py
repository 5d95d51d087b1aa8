"""The record of a run: what its training hands out, and what its networks are.

A training writes lines of the log, checkpoints, left-out predictions and a result into
a record, and does not know its form. `Record` keeps them in memory. A `Folder`
(`folder.py`) also writes them into the files of a workdir, and reads those that an
earlier process has written.
"""

import functools
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import jax
import msgspec
from numpy.typing import ArrayLike

from rnnmnist.config.resolving import RunConfig
from rnnmnist.config.tasks import MIN_VALIDATION_EXAMPLES, Task
from rnnmnist.errors import UserError
from rnnmnist.models.parameters import Params
from rnnmnist.runs.logs import Metrics
from rnnmnist.runs.results import Result

# The format is raised if a setting, a field of the header or an array is renamed or
# removed, and older checkpoints would be misread; then the shipped models must be
# rewritten and sealed, too. A setting that is added has the default with which earlier
# runs trained.
FORMAT = 9

Tree = Any  # a tree of arrays or of their shapes, which mypy cannot describe


class Header(msgspec.Struct, frozen=True, kw_only=True):
    """What a checkpoint has besides its arrays."""

    format: int = FORMAT
    step: int
    config: RunConfig
    task: Task
    # Of the validation split, or leave-one-out predictions; None if there are neither.
    metrics: Metrics | None
    # By which the logits are multiplied for the probabilities. The metrics, which
    # select the checkpoint, are those without it.
    multiplier: float = 1.0


class Record:
    """The lines, checkpoints and left-out predictions of a run, in memory.

    Attributes:
        workdir: the folder of the run; None in memory.
        headers: the headers of the kept checkpoints by their steps, ascending.
        params: the evaluated parameters of checkpoints by their steps, as NumPy arrays
            with a leading ensemble axis.
        state: the arrays of the training at the newest step, for a resume; None if this
            process has neither saved nor read them. Of a fit in closed form, they are
            the logits `left_out` of its leave-one-out predictions, float64 [ensemble,
            examples, classes], with the examples in the order of their groups.
    """

    workdir: Path | None = None

    def __init__(self) -> None:
        self.headers: dict[int, Header] = {}
        self.params: dict[int, Params] = {}
        self.state: Tree | None = None

    @functools.cached_property
    def lines(self) -> list[Metrics]:
        """The lines of the log."""
        return []

    @property
    def step(self) -> int:
        """The step of the newest checkpoint, from which a run resumes; 0 without."""
        return max(self.headers, default=0)

    def select(self, selector: str) -> Header:
        """Returns the header of the checkpoint `best`, `latest`, or with this number.

        Raises:
            UserError: if there is no such checkpoint.
        """
        if not self.headers:
            raise UserError(
                f"workdir: {self.workdir} holds no checkpoint; name the folder of a "
                "run, or train in it with rnnmnist train"
            )
        if selector == "best":
            return best_header(self.headers.values())
        named = {str(step): header for step, header in self.headers.items()}
        named["latest"] = self.headers[self.step]
        if selector not in named:
            raise UserError(
                f"step: {self.workdir or 'the run'} has no step {selector}; choose "
                f"best, latest or one of {', '.join(map(str, self.headers))}"
            )
        return named[selector]

    def read_params(self, header: Header) -> Params:
        """Returns the evaluated parameters of a checkpoint."""
        return self.params[header.step]

    def read_state(self, like: Tree | None = None) -> Tree | None:
        """Returns `state`, with the names and shapes of `like`; None if it is gone."""
        return self.state

    def begin(self, config: RunConfig | None) -> None:
        """Prepares the record for a training with a configuration.

        None is a run that is complete, and is only evaluated.
        """

    def log(self, metrics: Metrics) -> None:
        """Adds a line to the log."""
        self.lines.append(metrics)

    def save(self, header: Header, params: Params, state: Tree) -> None:
        """Keeps a checkpoint, and drops those that `outdated_steps` names.

        The arrays are NumPy's, or replicated on the devices.
        """
        self.headers[header.step] = header
        self.params[header.step], self.state = jax.device_get((params, state))
        for step in outdated_steps(self.headers.values()):
            del self.headers[step]
            self.params.pop(step, None)

    def save_table(self, name: str, table: str) -> None:
        """Keeps the text of a CSV file, which only a `Folder` does."""

    def save_arrays(self, arrays: Mapping[str, ArrayLike]) -> None:
        """Keeps the arrays of `fit`, from which a run in a folder is evaluated."""

    def save_result(self, result: Result) -> None:
        """Keeps a result, which only a `Folder` does."""

    def describe_stop(self, step: int, num_steps: int) -> str:
        """Returns the message of a run that a signal has stopped after a step."""
        return (
            f"stopped at step {step} of {num_steps}, and nothing is saved, since no "
            "workdir is named; with one, the same call resumes"
        )


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
