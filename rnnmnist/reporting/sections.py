"""The sections of a run's report: plots with captions and tables."""

import numpy as np

from rnnmnist.evaluation.accuracies import (
    interval,
    percent,
    percentage_points,
    probability,
    wilson_interval,
)
from rnnmnist.evaluation.metrics import format_counts
from rnnmnist.evaluation.predictions import calibration_bins, most_confident_errors
from rnnmnist.reporting import plots
from rnnmnist.reporting.html import Picture, Section, Table
from rnnmnist.reporting.plots import Estimate, Tile
from rnnmnist.reporting.run_data import RunData

MAX_ERRORS = 16  # examples of the gallery
MAX_CLASSES = 50  # of a plot
MAX_ROWS = 100  # of the table of time steps
MAX_CONFUSIONS = 20  # rows of the table of confused classes
HIGH_ACCURACY = 0.9  # the caption names the time step after which it is reached


def report_sections(run: RunData) -> list[Section]:
    """Returns all sections in the order of the page."""
    return [
        *_accuracy_by_seed(run),
        _learning_curves(run),
        _confusion_matrix(run),
        _accuracy_over_time(run),
        _most_confident_errors(run),
        _calibration(run),
        _accuracy_by_class(run),
    ]


def estimate_accuracies(correct: np.ndarray, totals: np.ndarray) -> list[Estimate]:
    """Estimates accuracies from `correct` [ensemble, accuracies] of `totals` examples.

    Of one network, they have 95 % Wilson intervals over examples. Of an ensemble, they
    are means with the range from the lowest to the highest: its members share their
    examples, so pooled counts would give intervals that are too narrow.
    """
    if len(correct) == 1:
        return [
            Estimate(low, count / total, high)
            for count, total in zip(correct[0].tolist(), totals.tolist(), strict=True)
            for low, high in [wilson_interval(count, total)]
        ]
    accuracies = correct / totals
    ends = (accuracies.min(0), accuracies.mean(0), accuracies.max(0))
    return [Estimate(*values) for values in np.transpose(ends).tolist()]


def _describe_intervals(run: RunData) -> str:
    if len(run.networks) > 1:
        return f"Intervals span the lowest to the highest of {len(run.networks)} seeds."
    return "Intervals are 95 % Wilson intervals over examples."


def _interval_header(run: RunData) -> str:
    return "lowest to highest" if len(run.networks) > 1 else "95 % interval"


def _of_first_seed(run: RunData) -> str:
    """Returns ` of seed N` of an ensemble, else nothing."""
    return f" of seed {run.result.seed}" if len(run.networks) > 1 else ""


def _format_estimate(estimate: Estimate) -> list[str]:
    """Returns the cells of an accuracy and of its interval."""
    return [percent(estimate.value), interval((estimate.low, estimate.high))]


def _accuracy_by_seed(run: RunData) -> list[Section]:
    if not run.result.members:
        return []
    rows = [
        [
            f"{scores.seed}",
            format_counts(scores),
            percent(scores.accuracy),
            interval(scores.accuracy_interval),
            f"{scores.loss:.4f}",
            percentage_points(calibration_bins([predictions]).calibration_error),
        ]
        for scores, predictions in zip(run.result.members, run.networks, strict=True)
    ]
    header = ["seed", "correct", "accuracy", "95 % interval", "loss"]
    text = "Intervals are 95 % Wilson intervals over examples."
    table = Table([*header, "calibration error"], rows)
    return [Section("Accuracy by seed", [text], table=table)]


def _learning_curves(run: RunData) -> Section:
    title = "Learning curves"
    metrics = run.metrics
    if not metrics:
        text = "metrics.jsonl holds no metrics, so there are no learning curves."
        return Section(title, [text])
    trained = [line for line in metrics if line.split == "train"]
    alt = f"Loss and accuracy over {metrics[-1].step:,} steps."
    for name, lines in (("Training", trained), ("Validation", run.validated)):
        if lines:
            first, last = lines[0], lines[-1]
            alt += (
                f" {name} loss goes from {first.loss:.3f} at step {first.step:,} to "
                f"{last.loss:.4f} at step {last.step:,}, accuracy from "
                f"{percent(first.accuracy)} to {percent(last.accuracy)}."
            )
    rows = [
        [
            f"{line.step:,}",
            f"{line.loss:.4f}",
            percent(line.accuracy),
            format_counts(line),
        ]
        for line in run.validated
    ]
    header = ["step", "validation loss", "validation accuracy", "correct"]
    return Section(
        title,
        [_learning_curves_caption(run)],
        Picture("curves", plots.learning_curves(metrics), alt),
        Table(header, rows) if rows else None,
    )


