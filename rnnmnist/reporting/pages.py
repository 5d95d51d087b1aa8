"""Writes the report of a run: an HTML page and its plots."""

import base64
from pathlib import Path
from typing import NamedTuple

import numpy as np

from rnnmnist.config.tasks import Task
from rnnmnist.data.examples import Examples, padding_mask
from rnnmnist.evaluation import formatting
from rnnmnist.evaluation.logit_metrics import evaluate_logits
from rnnmnist.evaluation.network import Network
from rnnmnist.evaluation.predictions import find_lengths
from rnnmnist.evaluation.probabilities import combine_members, softmax
from rnnmnist.evaluation.splits import load_evaluated
from rnnmnist.reporting import html, plots
from rnnmnist.runs.metrics import Result
from rnnmnist.runs.writing import write_atomically
from rnnmnist.runtime.devices import make_single_device_mesh

MAX_ERRORS = 16  # misclassified examples that are drawn
MAX_CONFUSIONS = 10  # listed pairs of a true class and a predicted class
MAX_CLASSES = 50  # confusion matrices with more classes are not drawn
BLOCK_SIZE = 500  # examples whose logits at all time steps are in memory at once


class Report(NamedTuple):
    """The files of a report, and the evaluation result in it.

    Attributes:
        result: the metrics on the evaluated split, as returned by `Model.evaluate`.
        plots: the paths of the plots, PNG files.
        page: the path of the HTML file, in which the plots are embedded.
    """

    result: Result
    plots: tuple[Path, ...]
    page: Path


def write_report(network: Network, folder: Path) -> Report:
    """Writes the report of a network to a folder.

    The page is self-contained and does not run scripts.
    """
    task, split, examples, logits = load_evaluated(network)
    figures: dict[str, bytes] = {}
    if logits is None:  # otherwise, the logits are leave-one-out predictions
        cpu_network = network.on(make_single_device_mesh("cpu"))
        if network.config.model.reads_whole_sequences:
            logits = cpu_network.logits(examples)
        else:
            logits, accuracy = predict_over_time(cpu_network, examples)
            majority = np.bincount(examples.labels).max() / len(examples)
            figures["time_steps"] = plots.plot_accuracy_over_time(accuracy, majority)
    result = evaluate_logits(network, task, split, examples, logits)
    combined = combine_members(logits.astype(np.float64))
    probabilities = softmax(combined / network.temperature)
    if not network.config.model.is_closed_form and network.record.lines:
        figures["curves"] = plots.plot_learning_curves(network.record.lines)
    if len(task.classes) <= MAX_CLASSES:
        confusion = np.array(result.confusion)
        figures["confusion"] = plots.plot_confusion_matrix(confusion, task.classes)
    errors = find_errors(task, examples, probabilities)
    if errors:
        figures["gallery"] = plots.plot_misclassified(errors, task.feature_names)
    page = render_page(network, result, figures, probabilities)
    for name, content in figures.items():
        write_atomically(folder / f"{name}.png", content)
    page_path = folder / "index.html"
    write_atomically(page_path, page.encode())
    paths = [folder / f"{name}.png" for name in figures]
    return Report(result, tuple(paths), page_path)


def render_page(
    network: Network,
    result: Result,
    figures: dict[str, bytes],
    probabilities: np.ndarray,
) -> str:
    """Renders the page from its template.

    Args:
        network: the network.
        result: the metrics on the evaluated split.
        figures: the content of the PNG files, by name.
        probabilities: the calibrated means over the ensemble, [examples, classes].
    """
    return html.render(
        html.FOLDER / "report.html",
        network=network,
        result=result,
        formatting=formatting,
        plots={
            name: base64.b64encode(content).decode()
            for name, content in figures.items()
        },
        confusions=most_frequent_errors(result),
        max_errors=MAX_ERRORS,
        mean_confidence=float(probabilities.max(axis=1).mean()),
    )


def most_frequent_errors(result: Result) -> list[tuple[str, str, int]]:
    """Returns the most frequent errors: true class, predicted class and count."""
    classes = result.task.classes
    errors = [
        (classes[label], classes[predicted], int(count))
        for (label, predicted), count in np.ndenumerate(result.confusion)
        if count and label != predicted
    ]
    return sorted(errors, key=lambda error: -error[2])[:MAX_CONFUSIONS]


def predict_over_time(
    network: Network, examples: Examples
) -> tuple[np.ndarray, np.ndarray]:
    """Computes the final logits, and the accuracy after each time step.

    The accuracy after a time step includes only examples with at least this many time
    steps. Examples are processed in blocks to limit memory use.

    Returns:
        The logits, [ensemble, examples, classes], and the members' mean accuracies,
        [time].
    """
    time_steps = len(network.view(examples.take(slice(1)))[0])
    counts = np.zeros((2, time_steps))  # rows: correct predictions, and examples
    final_logits = []
    for start in range(0, len(examples), BLOCK_SIZE):
        end = min(start + BLOCK_SIZE, len(examples))
        block = examples.select(np.arange(start, end))
        logits = network.logits(block, every_step=True)
        lengths = find_lengths(block, time_steps)
        mask = ~padding_mask(time_steps, lengths)
        is_correct = (logits.argmax(axis=-1) == block.labels[:, None]) & mask
        counts += is_correct.sum(axis=1).mean(axis=0), mask.sum(axis=0)
        final_logits.append(logits[:, np.arange(len(block)), lengths - 1])
    counts = counts[:, counts[1] > 0]  # all examples may be shorter than `time_steps`
    return np.concatenate(final_logits, axis=1), counts[0] / counts[1]


def find_errors(
    task: Task, examples: Examples, probabilities: np.ndarray
) -> list[plots.Tile]:
    """Returns misclassified examples, the most confident first."""
    (errors,) = np.nonzero(probabilities.argmax(axis=1) != examples.labels)
    confidences = probabilities[errors].max(axis=1)
    order = np.argsort(-confidences, kind="stable")[:MAX_ERRORS]
    return [
        plots.Tile(
            name=examples.name(position),
            values=examples.strip_padding(position),
            predicted=task.classes[probabilities[position].argmax()],
            probability=formatting.format_probability(probabilities[position].max()),
            label=task.classes[examples.labels[position]],
        )
        for position in errors[order].tolist()
    ]
