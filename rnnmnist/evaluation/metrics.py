"""Makes the scores of networks, with their intervals, and formats them as text."""

import math
import statistics
from collections.abc import Sequence

import numpy as np
from msgspec.structs import replace

from rnnmnist.evaluation.probabilities import combine_members
from rnnmnist.runs.logs import Metrics
from rnnmnist.runs.results import Result
from rnnmnist.runs.scores import Scores

Z_95 = 1.959963984540054  # 97.5 % quantile of the standard normal distribution


def t_interval(mean: float, std: float, count: int) -> tuple[float, float]:
    """Returns the 95 % interval of a mean accuracy over at least two seeds.

    The standard deviation is that of a sample (`ddof=1`).

    References:
        Student, "The probable error of a mean", Biometrika 6, 1908.
    """
    from scipy.special import stdtrit  # takes 0.5 s; needed for ensembles only

    quantile = float(stdtrit(count - 1, 0.975))
    half = quantile * std / math.sqrt(count)
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


def score_logits(
    logits: np.ndarray,
    labels: np.ndarray,
    first_seed: int = 0,
    multiplier: float = 1.0,
    groups: int | None = None,
) -> Scores:
    """Scores finite logits [ensemble, examples, classes] of a whole split.

    The seeds of the members follow one another. `groups` is the number of groups that
    the examples have. The multiplier is that of the logits of
    a single network, or of those that the members of an ensemble have together.
    """
    networks, examples, classes = logits.shape
    logits = logits.astype(np.float64)
    combined = combine_members(logits)
    calibrated = multiplier * combined
    mean_losses = [mean_loss(calibrated, labels)]
    if networks > 1:
        mean_losses = [mean_loss(member, labels) for member in logits]
    confusions = np.zeros((networks, classes, classes), int)
    cells = (np.arange(networks)[:, None], labels, logits.argmax(-1))
    np.add.at(confusions, cells, 1)
    scores = score_confusions(confusions, mean_losses, first_seed, groups)
    if not scores.members:
        return scores
    correct = int((combined.argmax(-1) == labels).sum())
    return replace(
        scores,
        ensemble_correct=correct,
        ensemble_accuracy=correct / examples,
        ensemble_loss=mean_loss(calibrated, labels),
    )


def mean_loss(logits: np.ndarray, labels: np.ndarray) -> float:
    """Returns the mean cross-entropy of finite logits [examples, classes] in nats."""
    # The largest logit is subtracted, so that no exponential is infinite.
    largest = logits.max(axis=-1)
    sums = np.exp(logits - largest[:, None]).sum(axis=-1)
    losses = np.log(sums) + largest - logits[np.arange(len(labels)), labels]
    return float(losses.mean())


def score_confusions(
    confusions: np.ndarray,
    losses: Sequence[float],
    first_seed: int = 0,
    groups: int | None = None,
) -> Scores:
    """Scores networks with confusion matrices of a whole split and mean losses.

    The matrices are int [ensemble, true classes, predicted classes].
    """
    examples = int(confusions[0].sum())
    correct = np.trace(confusions, axis1=1, axis2=2).tolist()
    return make_scores(examples, correct, losses, first_seed, groups, confusions)


def make_scores(
    examples: int,
    correct: Sequence[int],
    losses: Sequence[float],
    first_seed: int = 0,
    groups: int | None = None,
    confusions: np.ndarray | None = None,
) -> Scores:
    """Returns the scores of networks, each with its correct predictions and mean loss.

    All scores are made here. With the confusion matrices of a whole split, int
    [ensemble, true classes, predicted classes], they have what follows from these.
    """
    networks = len(correct)
    total = sum(correct)
    scores = Scores(
        seed=first_seed,
        examples=examples,
        groups=groups,
        correct=total,
        # One division of integers, so that equal counts tie.
        accuracy=total / (networks * examples),
        loss=statistics.fmean(losses),
    )
    if confusions is not None:
        scores = replace(
            scores,
            accuracy_interval=wilson_interval(total / networks, examples),
            balanced_accuracy=balanced_accuracy(confusions),
            confusion=tuple(map(tuple, confusions.sum(axis=0).tolist())),
        )
    if networks == 1:
        return scores
    members = []
    for index in range(networks):
        one = slice(index, index + 1)
        confusion = None if confusions is None else confusions[one]
        member = make_scores(
            examples, correct[one], losses[one], first_seed + index, groups, confusion
        )
        members.append(member)
    scores = replace(scores, predictions=networks * examples, members=tuple(members))
    if confusions is None:
        return scores
    std, interval = spread_over_seeds(scores)
    return replace(
        scores,
        accuracy_mean=scores.accuracy,
        accuracy_std=std,
        accuracy_mean_interval=interval,
    )


def balanced_accuracy(confusions: np.ndarray) -> float:
    """Returns the mean accuracy over networks and classes.

    The confusion matrices are int [ensemble, true classes, predicted classes], of the
    same examples. Classes without examples have no accuracy.
    """
    totals = confusions[0].sum(axis=1)
    present = totals > 0
    correct = np.diagonal(confusions, axis1=1, axis2=2)
    recalls = correct[:, present] / totals[present]
    return statistics.fmean(recalls.ravel())


