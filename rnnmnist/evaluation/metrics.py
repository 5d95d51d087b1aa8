"""Accuracy, loss and confusion matrix of a split, for one network or an ensemble."""

import dataclasses
import statistics
from collections.abc import Sequence
from typing import Any

import numpy as np

from rnnmnist.evaluation.intervals import t_interval, wilson_interval
from rnnmnist.evaluation.predictions import EvaluationSplit, predict_logits
from rnnmnist.models.classifier import CLASSES, Params, SequenceClassifier


@dataclasses.dataclass(frozen=True)
class Result:
    """Sums over a split for one network, and the metrics derived from them."""

    examples: int
    total_loss: float  # summed cross-entropy, in nats
    confusion: tuple[tuple[int, ...], ...]  # [true class][predicted class]

    @property
    def loss(self) -> float:
        """The mean cross-entropy, in nats."""
        return self.total_loss / self.examples

    @property
    def correct(self) -> int:
        """The number of correct predictions."""
        return sum(row[label] for label, row in enumerate(self.confusion))

    @property
    def accuracy(self) -> float:
        """The fraction of correct predictions."""
        return self.correct / self.examples

    @property
    def accuracy_interval(self) -> tuple[float, float]:
        """The accuracy's 95 % Wilson interval over images."""
        return wilson_interval(self.correct, self.examples)

    def to_dict(self) -> dict[str, Any]:
        """Returns the fields of a result file."""
        return {
            "examples": self.examples,
            "correct": self.correct,
            "accuracy": self.accuracy,
            "accuracy_interval": list(self.accuracy_interval),
            "loss": self.loss,
            "confusion": [list(row) for row in self.confusion],
        }


def evaluate(
    model: SequenceClassifier, params: Params, split: EvaluationSplit
) -> tuple[Result, ...]:
    """Evaluates one network, or each network of an ensemble, on a whole split.

    Returns:
        One result for each network.
    """
    return tuple(
        _result(logits, split.labels) for logits in predict_logits(model, params, split)
    )


def _result(logits: np.ndarray, labels: np.ndarray) -> Result:
    logits = logits.astype(np.float64)  # [examples, classes]
    top = logits.max(axis=1)
    with np.errstate(invalid="ignore"):  # logits of diverged networks
        total = np.log(np.exp(logits - top[:, None]).sum(axis=1)) + top
        losses = total - logits[np.arange(len(labels)), labels]
    confusion = np.zeros((CLASSES, CLASSES), int)
    np.add.at(confusion, (labels, logits.argmax(axis=1)), 1)
    rows = tuple(map(tuple, confusion.tolist()))
    return Result(len(labels), float(losses.sum()), rows)


def summarize(members: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Combines the fields of each network, those of `Result.to_dict` and others.

    The fields of a single network are returned as they are. An ensemble has sums of
    counts, means of accuracy and loss, and the accuracy's variation over seeds; its
    `accuracy_interval` is the Wilson interval of the mean accuracy over images.
    """
    if len(members) == 1:
        return dict(members[0])
    examples = members[0]["examples"]
    correct = sum(member["correct"] for member in members)
    mean = correct / (len(members) * examples)
    std = statistics.stdev(member["accuracy"] for member in members)
    confusions = [member["confusion"] for member in members]
    return {
        "examples": examples,
        "correct": correct,
        "accuracy": mean,
        "accuracy_interval": list(wilson_interval(mean * examples, examples)),
        "accuracy_mean": mean,
        "accuracy_std": std,
        "accuracy_mean_interval": list(t_interval(mean, std, len(members))),
        "loss": statistics.mean(member["loss"] for member in members),
        "confusion": np.sum(confusions, axis=0).tolist(),
        "members": list(members),
    }
