"""Scores of networks on whole splits, their confidence intervals, and both as text."""

import math
import statistics
from collections.abc import Sequence

import msgspec
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
    """Formats a probability in percent, which is never `100.00 %`."""
    if fraction > 0.9999:
        return "> 99.99 %"
    return "< 0.01 %" if 0 < fraction < 0.0001 else percent(fraction)


def interval(ends: Sequence[float]) -> str:
    """Formats an interval of fractions in percent: `98.81 to 99.19 %`."""
    low, high = ends
    return f"{100 * low:.2f} to {percent(high)}"


def score_logits(logits: np.ndarray, labels: np.ndarray, first_seed: int = 0) -> Scores:
    """Scores finite logits [ensemble, examples, classes] of a whole split.

    The seeds of the members follow one another.
    """
    _, examples, classes = logits.shape
    logits = logits.astype(np.float64)
    top = logits.max(axis=-1)
    total = np.log(np.exp(logits - top[..., None]).sum(axis=-1)) + top
    losses = total - logits[:, np.arange(examples), labels]
    networks = np.arange(len(logits))[:, None]
    confusions = np.zeros((len(logits), classes, classes), int)
    np.add.at(confusions, (networks, labels, logits.argmax(-1)), 1)
    scores = score_confusions(confusions, losses.mean(axis=1), first_seed)
    if not scores.members:
        return scores
    probabilities = np.exp(logits - total[..., None]).mean(axis=0)
    correct = int((probabilities.argmax(-1) == labels).sum())
    return msgspec.structs.replace(
        scores, ensemble_correct=correct, ensemble_accuracy=correct / examples
    )


def score_confusions(
    confusions: np.ndarray, losses: np.ndarray, first_seed: int = 0
) -> Scores:
    """Returns the scores of networks with these confusion matrices and losses."""
    networks = len(confusions)
    totals = confusions[0].sum(axis=1)  # of each class, the same for all networks
    examples = int(totals.sum())
    present = totals > 0  # only these classes have an accuracy
    recalls = np.diagonal(confusions, axis1=1, axis2=2)[:, present] / totals[present]
    correct = int(np.trace(confusions, axis1=1, axis2=2).sum())
    accuracy = correct / (networks * examples)  # one division, so that equal counts tie
    scores = Scores(
        examples=examples,
        correct=correct,
        accuracy=accuracy,
        accuracy_interval=wilson_interval(correct / networks, examples),
        balanced_accuracy=statistics.fmean(recalls.ravel()),
        loss=statistics.fmean(losses.tolist()),
        confusion=tuple(map(tuple, confusions.sum(axis=0).tolist())),
        seed=first_seed,
    )
    if networks == 1:
        return scores
    members = tuple(
        score_confusions(confusions[i : i + 1], losses[i : i + 1], first_seed + i)
        for i in range(networks)
    )
    std = statistics.stdev(member.accuracy for member in members)
    return msgspec.structs.replace(
        scores,
        accuracy_mean=accuracy,
        accuracy_std=std,
        accuracy_mean_interval=t_interval(accuracy, std, networks),
        members=members,
    )


def format_accuracy(scores: Scores | Metrics) -> str:
    """Formats an accuracy with its counts and its interval: over seeds, if several."""
    counts = format_counts(scores)
    balanced = ""
    if isinstance(scores, Metrics) and scores.balanced_accuracy is not None:
        balanced = f", balanced accuracy {percent(scores.balanced_accuracy)}"
    if not scores.members:
        ends = interval(wilson_interval(scores.correct, scores.examples))
        return f"{percent(scores.accuracy)} ({counts}; 95 % interval {ends}){balanced}"
    seeds = len(scores.members)
    std = statistics.stdev(network.accuracy for network in scores.members)
    ends = interval(t_interval(scores.accuracy, std, seeds))
    return (
        f"{mean_and_std(scores.accuracy, std)} over {seeds} seeds ({counts}; "
        f"95 % interval of the mean {ends}){balanced}"
    )


def format_counts(scores: Scores | Metrics) -> str:
    """Formats the correct predictions of each network: `9,918, 9,920 of 10,000`."""
    counts = ", ".join(f"{network.correct:,}" for network in scores.networks)
    return f"{counts} of {scores.examples:,}"


def format_result(result: Result) -> str:
    """Formats the accuracy of a result; of sequences, also the balanced one.

    Of several seeds, the accuracy of their ensemble follows.
    """
    text = format_accuracy(result)
    if result.ensemble_accuracy is not None:
        text += (
            f"; ensemble {percent(result.ensemble_accuracy)} "
            f"({result.ensemble_correct:,} of {result.examples:,})"
        )
    if result.task and result.task.image_shape is None:
        text += f", balanced accuracy {percent(result.balanced_accuracy)}"
    if result.tutorial_128 is not None:
        text += f"; on the first 128 {format_accuracy(result.tutorial_128)}"
    return text