def _learning_curves_caption(run: RunData) -> str:
    train = run.config.train
    text = "Training metrics are of the batches since the previous point, each before "
    if train.log_metrics == "last_batch":
        text = "Training metrics are of the last batch before each point, after "
    text += "its update; validation metrics are of the whole split."
    if train.label_smoothing:
        text += f" With label smoothing of {train.label_smoothing:g}, the training "
        text += "loss does not approach 0."
    if train.ema_decay:
        text += " Validation uses the moving average of the weights."
    if len(run.networks) > 1:
        text += " Lines are means over the seeds; their range is shaded."
    return text


def _accuracy_over_time(run: RunData) -> Section:
    labels = run.examples.labels
    correct = np.array([predictions.correct_by_time for predictions in run.networks])
    totals = run.networks[0].examples_by_time
    totals = totals[totals > 0]  # the split can have shorter sequences than the task
    correct = correct[:, : len(totals)]
    estimates = estimate_accuracies(correct, totals)
    time_steps = len(estimates)
    majority = int(np.bincount(labels).max()) / len(labels)
    low = [time for time, one in enumerate(estimates, 1) if one.value < HIGH_ACCURACY]
    first = max(low, default=0) + 1
    reached = ""
    if first <= time_steps:
        reached = f" It is at least {percent(HIGH_ACCURACY)} from time step {first} on."
    loss = "each" if run.config.train.loss == "every_step" else "the last one only"
    quarters = sorted({-(-time_steps * quarter // 4) for quarter in (1, 2, 3, 4)})
    shown = ((time, percent(estimates[time - 1].value)) for time in quarters)
    points = ", ".join(f"{accuracy} after time step {time}" for time, accuracy in shown)
    every = -(-time_steps // MAX_ROWS)
    rows = [
        [
            f"{time}",
            ", ".join(f"{count:,}" for count in correct[:, time - 1]),
            f"{totals[time - 1]:,}",
            *_format_estimate(estimates[time - 1]),
        ]
        for time in range(time_steps, 0, -every)
    ]
    interval_header = _interval_header(run)
    header = ["time steps read", "correct", run.noun, "accuracy", interval_header]
    return Section(
        "Accuracy by time steps read",
        [
            f"Accuracy of the prediction after each time step, over the {run.noun} "
            f"that have it.{reached} The training loss is that after {loss}. "
            f"{_describe_intervals(run)} The horizontal line is the accuracy of always "
            "predicting the most frequent class."
        ],
        Picture(
            "steps",
            plots.accuracy_over_time(estimates, majority),
            f"Accuracy by time steps read: {points}.{reached}",
        ),
        Table(header, rows[::-1]),
    )


def _confusion_matrix(run: RunData) -> Section:
    title = "Confusion matrix"
    counts = np.array(run.result.confusion)
    names = run.task.classes
    errors = np.where(np.eye(len(counts), dtype=bool), 0, counts)
    order = np.argsort(-errors, axis=None, kind="stable")[:MAX_CONFUSIONS]
    pairs = [
        (names[true], names[predicted], f"{errors[true, predicted]:,}")
        for true, predicted in zip(*np.unravel_index(order, errors.shape), strict=True)
        if errors[true, predicted]
    ]
    frequent = ", ".join(
        f"{true} as {predicted} ({count})" for true, predicted, count in pairs[:5]
    )
    frequent = f"Most frequent errors: {frequent}." if pairs else "There are no errors."
    text = "Rows are true classes, columns predicted classes; the diagonal is grey. "
    if len(run.networks) > 1:
        text += f"Counts are summed over {len(run.networks)} seeds. "
    table = Table(["true", "predicted", run.noun], pairs) if pairs else None
    if len(names) > MAX_CLASSES:
        return Section(title, [frequent], table=table)
    return Section(
        title,
        [text + frequent],
        Picture(
            "confusion",
            plots.confusion_matrix(counts, names),
            f"Confusion matrix of {counts.sum():,} predictions, of which "
            f"{errors.sum():,} are wrong. {frequent}",
        ),
        table,
    )


def _accuracy_by_class(run: RunData) -> Section:
    confusions = np.array([network.confusion for network in run.result.networks])
    totals = confusions[0].sum(axis=1)
    present = np.flatnonzero(totals)  # only these classes have an accuracy
    totals = totals[present]
    names = [run.task.classes[label] for label in present]
    correct = np.diagonal(confusions, axis1=1, axis2=2)[:, present]
    estimates = estimate_accuracies(correct, totals)
    pooled = zip(correct.sum(axis=0), totals * len(correct), strict=True)
    counts = [f"{count:,} of {total:,}" for count, total in pooled]
    order = np.argsort([estimate.value for estimate in estimates], kind="stable")
    lowest, highest = (
        f"{names[label]}, {percent(estimates[label].value)} ({counts[label]})"
        for label in (order[0], order[-1])
    )
    rows = [
        [name, count, *_format_estimate(estimate)]
        for name, count, estimate in zip(names, counts, estimates, strict=True)
    ]
    text = (
        f"Highest: {highest}; lowest: {lowest}. {_describe_intervals(run)} If two of "
        "them overlap, the difference may be due to chance."
    )
    table = Table(["class", "correct", "accuracy", _interval_header(run)], rows)
    return Section("Accuracy by class", [text], table=table)


def _most_confident_errors(run: RunData) -> Section:
    title = "Most confident errors"
    names = run.task.classes
    predictions = run.networks[0]
    errors = most_confident_errors(predictions, MAX_ERRORS)
    if not len(errors):
        return Section(title, [f"All {run.noun} are classified correctly."])
    tiles = [
        Tile(
            run.examples.one(index),
            names[predictions.predicted[index, -1]],
            probability(predictions.confidence[index]),
            names[predictions.labels[index]],
        )
        for index in errors
    ]
    total = int((~predictions.correct).sum())
    text = f"The {len(errors)} most confident of {total:,} errors{_of_first_seed(run)}."
    if total <= len(errors):
        text = f"All {total:,} errors{_of_first_seed(run)}, the most confident first."
    listed = "; ".join(
        f"{tile.label} predicted as {tile.predicted} ({tile.probability})"
        for tile in tiles[:6]
    )
    of_labels = predictions.probabilities[errors, predictions.labels[errors]]
    rows = [
        [
            f"{index}",
            f"{tile.predicted} ({tile.probability})",
            f"{tile.label} ({probability(of_label)})",
        ]
        for index, tile, of_label in zip(errors, tiles, of_labels, strict=True)
    ]
    header = ["index", "predicted (probability)", "label (probability)"]
    return Section(
        title,
        [text],
        Picture(
            "gallery",
            plots.gallery(tiles, images=run.task.image_shape is not None),
            f"{text} The first are {listed}.",
        ),
        Table(header, rows),
    )


def _calibration(run: RunData) -> Section:
    bins = calibration_bins(run.networks)
    present = np.flatnonzero(bins.examples)
    examples = bins.examples[present]
    correct = bins.correct[present]
    confidence = bins.confidence[present] / examples
    estimates = estimate_accuracies(correct[None], examples)
    total = int(examples.sum())
    error = bins.calibration_error
    mean = float(bins.confidence.sum()) / total
    accuracy = int(correct.sum()) / total
    verdict = "They agree"
    difference = abs(mean - accuracy)
    if round(difference, 4):
        kind = "overconfident" if mean > accuracy else "underconfident"
        verdict = f"The network is {kind} by {percentage_points(difference)}"
    summary = (
        f"The mean confidence is {percent(mean)}, the accuracy {percent(accuracy)}. "
        f"{verdict}."
    )
    text = [
        f"{summary} On the diagonal, confidence and accuracy agree. Intervals are 95 % "
        "Wilson intervals over examples.",
        "The expected calibration error is the mean distance from the diagonal over "
        f"{run.noun}, in {len(bins.examples)} bins of equal width (Guo et al. 2017).",
    ]
    if len(run.networks) > 1:
        text.append(
            f"The predictions of {len(run.networks)} seeds for the same examples are "
            "pooled, so the intervals are too narrow."
        )
    width = 100 / len(bins.examples)
    rows = [
        [
            f"{width * index:.1f} to {width * (index + 1):.1f} %",
            percent(bin_mean),
            f"{count:,}",
            f"{bins.correct[index]:,}",
            percent(estimate.value),
        ]
        for index, count, estimate, bin_mean in zip(
            present, examples, estimates, confidence, strict=True
        )
    ]
    header = ["confidence", "mean", run.noun, "correct", "accuracy"]
    return Section(
        "Calibration",
        text,
        Picture(
            "reliability",
            plots.reliability_diagram(confidence, estimates, bins.examples, error),
            f"{summary} The expected calibration error is {percentage_points(error)}. "
            f"{bins.examples[-1]:,} of {total:,} predictions have a confidence above "
            f"{100 - width:.1f} %, and {bins.correct[-1]:,} of these are correct.",
        ),
        Table(header, rows),
    )
