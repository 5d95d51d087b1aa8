"""Accuracy, loss and confusion matrix of the networks of a run, and their JSON.

For several seeds, a JSON object also has `members`, the metrics of each network.
"""

import contextlib
import dataclasses
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from rnnmnist.evaluation.intervals import t_interval, wilson_interval
from rnnmnist.runtime.workdir import MetricsFile

MAX_COUNT, MAX_LOSS = 2**40, 1e100  # of a valid result; larger numbers overflow

T = TypeVar("T")


@dataclasses.dataclass(frozen=True)
class Counts:
    """The loss and the correct predictions of each network on the same examples."""

    examples: int
    losses: tuple[float, ...]  # mean cross-entropy of each network, in nats
    correct: tuple[int, ...]  # by network

    @property
    def loss(self) -> float:
        """The mean loss over networks."""
        return statistics.fmean(self.losses)

    @property
    def accuracy(self) -> float:
        """The mean accuracy; one division of integers, so that equal counts tie."""
        return sum(self.correct) / (len(self.correct) * self.examples)

    @property
    def accuracy_interval(self) -> tuple[float, float]:
        """The 95 % Wilson interval of the mean accuracy over examples."""
        return wilson_interval(self.accuracy * self.examples, self.examples)

    @property
    def accuracies(self) -> tuple[float, ...]:
        """The accuracy of each network."""
        return tuple(count / self.examples for count in self.correct)


@dataclasses.dataclass(frozen=True)
class Metrics(Counts):
    """The metrics at a step: a line of `metrics.jsonl`."""

    step: int
    split: str

    def to_dict(self, seeds: Sequence[int]) -> dict[str, Any]:
        """Returns the JSON object, for networks with these seeds."""
        content = {
            "step": self.step,
            "split": self.split,
            "loss": self.loss,
            "accuracy": self.accuracy,
            "correct": sum(self.correct),
            "examples": self.examples,
        }
        networks = zip(seeds, self.losses, self.accuracies, self.correct, strict=True)
        names = ("seed", "loss", "accuracy", "correct")
        members = [dict(zip(names, network, strict=True)) for network in networks]
        return content | ({"members": members} if len(members) > 1 else {})

    @classmethod
    def from_dict(cls, content: Any) -> "Metrics":
        """Parses a JSON object.

        Raises:
            ValueError: if it does not hold metrics.
        """
        members, examples = members_of(content), field(content, "examples", int)
        correct = tuple(field(member, "correct", int) for member in members)
        if examples < 1 or min(correct) < 0 or max(correct) > examples:
            raise ValueError("correct must be from 0 to examples")
        losses = tuple(field(member, "loss", float) for member in members)
        step, split = field(content, "step", int), field(content, "split", str)
        return cls(examples, losses, correct, step, split)


def read_metrics_file(path: Path) -> list[Metrics]:
    """Reads the metrics of a run; other lines are left out."""
    metrics = []
    for line in MetricsFile.read(path):
        with contextlib.suppress(ValueError):
            metrics.append(Metrics.from_dict(line))
    return metrics


