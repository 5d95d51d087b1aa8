"""The report of a run: the numbers, tables and pictures of its sections."""

import numpy as np

from rnnmnist.config.schema import SETTINGS, Config
from rnnmnist.evaluation.metrics import (
    format_counts,
    interval,
    percent,
    percentage_points,
    probability,
    wilson_interval,
)
from rnnmnist.evaluation.predictions import calibration_bins, most_confident_errors
from rnnmnist.reporting import plots
from rnnmnist.reporting.pages import Entries, Section, render_page
from rnnmnist.reporting.plots import Estimate, Tile
from rnnmnist.reporting.run_data import RunData
from rnnmnist.runtime.machine import join_versions

MAX_ERRORS = 16  # examples of the gallery
MAX_CLASSES = 50  # of a confusion matrix that is drawn
MAX_ROWS = 100  # of the table of time steps
MAX_CONFUSIONS = 20  # rows of the table of confused classes
HIGH_ACCURACY = 0.9  # the caption names the time step after which it is reached


def report_page(run: RunData, provenance: Entries) -> dict[str, bytes]:
    """Returns the report of a run: its files by name, the page last."""
    sections = {
        "seeds": _accuracy_by_seed(run),
        "curves": _learning_curves(run),
        "confusion": _confusion_matrix(run),
        "steps": _accuracy_over_time(run),
        "gallery": _most_confident_errors(run),
        "reliability": _calibration(run),
        "classes": _accuracy_by_class(run),
        "sessions": _sessions(run),
    }
    return render_page(
        "report.html",
        sections,
        run=run,
        network=_describe_network(run.config),
        configuration=[
            (name, _describe_setting(name, value))
            for name, value in run.config.flat().items()
        ],
        provenance=provenance,
    )


def _describe_network(config: Config) -> str:
    """Describes the network in words: `an LSTM with 128 units`."""
    model = config.model
    cell = model.cell_name if model.is_user_cell else model.cell.upper()
    article = "an" if cell in ("LSTM", "RNN", "LRU") else "a"
    return f"{article} {cell} with {model.size}"


def _describe_setting(name: str, value: object) -> str:
    """Returns the value of a setting, with the default if it differs."""
    default = SETTINGS[name].default
    return f"{value}" if value == default else f"{value} (default: {default})"


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


def _format_estimate(estimate: Estimate) -> list[str]:
    """Returns the cells of an accuracy and of its interval."""
    return [percent(estimate.value), interval((estimate.low, estimate.high))]


def _accuracy_by_seed(run: RunData) -> Section:
    rows = [
        [
            f"{scores.seed}",
            format_counts(scores),
            percent(scores.accuracy),
            interval(scores.accuracy_interval),
            f"{scores.loss:.4f}",
            percentage_points(calibration_bins([predictions]).calibration_error),
        ]
        for scores, predictions in zip(run.scores.networks, run.networks, strict=True)
    ]
    return Section(rows)


def _learning_curves(run: RunData) -> Section:
    rows = [
        [f"{one.step:,}", f"{one.loss:.4f}", percent(one.accuracy), format_counts(one)]
        for one in run.validated
    ]
    return Section(rows, plots.learning_curves(run.metrics) if run.metrics else None)


def _confusion_matrix(run: RunData) -> Section:
    counts = np.array(run.scores.confusion)
    names = run.task.classes
    errors = np.where(np.eye(len(counts), dtype=bool), 0, counts)
    order = np.argsort(-errors, axis=None, kind="stable")[:MAX_CONFUSIONS]
    rows = [
        (names[true], names[predicted], f"{errors[true, predicted]:,}")
        for true, predicted in zip(*np.unravel_index(order, errors.shape), strict=True)
        if errors[true, predicted]
    ]
    drawn = len(names) <= MAX_CLASSES
    return Section(
        rows,
        plots.confusion_matrix(counts, names) if drawn else None,
        {"examples": counts.sum(), "errors": errors.sum()},
    )


