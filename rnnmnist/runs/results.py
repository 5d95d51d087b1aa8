"""Result files: the metrics of evaluated checkpoints."""

from pathlib import Path
from typing import Any

from rnnmnist.config.tasks import Task
from rnnmnist.runs.metrics import RESULT_FIELDS, EnsembleMetrics, select_fields

# Fields that are written only at the top level. One exception: each member also has a
# `params_sha256`, the hash of the member's own parameters.
TOP_LEVEL_FIELDS = (
    "params_sha256",
    "temperature",
    "task",
    "permutation",
    "permutation_sha256",
    "trained_on_sha256",
    "examples_seen_in_training",
    "accuracy_by_group",
)


class Result(EnsembleMetrics, frozen=True, kw_only=True, omit_defaults=True):
    """Metrics of a checkpoint on one split, with the data set, step and hashes.

    Unlike in other `EnsembleMetrics`, every member has a confusion matrix.

    Attributes:
        dataset: the name of the evaluated data set.
        split: `train`, `validation`, `test`, `leave_one_out` or `leave_one_group_out`.
        step: the step of the checkpoint.
        num_parameters: the number of trained parameters per member.
        params_sha256: the SHA-256 of the parameter arrays of all members.
        member_sha256: the SHA-256 of each member's parameter arrays.
        temperature: the temperature that the loss uses. The losses of the members of an
            ensemble use temperature 1.
        task: the shapes, classes and statistics of the evaluated data set.
        permutation: the name of the pixel order in the view `permuted`.
        permutation_sha256: the SHA-256 of the pixel order.
        trained_on_sha256: `Task.sha256` of the training data.
        tutorial_128: the metrics on the first 128 test examples.
        examples_seen_in_training: the number of evaluated examples that also occur in
            the training data. None if unknown, or if the data set is the training data
            set.
        accuracy_by_group: the accuracy for each group, averaged over members. None if
            the examples have no groups.
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
    examples_seen_in_training: int | None = None
    accuracy_by_group: dict[str, float] | None = None

    @property
    def path(self) -> Path:
        """The path of the result file, relative to the workdir.

        If the evaluated data set is not the training data set, the stem ends with the
        first eight hex digits of the evaluated data set's SHA-256.
        """
        path = Path("evaluation", f"{self.split}-{self.step}.json")
        sha256 = self.task.sha256
        if sha256 != self.trained_on_sha256:
            path = path.with_stem(f"{path.stem}-{str(sha256)[:8]}")
        return path


def to_json(result: Result) -> dict[str, Any]:
    """Returns the content of a result file, including derived metrics.

    For an ensemble, the content includes the standard deviation and the interval for
    the mean accuracy, the metrics of the mean probabilities, and the metrics of each
    member.
    """
    run_fields = ("dataset", "split", "step", "num_parameters")
    content = select_fields(result, (*run_fields, *RESULT_FIELDS, *TOP_LEVEL_FIELDS))
    if result.tutorial_128 is not None:
        content["tutorial_128"] = select_fields(result.tutorial_128, RESULT_FIELDS)
    if result.ensemble is None:
        return content
    members = [
        select_fields(result, run_fields)
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
