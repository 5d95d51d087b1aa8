"""Scores of networks on whole splits, their confidence intervals, and both as text."""

import math
import statistics
from collections.abc import Sequence

import numpy as np

from rnnmnist.runs.logs import Metrics
from rnnmnist.runs.results import Result, Scores

Z_95 = 1.959963984540054  # 97.5 % quantile of the standard normal distribution


def t_interval(mean: float, std: float, count: int) -> tuple[float, float]:
    """Returns the 95 % interval of a mean accuracy over at least two seeds.

    The standard deviation is that of a sample (`ddof=1`).

    References:
        Student, "The probable error of a mean", Biometrika 6, 1908.
    """
    from scipy.special import stdtrit  # takes 0.5 s; needed for ensembles only

    half = float(stdtrit(count - 1, 0.975)) * std / math.sqrt(count)
    return max(0.0, mean - half), min(1.0, mean + half)


def wilson_interval(correct: float, examples: int) -> tuple[float, float]:
    """Returns the 95 % Wilson score interval of a proportion.

    References:
        Wilson, "Probable inference, the law of succession, and statistical
        inference", JASA 22, 1927.
    """
    p = correct / examples
    z2 = Z_95**2
    centre = p + z2 / (2 * examples)
    half = Z_95 * math.sqrt(p * (1 - p) / examples + z2 / (4 * examples**2))
    scale = 1 + z2 / examples
    return max(0.0, (centre - half) / scale), min(1.0, (centre + half) / scale)


def percent(fraction: float) -> str:
    """Formats a fraction in percent: `99.02 %`."""
    return f"{100 * fraction:.2f} %"


def mean_and_std(mean: float, std: float) -> str:
    """Formats a mean fraction and its standard deviation: `99.19 ± 0.04 %`."""
    return f"{100 * mean:.2f} ± {percent(std)}"


def percentage_points(fraction: float) -> str:
    """Formats a difference of fractions: `0.31 points`."""
    return f"{100 * fraction:.2f} points"


def probability(fraction: float) -> str:
    """Formats a probability in percent; only 1 is `100.00 %`, only 0 is `0.00 %`."""
    if 0.9999 < fraction < 1:
        return "> 99.99 %"
    return "< 0.01 %" if 0 < fraction < 0.0001 else percent(fraction)


def interval(ends: Sequence[float]) -> str:
    """Formats an interval of fractions in percent: `98.81 to 99.19 %`."""
    low, high = ends
    return f"{100 * low:.2f} to {percent(high)}"


def score_logits(logits: np.ndarray, labels: np.ndarray, first_seed: int = 0) -> Scores:
    """Scores logits [ensemble, examples, classes] of a whole split.

    The seeds of the members follow one another.
    """
    _, examples, classes = logits.shape
    logits = logits.astype(np.float64)
    top = logits.max(axis=-1)
    with np.errstate(invalid="ignore"):  # logits of diverged networks
        total = np.log(np.exp(logits - top[..., None]).sum(axis=-1)) + top
        losses = total - logits[:, np.arange(examples), labels]
    confusions = np.zeros((len(logits), classes, classes), int)
    for confusion, predicted in zip(confusions, logits.argmax(-1), strict=True):
        np.add.at(confusion, (labels, predicted), 1)
    return score_confusions(confusions, losses.mean(axis=1), first_seed)


def score_confusions(
    confusions: np.ndarray, losses: np.ndarray, first_seed: int = 0
) -> Scores:
    """Returns scores from confusion matrices and losses, one for each network."""
    members = [
        _count(confusion, float(loss), first_seed + index)
        for index, (confusion, loss) in enumerate(zip(confusions, losses, strict=True))
    ]
    return members[0] if len(members) == 1 else _merge(members)


def _count(confusion: np.ndarray, loss: float, seed: int) -> Scores:
    """Returns the scores of one network."""
    examples = int(confusion.sum())
    correct = int(np.trace(confusion))
    totals = confusion.sum(axis=1)
    present = totals > 0
    recalls = np.diag(confusion)[present] / totals[present]
    return Scores(
        examples=examples,
        correct=correct,
        accuracy=correct / examples,
        accuracy_interval=wilson_interval(correct, examples),
        balanced_accuracy=statistics.fmean(recalls),
        loss=loss,
        confusion=tuple(map(tuple, confusion.tolist())),
        seed=seed,
    )


def _merge(members: Sequence[Scores]) -> Scores:
    """Returns the scores of an ensemble."""
    examples = members[0].examples
    correct = sum(one.correct for one in members)
    accuracy = correct / (len(members) * examples)  # so that equal counts tie
    std = statistics.stdev(one.accuracy for one in members)
    confusion = np.sum([one.confusion for one in members], axis=0)
    return Scores(
        examples=examples,
        correct=correct,
        accuracy=accuracy,
        accuracy_interval=wilson_interval(correct / len(members), examples),
        balanced_accuracy=statistics.fmean(one.balanced_accuracy for one in members),
        loss=statistics.fmean(one.loss for one in members),
        confusion=tuple(map(tuple, confusion.tolist())),
        seed=members[0].seed,
        accuracy_mean=accuracy,
        accuracy_std=std,
        accuracy_mean_interval=t_interval(accuracy, std, len(members)),
        members=tuple(members),
    )


def format_accuracy(found: Scores | Metrics) -> str:
    """Formats an accuracy with its counts and its interval: over seeds, if several."""
    counts = format_counts(found)
    if not found.members:
        ends = interval(wilson_interval(found.correct, found.examples))
        return f"{percent(found.accuracy)} ({counts}; 95 % interval {ends})"
    seeds = len(found.members)
    std = statistics.stdev(network.accuracy for network in found.members)
    ends = interval(t_interval(found.accuracy, std, seeds))
    return (
        f"{mean_and_std(found.accuracy, std)} over {seeds} seeds ({counts}; "
        f"95 % interval of the mean {ends})"
    )


def format_counts(found: Scores | Metrics) -> str:
    """Formats the correct predictions of each network: `9,918, 9,920 of 10,000`."""
    counts = ", ".join(f"{network.correct:,}" for network in found.networks)
    return f"{counts} of {found.examples:,}"


def format_result(result: Result) -> str:
    """Formats the accuracy of a result; of sequences, also the balanced one."""
    text = format_accuracy(result)
    if result.task.image_shape is None:
        text += f", balanced accuracy {percent(result.balanced_accuracy)}"
    if result.tutorial_128 is not None:
        text += f"; on the first 128 {format_accuracy(result.tutorial_128)}"
    return text