@dataclasses.dataclass(frozen=True)
class Scores(Counts):
    """The predictions of each network for a whole split, counted."""

    # [network][true class][predicted class]
    confusions: tuple[tuple[tuple[int, ...], ...], ...]

    @classmethod
    def from_logits(cls, logits: np.ndarray, labels: np.ndarray) -> "Scores":
        """Scores the logits of a whole split, float [networks, examples, classes]."""
        networks, examples, classes = logits.shape
        logits = logits.astype(np.float64)
        top = logits.max(axis=-1)
        with np.errstate(invalid="ignore"):  # logits of diverged networks
            total = np.log(np.exp(logits - top[..., None]).sum(axis=-1)) + top
            losses = total - logits[:, np.arange(examples), labels]
        confusions = np.zeros((networks, classes, classes), int)
        for confusion, predicted in zip(confusions, logits.argmax(-1), strict=True):
            np.add.at(confusion, (labels, predicted), 1)
        return cls._from_confusions(losses.mean(axis=1).tolist(), confusions.tolist())

    @classmethod
    def from_dict(cls, content: Any) -> "Scores":
        """Parses the fields from which the others are derived.

        Raises:
            ValueError: if they do not hold scores.
        """
        members = members_of(content)
        confusions = [field(member, "confusion", list) for member in members]
        for confusion in confusions:
            if not all(
                type(row) is list
                and len(row) == len(confusions[0])
                and all(type(count) is int and 0 <= count < MAX_COUNT for count in row)
                for row in confusion
            ):
                raise ValueError("confusion must be a matrix of counts")
        losses = [field(member, "loss", float) for member in members]
        if not all(0 <= loss < MAX_LOSS for loss in losses):  # nor if it is NaN
            raise ValueError("loss must be a finite number")
        return cls._from_confusions(losses, confusions)

    @classmethod
    def _from_confusions(
        cls, losses: list[float], confusions: list[list[list[int]]]
    ) -> "Scores":
        examples, *others = (sum(map(sum, table)) for table in confusions)
        if not examples or {examples, *others} != {examples}:
            raise ValueError("confusion must count the same examples for each network")
        return cls(
            examples,
            tuple(losses),
            tuple(sum(row[i] for i, row in enumerate(table)) for table in confusions),
            tuple(tuple(map(tuple, table)) for table in confusions),
        )

    @property
    def accuracy_std(self) -> float:
        """The standard deviation of the accuracy over at least two networks."""
        return statistics.stdev(self.accuracies)

    @property
    def accuracy_mean_interval(self) -> tuple[float, float]:
        """The 95 % interval of the mean accuracy over at least two networks."""
        return t_interval(self.accuracy, self.accuracy_std, len(self.correct))

    @property
    def balanced_accuracy(self) -> float:
        """The mean accuracy over classes, and over networks."""
        return statistics.fmean(
            row[label] / sum(row)
            for confusion in self.confusions
            for label, row in enumerate(confusion)
            if any(row)
        )

    @property
    def confusion(self) -> np.ndarray:
        """The sum over networks, int [true classes, predicted classes]."""
        return np.sum(self.confusions, axis=0)

    def split(self) -> list["Scores"]:
        """Returns the scores of each network."""
        networks = zip(self.losses, self.correct, self.confusions, strict=True)
        return [Scores(self.examples, (a,), (b,), (c,)) for a, b, c in networks]

    def to_dict(self, members: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        """Returns the fields of a result file.

        Args:
            members: the other fields of each network's object, such as its seed.
        """
        content = {
            "examples": self.examples,
            "correct": sum(self.correct),
            "accuracy": self.accuracy,
            "accuracy_interval": list(self.accuracy_interval),
            "balanced_accuracy": self.balanced_accuracy,
            "loss": self.loss,
            "confusion": self.confusion.tolist(),
        }
        if len(members) == 1:
            return content
        networks = zip(members, self.split(), strict=True)
        return content | {
            "accuracy_mean": self.accuracy,
            "accuracy_std": self.accuracy_std,
            "accuracy_mean_interval": list(self.accuracy_mean_interval),
            "members": [{**fields, **one.to_dict([{}])} for fields, one in networks],
        }


def field(content: Any, name: str, kind: type[T]) -> T:
    """Returns a field of a JSON object; an integer is converted to a float.

    Raises:
        ValueError: if it is missing or of another type.
    """
    value = content.get(name) if isinstance(content, dict) else None
    if kind is float and type(value) is int and abs(value) < MAX_COUNT:
        return float(value)  # type: ignore[return-value]
    if type(value) is not kind:
        raise ValueError(f"{name} must be of type {kind.__name__}")
    return value


def members_of(content: Any) -> list[Any]:
    """Returns the objects of each network; of one network, the object itself.

    Raises:
        ValueError: if `members` is no list of at least two objects.
    """
    if not isinstance(content, dict) or "members" not in content:
        return [content]
    members = field(content, "members", list)
    if len(members) < 2:
        raise ValueError("members has fewer than two networks")
    return members
