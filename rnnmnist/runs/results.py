"""The result files of a run."""

from pathlib import Path
from typing import Any

from rnnmnist.config.tasks import Task
from rnnmnist.runs.metrics import RESULT_FIELDS, EnsembleMetrics, select_fields

# The fields of a result file that describe the run and the data as a whole. Each of
# the `members` of an ensemble has the SHA-256 of its own parameters.
SHARED_FIELDS = (
    "params_sha256",
    "temperature",
    "task",
    "permutation",
    "permutation_sha256",
    "trained_on_sha256",
    "examples_trained_on",
    "accuracy_by_group",
)


class Result(EnsembleMetrics, frozen=True, kw_only=True, omit_defaults=True):
    """The scores of a checkpoint on a split, and of what they are.

    Every network of a result has a confusion matrix.

    Attributes:
        dataset: the name of the evaluated data.
        split: `train`, `validation` or `test`, or `leave_one_out` or
            `leave_one_group_out`, as of `StepMetrics`.
        step: the step of the checkpoint.
        num_parameters: the number of trained parameters of one network.
        params_sha256: the SHA-256 of all parameter arrays of all networks.
        member_sha256: the SHA-256 of the arrays of each network.
        temperature: divides the logits of which the losses are computed, except for
            the members of an ensemble.
        task: the evaluated data.
        permutation: the order of the pixels in the view `permuted`.
        permutation_sha256: the SHA-256 of that order.
        trained_on_sha256: `Task.sha256` of the training data.
        tutorial_128: the scores on the first 128 test examples.
        calibrated_here: whether the temperature was fitted on these examples. The loss
            is then slightly too low.
        examples_trained_on: the number of examples that are equal to training
            sequences, of data other than those of the training; None if this is not
            known.
        accuracy_by_group: the accuracy on the examples of each group, the mean over
            several networks; None without groups.
    """

    dataset: str
    split: str
    step: int
    num_parameters: int
    params_sha256: str
    member_sha256: tuple[str, ...]
    temperature: float
    task: Task
    permutation: str | None = None
    permutation_sha256: str | None = None
    trained_on_sha256: str | None = None
    tutorial_128: EnsembleMetrics | None = None
    calibrated_here: bool = False
    examples_trained_on: int | None = None
    accuracy_by_group: dict[str, float] | None = None

    @property
    def path(self) -> Path:
        """The path of the file in the workdir.

        If the data are others than those of the training, it has their SHA-256.
        """
        path = Path("evaluation", f"{self.split}-{self.step}.json")
        sha256 = self.task.sha256
        if sha256 != self.trained_on_sha256:
            path = path.with_stem(f"{path.stem}-{str(sha256)[:8]}")
        return path


def to_json(result: Result) -> dict[str, Any]:
    """Returns the content of a result file, which has derived metrics, too.

    The file of an ensemble also has the spread over networks, the scores of the mean of
    their probabilities, and the scores of each network.
    """
    run = ("dataset", "split", "step", "num_parameters")
    content = select_fields(result, (*run, "groups", *RESULT_FIELDS, *SHARED_FIELDS))
    if result.tutorial_128 is not None:
        content["tutorial_128"] = select_fields(result.tutorial_128, RESULT_FIELDS)
    if result.ensemble is None:
        return content
    members = [
        select_fields(result, run)
        | select_fields(member, RESULT_FIELDS)
        | {"params_sha256": sha256}
        for member, sha256 in zip(result.members, result.member_sha256, strict=True)
    ]
    return content | {
        "accuracy_mean": result.accuracy,
        "accuracy_std": result.accuracy_std,
        "accuracy_mean_interval": result.accuracy_mean_interval,
        "ensemble_correct": result.ensemble.correct,
        "ensemble_accuracy": result.ensemble.accuracy,
        "ensemble_loss": result.ensemble.loss,
        "members": members,
    }
