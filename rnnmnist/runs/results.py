"""The result files of a run."""

import errno
import logging
from pathlib import Path

import msgspec

from rnnmnist.config.tasks import Task
from rnnmnist.runs.scores import Scores
from rnnmnist.runs.writing import write_json

_logger = logging.getLogger(__name__)


class Result(Scores, frozen=True, kw_only=True, omit_defaults=True):
    """The scores of a checkpoint on a split: the content of a result file.

    Every result has `accuracy_interval`, `balanced_accuracy` and `confusion`. The
    results of an ensemble's members have none of the attributes from `task` on.

    Attributes:
        dataset: the name of the evaluated data.
        split: `train`, `validation` or `test`, or `leave_one_out` or
            `leave_one_group_out`, as of `Metrics`.
        step: the step of the checkpoint.
        num_parameters: the number of trained parameters of one member.
        params_sha256: the SHA-256 of all parameter arrays of all members.
        multiplier: the factor of the logits with which the losses are computed, but
            for the losses of an ensemble's members.
        task: the evaluated data.
        permutation: the order of the pixels in the view `permuted`.
        permutation_sha256: the SHA-256 of that order.
        trained_on_sha256: `Task.sha256` of the training data.
        tutorial_128: the scores on the first 128 test examples.
    """

    dataset: str
    split: str
    step: int
    num_parameters: int
    params_sha256: str
    accuracy_interval: tuple[float, float]
    balanced_accuracy: float
    confusion: tuple[tuple[int, ...], ...]
    multiplier: float = 1.0
    task: Task | None = None
    permutation: str | None = None
    permutation_sha256: str | None = None
    trained_on_sha256: str | None = None
    tutorial_128: Scores | None = None
    members: tuple["Result", ...] = ()


def result_path(workdir: Path, split: str, step: int) -> Path:
    """Returns the path of a result on the data of the run."""
    return workdir / "evaluation" / f"{split}-{step}.json"


def loss_note(split: str, multiplier: float, *, is_of_run: bool) -> str:
    """Says that a loss is too low, since its examples chose the multiplier; else empty.

    `is_of_run` says whether the data are those of the training. Predictions of examples
    that are left out also chose the multiplier that each fitted head contains.
    """
    is_left_out = split in ("leave_one_out", "leave_one_group_out")
    is_calibrated = split == "validation" and multiplier != 1
    if not (is_of_run and (is_left_out or is_calibrated)):
        return ""
    return " (slightly too low, since this split chose the multiplier of the logits)"


def path_of(result: Result, workdir: Path) -> Path:
    """Returns the path of a result.

    If the data are others than those of the training, the name has their SHA-256.
    """
    path = result_path(workdir, result.split, result.step)
    sha256 = None if result.task is None else result.task.sha256
    if sha256 != result.trained_on_sha256:
        path = path.with_stem(f"{path.stem}-{str(sha256)[:8]}")
    return path


def write_result(workdir: Path, result: Result) -> Path:
    """Writes the file of a result in a workdir, and returns its path.

    A read-only workdir causes a warning.
    """
    path = path_of(result, workdir)
    try:
        write_json(path, result)
    except OSError as error:
        if error.errno not in (errno.EACCES, errno.EPERM, errno.EROFS):
            raise
        _logger.warning(f"the result is not recorded: {error}")
    return path


def read_result(path: Path, params_sha256: str) -> Result | None:
    """Reads a result file.

    Returns None if the file is missing or damaged, or has a result of other parameters.
    """
    try:
        result = msgspec.json.decode(path.read_bytes(), type=Result)
    except (OSError, ValueError, RecursionError):
        return None
    if result.task is None or result.params_sha256 != params_sha256:
        return None
    return result