def _accuracy_over_time(run: RunData) -> Section:
    labels = run.examples.labels
    correct = np.array([predictions.correct_by_time for predictions in run.networks])
    totals = run.networks[0].examples_by_time
    totals = totals[totals > 0]  # the split can have shorter sequences than the task
    correct = correct[:, : len(totals)]
    estimates = estimate_accuracies(correct, totals)
    last = len(estimates)
    low = [time for time, one in enumerate(estimates, 1) if one.value < HIGH_ACCURACY]
    high_from = max(low, default=0) + 1
    every = -(-last // MAX_ROWS)
    rows = [
        [
            f"{time}",
            ", ".join(f"{count:,}" for count in correct[:, time - 1]),
            f"{totals[time - 1]:,}",
            *_format_estimate(estimates[time - 1]),
        ]
        for time in range(last, 0, -every)
    ]
    majority = int(np.bincount(labels).max()) / len(labels)
    return Section(
        rows[::-1],
        plots.accuracy_over_time(estimates, majority),
        {
            "quarters": [(t, estimates[t - 1].value) for t in plots.quarters(last)],
            "high": HIGH_ACCURACY,
            "high_from": high_from if high_from <= last else None,
        },
    )


def _most_confident_errors(run: RunData) -> Section:
    names = run.task.classes
    predictions = run.networks[0]
    errors = most_confident_errors(predictions, MAX_ERRORS)
    tiles = [
        Tile(
            run.examples.one(index),
            names[predictions.predicted[index, -1]],
            probability(predictions.confidence[index]),
            names[predictions.labels[index]],
        )
        for index in errors
    ]
    of_labels = predictions.probabilities[errors, predictions.labels[errors]]
    rows = [
        [
            f"{index}",
            f"{tile.predicted} ({tile.probability})",
            f"{tile.label} ({probability(of_label)})",
        ]
        for index, tile, of_label in zip(errors, tiles, of_labels, strict=True)
    ]
    images = run.task.image_shape is not None
    return Section(
        rows,
        plots.gallery(tiles, images=images) if tiles else None,
        {"tiles": tiles, "total": (~predictions.correct).sum()},
    )


def _calibration(run: RunData) -> Section:
    bins = calibration_bins(run.networks)
    present = np.flatnonzero(bins.examples)
    examples = bins.examples[present]
    correct = bins.correct[present]
    confidence = bins.confidence[present] / examples
    estimates = estimate_accuracies(correct[None], examples)
    total = examples.sum()
    num_bins = len(bins.examples)
    rows = [
        [
            f"{100 * index / num_bins:.1f} to {100 * (index + 1) / num_bins:.1f} %",
            percent(bin_mean),
            f"{count:,}",
            f"{bins.correct[index]:,}",
            percent(estimate.value),
        ]
        for index, count, estimate, bin_mean in zip(
            present, examples, estimates, confidence, strict=True
        )
    ]
    picture = plots.reliability_diagram(
        confidence, estimates, bins.examples, bins.calibration_error
    )
    numbers = {
        "bins": bins,
        "examples": total,
        "confidence": bins.confidence.sum() / total,
        "accuracy": correct.sum() / total,
    }
    return Section(rows, picture, numbers)


def _accuracy_by_class(run: RunData) -> Section:
    confusions = np.array([network.confusion for network in run.scores.networks])
    totals = confusions[0].sum(axis=1)
    present = np.flatnonzero(totals)  # only these classes have an accuracy
    totals = totals[present]
    correct = np.diagonal(confusions, axis1=1, axis2=2)[:, present]
    estimates = estimate_accuracies(correct, totals)
    rows = [
        [
            run.task.classes[label],
            f"{count:,} of {len(correct) * total:,}",
            *_format_estimate(estimate),
        ]
        for label, count, total, estimate in zip(
            present, correct.sum(axis=0), totals, estimates, strict=True
        )
    ]
    order = np.argsort([estimate.value for estimate in estimates], kind="stable")
    numbers = {"lowest": rows[order[0]], "highest": rows[order[-1]]}
    return Section(rows, numbers=numbers)


def _sessions(run: RunData) -> Section:
    rows = [
        [
            session.time,
            f"{session.from_step:,} to {session.step:,}",
            ", ".join(f"{name} {value:.1f}" for name, value in session.seconds.items()),
            session.hardware,
            session.devices,
            join_versions(session.versions),
        ]
        for session in run.sessions
    ]
    return Section(rows)