def spread_over_seeds(scores: Scores) -> tuple[float, tuple[float, float]]:
    """Returns how the accuracy of an ensemble's members varies.

    This is the standard deviation with `ddof=1`, and the 95 % t interval of the mean.
    """
    std = statistics.stdev(member.accuracy for member in scores.members)
    return std, t_interval(scores.accuracy, std, len(scores.members))


def select_logged_scores(scores: Scores, *, has_class_weights: bool) -> Scores:
    """Returns the scores of a validation that a line of `metrics.jsonl` has.

    It has no confusion matrices, which are large if there are many classes. It has the
    balanced accuracy if the run has class weights, or if a class has at least twice as
    many examples as another one.
    """
    networks = scores.networks
    logged = make_scores(
        scores.examples,
        [network.correct for network in networks],
        [network.loss for network in networks],
        networks[0].seed or 0,
        scores.groups,
    )
    class_sizes = np.sum(scores.confusion, axis=1)
    is_unbalanced = class_sizes.max() >= 2 * class_sizes.min()
    if has_class_weights or is_unbalanced:
        logged = replace(logged, balanced_accuracy=scores.balanced_accuracy)
    return logged


def format_percent(fraction: float) -> str:
    """Formats a fraction in percent: `99.02 %`."""
    return f"{100 * fraction:.2f} %"


def format_mean_and_std(mean: float, std: float) -> str:
    """Formats a mean fraction and its standard deviation: `99.19 ± 0.04 %`."""
    return f"{100 * mean:.2f} ± {format_percent(std)}"


def format_points(fraction: float) -> str:
    """Formats a difference of fractions in percentage points: `0.31 points`."""
    return f"{100 * fraction:.2f} points"


def format_probability(probability: float) -> str:
    """Formats a probability in percent, which is never `100.00 %`."""
    if probability > 0.9999:
        return "> 99.99 %"
    if 0 < probability < 0.0001:
        return "< 0.01 %"
    return format_percent(probability)


def format_interval(interval: Sequence[float]) -> str:
    """Formats an interval of fractions in percent: `98.81 to 99.19 %`."""
    low, high = interval
    return f"{100 * low:.2f} to {format_percent(high)}"


def format_accuracy(scores: Scores) -> str:
    """Formats an accuracy with its counts and its 95 % interval.

    The interval is over examples, or of the mean over several seeds. With groups, it
    says what the interval does not cover.
    """
    counts = format_counts(scores)
    groups = format_groups(scores)
    if not scores.members:
        accuracy = format_percent(scores.accuracy)
        interval = format_interval(wilson_interval(scores.correct, scores.examples))
        return f"{accuracy} ({counts}; 95 % interval {interval}{groups})"
    std, mean_interval = spread_over_seeds(scores)
    accuracy = format_mean_and_std(scores.accuracy, std)
    interval = format_interval(mean_interval)
    seeds = len(scores.members)
    return (
        f"{accuracy} over {seeds} seeds ({counts}; 95 % interval of the mean "
        f"{interval}{groups})"
    )


def format_accuracies(scores: Scores) -> str:
    """Formats an accuracy, and after it the balanced accuracy if the scores have it."""
    text = format_accuracy(scores)
    if scores.balanced_accuracy is not None:
        text += f", balanced accuracy {format_percent(scores.balanced_accuracy)}"
    return text


def format_validation(metrics: Metrics) -> str:
    """Formats the accuracies of a validation, after `leave one out` if it is that."""
    text = format_accuracies(metrics)
    if metrics.split != "validation":
        text = f"{format_split(metrics.split)} {text}"
    return text


def format_split(split: str) -> str:
    """Formats the name of a split, such as `leave one out`."""
    return split.replace("_", " ")


def format_groups(scores: Scores) -> str:
    """Says after an interval that it does not know the groups; empty without groups.

    The sequences of a group are not independent. The interval of several seeds is not
    over sequences.
    """
    if scores.groups is None:
        return ""
    plural = "s" if scores.groups > 1 else ""
    sequences = f"{scores.examples:,} sequences of {scores.groups:,} group{plural}"
    if scores.members:
        return f", which covers the seeds only, not the {sequences}"
    return f", which takes {sequences} for independent"


def format_counts(scores: Scores) -> str:
    """Formats the correct predictions of each network: `9,918, 9,920 of 10,000`."""
    counts = ", ".join(f"{network.correct:,}" for network in scores.networks)
    return f"{counts} of {scores.examples:,}"


def format_result(result: Result, loss_note: str = "") -> str:
    """Formats the accuracy of a result, and that of the ensemble of several seeds.

    The loss of the ensemble is followed by `loss_note`. Then come the balanced accuracy
    if the examples are sequences, and the accuracy on the first 128 examples if the
    result has it.
    """
    text = format_accuracy(result)
    if result.ensemble_accuracy is not None:
        text += (
            f"; ensemble {format_percent(result.ensemble_accuracy)} "
            f"({result.ensemble_correct:,} of {result.examples:,})"
        )
        if result.ensemble_loss is not None:
            text += f", loss {result.ensemble_loss:.4f}{loss_note}"
    if result.task is not None and result.task.image_shape is None:
        text += f", balanced accuracy {format_percent(result.balanced_accuracy)}"
    if result.tutorial_128 is not None:
        text += f"; on the first 128 {format_accuracy(result.tutorial_128)}"
    return text
