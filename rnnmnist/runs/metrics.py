"""The scores of networks: counts and losses, and what follows from them."""

import math
import statistics
from collections.abc import Iterable
from typing import Any

import msgspec
import numpy as np

Z_95 = 1.959963984540054  # 97.5 % quantile of the standard normal distribution

# What a log line and a result file have of a network, and of an ensemble.
LOG_FIELDS = ("seed", "examples", "correct", "accuracy", "loss", "balanced_accuracy")
RESULT_FIELDS = (*LOG_FIELDS, "accuracy_interval", "confusion")


class Metrics(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """The predictions of a network for labelled examples, counted.

    Attributes:
        seed: the seed of the network; None for the mean of several networks.
        examples: the number of examples.
        correct: the number of correct predictions.
        loss: the mean cross-entropy, in nats. It is calibrated, but for a validation of
            the training and for the members of an ensemble.
        confusion: counts by [true class][predicted class]; empty in training.
        balanced_accuracy: the mean accuracy over the classes that have examples; None
            in training.
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
        """The 95 % Wilson interval of the accuracy, over examples."""
        return wilson_interval(self.correct, self.examples)


class EnsembleMetrics(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """The scores of an ensemble on labelled examples. A network is an ensemble of one.

    Attributes:
        networks: the scores of each network.
        ensemble: those of the mean of the networks' probabilities, whose loss is
            calibrated; None for a single network, and in training.
        groups: the number of groups that the examples are of; None without groups.
    """

    members: tuple[Metrics, ...]
    ensemble: Metrics | None = None
    groups: int | None = None

    @property
    def seed(self) -> int | None:
        """The seed of the first network."""
        return self.members[0].seed

    @property
    def examples(self) -> int:
        """The number of examples, which all networks share."""
        return self.members[0].examples

    @property
    def correct(self) -> int:
        """The number of correct predictions of all networks together."""
        return sum(member.correct for member in self.members)

    @property
    def accuracy(self) -> float:
        """The mean accuracy of the networks."""
        # One division of integers, so that equal counts tie.
        return self.correct / (len(self.members) * self.examples)

    @property
    def loss(self) -> float:
        """The mean loss of the networks."""
        return statistics.fmean(member.loss for member in self.members)

    @property
    def accuracy_interval(self) -> tuple[float, float]:
        """The 95 % Wilson interval over examples, of a network with the mean count."""
        return wilson_interval(self.correct / len(self.members), self.examples)

    @property
    def accuracy_std(self) -> float | None:
        """The standard deviation over networks, with `ddof=1`; None for one."""
        if len(self.members) == 1:
            return None
        return statistics.stdev(member.accuracy for member in self.members)

    @property
    def accuracy_mean_interval(self) -> tuple[float, float] | None:
        """The 95 % t interval of the mean over networks; None for one.

        References:
            Student, "The probable error of a mean", Biometrika 6, 1908.
        """
        if self.accuracy_std is None:
            return None
        from scipy.special import stdtrit  # takes 0.5 s; needed for ensembles only

        count = len(self.members)
        quantile = float(stdtrit(count - 1, 0.975))
        half = quantile * self.accuracy_std / math.sqrt(count)
        return max(0.0, self.accuracy - half), min(1.0, self.accuracy + half)

    @property
    def balanced_accuracy(self) -> float | None:
        """The mean balanced accuracy of the networks; None in training."""
        if self.members[0].balanced_accuracy is None:
            return None
        return statistics.fmean(
            member.balanced_accuracy or 0.0 for member in self.members
        )

    @property
    def confusion(self) -> tuple[tuple[int, ...], ...]:
        """The sum of the networks' counts; empty in training."""
        counts = np.sum([member.confusion for member in self.members], axis=0)
        return tuple(map(tuple, counts.tolist()))

    @property
    def is_unbalanced(self) -> bool:
        """Whether a class has at least twice as many examples as another one."""
        if not self.confusion:
            return False
        sizes = np.sum(self.confusion, axis=1)
        return bool(sizes.max() >= 2 * sizes.min())


def select_fields(
    metrics: Metrics | EnsembleMetrics, names: Iterable[str]
) -> dict[str, Any]:
    """Returns named fields and properties for a file, without those that are None."""
    fields = {name: getattr(metrics, name) for name in names}
    return {name: value for name, value in fields.items() if value is not None}


def wilson_interval(correct: float, examples: float) -> tuple[float, float]:
    """Returns the 95 % Wilson score interval of a proportion.

    References:
        Wilson, "Probable inference, the law of succession, and statistical
        inference", JASA 22, 1927.
    """
    z2 = Z_95**2
    total = examples + z2
    centre = (correct + z2 / 2) / total
    variance = correct * (examples - correct) / examples + z2 / 4
    half = Z_95 * math.sqrt(variance) / total
    return max(0.0, centre - half), min(1.0, centre + half)
