"""Formats metrics as text: accuracies with confidence intervals, and losses."""

import statistics
from collections.abc import Sequence

from rnnmnist.errors import escape_unprintable
from rnnmnist.runs.logs import StepMetrics
from rnnmnist.runs.metrics import EnsembleMetrics, Result


def format_percent(fraction: float) -> str:
    """Formats a fraction as a percentage: `99.02 %`."""
    return f"{100 * fraction:.2f} %"


def format_mean_and_std(mean: float, std: float) -> str:
    """Formats a mean fraction and its standard deviation: `99.19 ± 0.04 %`."""
    return f"{100 * mean:.2f} ± {format_percent(std)}"


def format_probability(probability: float) -> str:
    """Formats a probability as a percentage.

    Probabilities above 0.9999 become `> 99.99 %`. Probabilities between 0 and 0.0001
    become `< 0.01 %`.
    """
    if probability > 0.9999:
        return "> 99.99 %"
    if 0 < probability < 0.0001:
        return "< 0.01 %"
    return format_percent(probability)


def format_interval(interval: Sequence[float]) -> str:
    """Formats an interval of fractions as percentages: `98.81 to 99.19 %`."""
    low, high = interval
    return f"{100 * low:.2f} to {format_percent(high)}"


def format_split(split: str) -> str:
    """Replaces the underscores in a split name with hyphens: `leave-one-out`."""
    return split.replace("_", "-")


def format_counts(metrics: EnsembleMetrics) -> str:
    """Formats the number of correct predictions per member: `95, 97 of 100`."""
    counts = ", ".join(f"{member.correct:,}" for member in metrics.members)
    return f"{counts} of {metrics.examples:,}"


def format_accuracy(metrics: EnsembleMetrics) -> str:
    """Formats an accuracy with its counts and 95 % confidence interval.

    For a single network, the interval accounts for the sampling of examples. For
    several seeds, the interval is for the mean accuracy over seeds. If the classes are
    unbalanced, the balanced accuracy is added.
    """
    counts = format_counts(metrics)
    std, mean_interval = metrics.accuracy_std, metrics.accuracy_mean_interval
    if std is None or mean_interval is None:  # a single network
        accuracy = format_percent(metrics.accuracy)
        interval = format_interval(metrics.accuracy_interval)
        text = f"{accuracy} ({counts}; 95 % interval {interval})"
    else:
        accuracy = format_mean_and_std(metrics.accuracy, std)
        interval = format_interval(mean_interval)
        text = (
            f"{accuracy} over {len(metrics.members)} seeds ({counts}; 95 % interval "
            f"for the mean {interval})"
        )
    if metrics.is_unbalanced and metrics.balanced_accuracy is not None:
        text += f", balanced accuracy {format_percent(metrics.balanced_accuracy)}"
    return text


def format_validation(metrics: StepMetrics) -> str:
    """Formats a validation accuracy.

    It is prefixed with the split name unless the split is `validation`.
    """
    text = format_accuracy(metrics)
    if metrics.split != "validation":
        text = f"{format_split(metrics.split)} {text}"
    return text


def format_accuracies(result: Result) -> str:
    """Formats all accuracies in a result.

    The accuracy of the ensemble, the accuracy on the first 128 examples, and the number
    of examples that also occur in the training data are added if they are available.
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

    Returns "" if the number is 0 or unknown.
    """
    if not result.examples_seen_in_training:
        return ""
    return (
        f"; {result.examples_seen_in_training:,} of {result.examples:,} also occur "
        "in the training data, so the accuracy on new examples may be lower"
    )


def format_loss(result: Result) -> str:
    """Formats the loss; for several seeds, the mean loss and the ensemble's loss."""
    if result.ensemble is None:
        return f"loss {result.loss:.4f}"
    # Only the ensemble's loss uses the fitted temperature.
    return f"mean loss {result.loss:.4f}, ensemble {result.ensemble.loss:.4f}"


def format_result(result: Result) -> str:
    """Formats a result with data set, split, step, accuracies and loss.

    If the examples have groups, the text also contains the mean accuracy per group and
    the group with the lowest accuracy.
    """
    text = (
        f"{result.dataset} {format_split(result.split)} at step {result.step}: "
        f"{format_accuracies(result)}"
    )
    accuracies = result.accuracy_by_group
    if accuracies is not None:
        mean = statistics.fmean(accuracies.values())
        worst_group = min(accuracies, key=accuracies.__getitem__)
        text += (
            f"; mean accuracy per group {format_percent(mean)}, lowest "
            f"{format_percent(accuracies[worst_group])} "
            f"(group {escape_unprintable(worst_group)})"
        )
    return f"{text}, {format_loss(result)}"
