"""Formats metrics as text: percentages with confidence intervals."""

import statistics
from collections.abc import Sequence

from rnnmnist.errors import escape_unprintable
from rnnmnist.runs.logs import StepMetrics
from rnnmnist.runs.metrics import EnsembleMetrics
from rnnmnist.runs.results import Result


def format_percent(fraction: float) -> str:
    """Formats a fraction as a percentage: `99.02 %`."""
    return f"{100 * fraction:.2f} %"


def format_mean_and_std(mean: float, std: float) -> str:
    """Formats a mean fraction and its standard deviation: `99.19 ± 0.04 %`."""
    return f"{100 * mean:.2f} ± {format_percent(std)}"


def format_points(fraction: float) -> str:
    """Formats a difference between fractions in percentage points: `0.31 points`."""
    return f"{100 * fraction:.2f} points"


def format_probability(probability: float) -> str:
    """Formats a probability as a percentage.

    Values close to 1 or 0 become `> 99.99 %` or `< 0.01 %`.
    """
    if probability > 0.9999:
        return "> 99.99 %"
    if 0 < probability < 0.0001:
        return "< 0.01 %"
    return format_percent(probability)


def format_interval(interval: Sequence[float]) -> str:
    """Formats two fractions, the bounds of an interval: `98.81 to 99.19 %`."""
    low, high = interval
    return f"{100 * low:.2f} to {format_percent(high)}"


def format_split(split: str) -> str:
    """Replaces underscores in a split name with hyphens: `leave-one-out`."""
    return split.replace("_", "-")


def format_counts(metrics: EnsembleMetrics) -> str:
    """Formats each member's number of correct predictions: `95, 97 of 100`."""
    counts = ", ".join(f"{member.correct:,}" for member in metrics.members)
    return f"{counts} of {metrics.examples:,}"


def format_accuracy(metrics: EnsembleMetrics) -> str:
    """Formats an accuracy with counts and a 95 % confidence interval.

    For a single network, the interval accounts for the sampling of examples. For
    several seeds, it is the confidence interval for the mean over seeds. If the
    examples are grouped, a caveat about the interval is added. If the classes are
    unbalanced, the balanced accuracy is added.
    """
    counts = format_counts(metrics)
    groups = format_groups(metrics)
    std, mean_interval = metrics.accuracy_std, metrics.accuracy_mean_interval
    if std is None or mean_interval is None:  # a single network
        accuracy = format_percent(metrics.accuracy)
        interval = format_interval(metrics.accuracy_interval)
        text = f"{accuracy} ({counts}; 95 % interval {interval}{groups})"
    else:
        accuracy = format_mean_and_std(metrics.accuracy, std)
        interval = format_interval(mean_interval)
        text = (
            f"{accuracy} over {len(metrics.members)} seeds ({counts}; 95 % interval "
            f"for the mean {interval}{groups})"
        )
    if metrics.is_unbalanced and metrics.balanced_accuracy is not None:
        text += f", balanced accuracy {format_percent(metrics.balanced_accuracy)}"
    return text


def format_groups(metrics: EnsembleMetrics) -> str:
    """Formats a caveat about the interval; returns "" if there are no groups.

    The interval of a single network treats the sequences of a group as independent. The
    interval over several seeds ignores the sampling of sequences.
    """
    if metrics.groups is None:
        return ""
    plural = "s" if metrics.groups > 1 else ""
    sequences = f"{metrics.examples:,} sequences from {metrics.groups:,} group{plural}"
    if len(metrics.members) > 1:
        return f", which ignores the sampling of {sequences}"
    return f", which treats {sequences} as independent"


def format_validation(metrics: StepMetrics) -> str:
    """Formats a validation accuracy, with the split name unless it is `validation`."""
    text = format_accuracy(metrics)
    if metrics.split != "validation":
        text = f"{format_split(metrics.split)} {text}"
    return text


def format_result(result: Result) -> str:
    """Formats the accuracies in a result.

    If available, the text also contains the accuracy of the ensemble, the accuracy on
    the first 128 examples, and the number of examples that occur in the training data.
    """
    text = format_accuracy(result)
    if result.ensemble is not None:
        text += (
            f"; ensemble {format_percent(result.ensemble.accuracy)} "
            f"({result.ensemble.correct:,} of {result.examples:,})"
        )
    if result.tutorial_128 is not None:
        text += f"; first 128 examples: {format_accuracy(result.tutorial_128)}"
    return text + format_training_overlap(result)


def format_training_overlap(result: Result) -> str:
    """Formats how many evaluated examples occur in the training data.

    Returns "" if there are none, or if the number is unknown.
    """
    if not result.examples_seen_in_training:
        return ""
    return (
        f"; {result.examples_seen_in_training:,} of {result.examples:,} also occur "
        "in the training data, so the accuracy on new examples may be lower"
    )


def format_accuracy_by_group(result: Result) -> str:
    """Formats the mean accuracy per group and the group with the lowest accuracy.

    Returns "" if there are no groups.
    """
    accuracies = result.accuracy_by_group
    if accuracies is None:
        return ""
    mean = statistics.fmean(accuracies.values())
    worst_group = min(accuracies, key=accuracies.__getitem__)
    return (
        f"; mean accuracy per group {format_percent(mean)}, lowest "
        f"{format_percent(accuracies[worst_group])} "
        f"(group {escape_unprintable(worst_group)})"
    )


def format_loss(result: Result) -> str:
    """Formats the loss; for several seeds, the mean loss and the ensemble loss.

    If the temperature was fitted on the evaluated examples, a note explains that the
    loss is slightly too low.
    """
    note = ""
    if result.calibrated_on_split:
        note = " (slightly too low: the temperature was fitted on this split)"
    if result.ensemble is None:
        return f"loss {result.loss:.4f}{note}"
    # Only the ensemble loss is calibrated.
    return f"mean loss {result.loss:.4f}, ensemble {result.ensemble.loss:.4f}{note}"


def format_evaluation(result: Result) -> str:
    """Formats a complete result: data set, split, step, accuracies and loss."""
    return (
        f"{result.dataset} {format_split(result.split)} at step {result.step}: "
        f"{format_result(result)}{format_accuracy_by_group(result)}, "
        f"{format_loss(result)}"
    )
