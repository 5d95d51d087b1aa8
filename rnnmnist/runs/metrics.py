"""Metrics of predictions, for single networks and ensembles, and result files."""

import math
import statistics
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from rnnmnist.config.tasks import Task

Z_95 = 1.959963984540054  # 97.5 % quantile of the standard normal distribution

# Fields of log lines and result files, for each member and for the ensemble.
LOG_FIELDS = ("seed", "examples", "correct", "accuracy", "loss", "balanced_accuracy")
RESULT_FIELDS = (*LOG_FIELDS, "accuracy_interval", "confusion")

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


class Metrics(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Metrics of one network's predictions on labelled examples.

    Attributes:
        seed: the seed of the network; None for the mean probabilities of an ensemble.
        examples: the number of examples.
        correct: the number of correct predictions.
        loss: the mean cross-entropy, in nats. It uses the fitted temperature, except
            during training and for single members of an ensemble. With a custom
            `train.loss`, the losses in the log are the means of that function.
        confusion: the confusion matrix, `confusion[true class][predicted class]`; empty
            for training batches.
        balanced_accuracy: the mean accuracy per class, over the classes that have
            examples; None for training batches.
    """

    seed: int | None = None
    examples: int
    correct: int
    loss: float
    confusion: tuple[tuple[int, ...], ...] = ()
    balanced_accuracy: float | None = None

    @property
    def accuracy(self) -> float:
        """The fraction of correct predictions."""
        return self.correct / self.examples

    @property
    def accuracy_interval(self) -> tuple[float, float]:
        """The 95 % Wilson score interval for the accuracy."""
        return wilson_interval(self.correct, self.examples)


class EnsembleMetrics(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Metrics of an ensemble on labelled examples.

    A single network is an ensemble with one member.

    Attributes:
        members: the metrics of each member.
        ensemble: the metrics of the members' mean probabilities; None for a single
            network and for training batches. The loss uses the fitted temperature.
    """

    members: tuple[Metrics, ...]
    ensemble: Metrics | None = None

    @property
    def seed(self) -> int | None:
        """The seed of the first member."""
        return self.members[0].seed

    @property
    def examples(self) -> int:
        """The number of examples, which is the same for all members."""
        return self.members[0].examples

    @property
    def correct(self) -> int:
        """The total number of correct predictions of all members."""
        return sum(member.correct for member in self.members)

    @property
    def accuracy(self) -> float:
        """The mean accuracy of the members."""
        # A single division of two integers, so that equal counts give equal accuracies.
        return self.correct / (len(self.members) * self.examples)

    @property
    def loss(self) -> float:
        """The mean loss of the members; see `Metrics.loss`."""
        return statistics.fmean(member.loss for member in self.members)

    @property
    def accuracy_interval(self) -> tuple[float, float]:
        """The 95 % Wilson score interval for the accuracy of one member.

        It is computed at the mean number of correct predictions.
        """
        return wilson_interval(self.correct / len(self.members), self.examples)

    @property
    def accuracy_std(self) -> float | None:
        """The sample standard deviation (`ddof=1`) of the members' accuracies.

        None for a single network.
        """
        if len(self.members) == 1:
            return None
        return statistics.stdev(member.accuracy for member in self.members)

    @property
    def accuracy_mean_interval(self) -> tuple[float, float] | None:
        """The 95 % t interval for the mean accuracy; None for a single network.

        References:
            Student, "The probable error of a mean", Biometrika 6, 1908.
        """
        if self.accuracy_std is None:
            return None
        from scipy.special import stdtrit  # this import takes 0.5 s

        count = len(self.members)
        quantile = float(stdtrit(count - 1, 0.975))
        margin = quantile * self.accuracy_std / math.sqrt(count)
        return max(0.0, self.accuracy - margin), min(1.0, self.accuracy + margin)

    @property
    def balanced_accuracy(self) -> float | None:
        """The mean balanced accuracy of the members; None for training batches."""
        if self.members[0].balanced_accuracy is None:
            return None
        return statistics.fmean(
            member.balanced_accuracy or 0.0 for member in self.members
        )

    @property
    def confusion(self) -> tuple[tuple[int, ...], ...]:
        """The sum of the members' confusion matrices; empty for training batches."""
        counts = np.sum([member.confusion for member in self.members], axis=0)
        return tuple(map(tuple, counts.tolist()))

    @property
    def is_unbalanced(self) -> bool:
        """Whether the largest class is at least twice as large as the smallest."""
        if not self.confusion:
            return False
        sizes = np.sum(self.confusion, axis=1)
        return bool(sizes.max() >= 2 * sizes.min())


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


def select_fields(
    metrics: Metrics | EnsembleMetrics, names: Iterable[str]
) -> dict[str, Any]:
    """Returns fields and properties by name, except those that are None."""
    fields = {name: getattr(metrics, name) for name in names}
    return {name: value for name, value in fields.items() if value is not None}


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


def wilson_interval(correct: float, examples: float) -> tuple[float, float]:
    """Returns the 95 % Wilson score interval for a proportion.

    References:
        Wilson, "Probable inference, the law of succession, and statistical
        inference", JASA 22, 1927.
    """
    z2 = Z_95**2
    total = examples + z2
    centre = (correct + z2 / 2) / total
    variance = correct * (examples - correct) / examples + z2 / 4
    margin = Z_95 * math.sqrt(variance) / total
    return max(0.0, centre - margin), min(1.0, centre + margin)
