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
    """How a network did on a split: counts, and what is divided from them."""

    examples: int
    total_loss: float  # summed cross-entropy, in nats
    confusion: tuple[tuple[int, ...], ...]  # [true class][answer]

    @property
    def loss(self) -> float:
        """The mean cross-entropy, in nats."""
        return self.total_loss / self.examples

    @property
    def correct(self) -> int:
        """Images whose answer is right."""
        return sum(row[label] for label, row in enumerate(self.confusion))

    @property
    def accuracy(self) -> float:
        """The share of right answers, from 0 to 1."""
        return self.correct / self.examples

    @property
    def accuracy_interval(self) -> tuple[float, float]:
        """The accuracy's 95 % Wilson interval over images."""
        return wilson_interval(self.correct, self.examples)

    def to_dict(self) -> dict[str, Any]:
        """The fields as the result file has them."""
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
    """Scores every example of a split once, with each network.

    Args:
        model: of the networks.
        params: of one network, or of an ensemble.
        split: the examples.

    Returns:
        A result for each network of the ensemble, in its order; one for one network.
    """
    return tuple(
        _result(logits, split.labels) for logits in predict_logits(model, params, split)
    )


def _result(logits: np.ndarray, labels: np.ndarray) -> Result:
    """Counts, from float32 [examples, classes] and the true classes [examples]."""
    logits = logits.astype(np.float64)
    top = logits.max(axis=1)
    with np.errstate(invalid="ignore"):  # of parameters that overflowed
        total = np.log(np.exp(logits - top[:, None]).sum(axis=1)) + top
        losses = total - logits[np.arange(len(labels)), labels]
    confusion = np.zeros((CLASSES, CLASSES), int)
    np.add.at(confusion, (labels, logits.argmax(axis=1)), 1)
    rows = tuple(tuple(int(count) for count in row) for row in confusion)
    return Result(len(labels), float(losses.sum()), rows)


def summary(members: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """The fields of a result file: one network's own, or those of a stack.

    Args:
        members: the fields of each network, of which there are those of
            `Result.to_dict`, on the same images.

    Returns:
        For a stack: sums of the counts, means of accuracy and loss, and how the
        accuracy varies over seeds. Its `accuracy_interval` is over images, for a
        network that is right as often as the mean says.
    """
    if len(members) == 1:
        return dict(members[0])
    accuracies = [member["accuracy"] for member in members]
    examples = members[0]["examples"]
    correct = sum(member["correct"] for member in members)
    mean, std = correct / (len(members) * examples), statistics.stdev(accuracies)
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
