"""The report of a run: its data, and the page with its pictures."""

import base64
import dataclasses
import datetime
import shlex
from importlib import metadata
from pathlib import Path
from typing import NamedTuple

import numpy as np

from rnnmnist.config.resolving import RunConfig
from rnnmnist.config.tasks import MIN_VALIDATION_EXAMPLES, Task
from rnnmnist.data.examples import Examples, find_padding
from rnnmnist.errors import set_missing_filename
from rnnmnist.evaluation import formatting
from rnnmnist.evaluation.left_out import load_evaluated
from rnnmnist.evaluation.network import Network
from rnnmnist.evaluation.occlusion import occlude
from rnnmnist.evaluation.probabilities import combine_members, softmax
from rnnmnist.evaluation.scoring import score_split
from rnnmnist.evaluation.trained_run import TrainedRun
from rnnmnist.reporting import html, plots
from rnnmnist.runs import logs
from rnnmnist.runs.results import Result
from rnnmnist.runs.scores import Z_95, wilson_interval
from rnnmnist.runs.selection import select
from rnnmnist.runtime import machine
from rnnmnist.runtime.devices import make_cpu_mesh

MAX_ERRORS = 16  # examples of the gallery
MAX_CONFUSIONS = 10  # pairs of a true and a predicted class
MAX_CLASSES = 50  # with more, the confusion matrix is not drawn
# The pictures that a report can have. The last one is of earlier versions.
PICTURES = ("curves", "confusion", "steps", "gallery", "reliability")


@dataclasses.dataclass(frozen=True, eq=False)  # arrays have no single truth value
class RunData:
    """A run at one of its steps, with its predictions for every example of a split."""

    trained: TrainedRun
    network: Network
    config: RunConfig  # with the `train` of the newest checkpoint, after a resume
    last_step: int  # the newest checkpoint
    task: Task  # that of the evaluated data
    examples: Examples  # the whole split
    result: Result
    is_left_out: bool  # each example is predicted by a head fitted without it
    probabilities: np.ndarray  # [examples, classes], of the network or the ensemble
    # The class that each network predicts after each time step, int [networks,
    # examples, time]; None if predictions are known at the end of an example only.
    predicted_over_time: np.ndarray | None
    metrics: list[logs.Metrics]  # lines of `metrics.jsonl`; empty if there is no file


class Report(NamedTuple):
    """The files of a report, and the scores that it shows.

    Attributes:
        scores: the scores on all examples of the evaluated split, as of
            `Model.evaluate`.
        pictures: the PNG files.
        page: the HTML file, which contains the pictures.
    """

    scores: Result
    pictures: tuple[Path, ...]
    page: Path


def report_run(trained: TrainedRun) -> Report:
    """Writes the report of a run into its workdir."""
    run = load_run_data(trained)
    *pictures, page = write_pages(run)
    return Report(scores=run.result, pictures=tuple(pictures), page=page)


def load_run_data(run: TrainedRun) -> RunData:
    """Reads a run's files and predicts every example of the evaluated split."""
    task, split, examples, logits = load_evaluated(run)
    is_left_out = logits is not None
    network = run.make_network(make_cpu_mesh())
    predicted_over_time = None
    if logits is None and run.config.model.bidirectional:
        logits = network.logits(examples)
    elif logits is None:
        over_time = network.logits(examples, every_step=True)
        predicted_over_time = over_time.argmax(axis=-1)
        last = -1 if examples.lengths is None else examples.lengths - 1
        logits = over_time[:, np.arange(len(examples)), last]
    combined = combine_members(logits.astype(np.float64))
    newest = select(run.workdir, "latest")
    config = dataclasses.replace(run.config, train=newest.config.train)
    return RunData(
        trained=run,
        network=network,
        config=config,
        last_step=newest.step,
        task=task,
        examples=examples,
        result=score_split(run, task, split, examples, logits),
        is_left_out=is_left_out,
        probabilities=softmax(run.multiplier * combined),
        predicted_over_time=predicted_over_time,
        metrics=logs.read(run.workdir),
    )


def write_pages(run: RunData) -> list[Path]:
    """Writes the pictures and the page; returns their paths, the page last.

    The page is one file that loads no other file and runs no script. Pictures of an
    earlier report that this one does not have are removed.
    """
    errors = find_errors(run)
    pictures = draw_pictures(run, errors)
    folder = run.trained.workdir / "report"
    folder.mkdir(parents=True, exist_ok=True)
    files = {folder / f"{name}.png": content for name, content in pictures.items()}
    files[folder / "index.html"] = render_page(run, pictures, errors).encode()
    for path, content in files.items():
        with set_missing_filename(path):
            path.write_bytes(content)
    for name in PICTURES:
        if name not in pictures:
            (folder / f"{name}.png").unlink(missing_ok=True)
    return list(files)


def draw_pictures(run: RunData, errors: list[plots.Tile]) -> dict[str, bytes]:
    """Draws the pictures that a run has, as PNG files, by their names."""
    classes = run.task.classes
    pictures: dict[str, bytes] = {}
    if run.config.model.fitting == "gradient" and run.metrics:
        pictures["curves"] = plots.learning_curves(run.metrics)
    if len(classes) <= MAX_CLASSES:
        confusion = np.array(run.result.confusion)
        pictures["confusion"] = plots.confusion_matrix(confusion, classes)
    if run.predicted_over_time is not None:
        accuracy = estimate_over_time(run.predicted_over_time, run.examples)
        majority = np.bincount(run.examples.labels).max() / len(run.examples)
        pictures["steps"] = plots.accuracy_over_time(accuracy, majority)
    if errors:
        pictures["gallery"] = plots.gallery(errors, run.task.feature_names)
    return pictures


def render_page(
    run: RunData, pictures: dict[str, bytes], errors: list[plots.Tile]
) -> str:
    """Renders the page; headings and sentences are in the template."""
    trained = run.trained
    flags = [f"--workdir={trained.workdir}", f"--step={trained.selector}"]
    flags += [f"--config.{name}={value}" for name, value in trained.settings.items()]
    return html.render(
        html.FOLDER / "report.html",
        run=run,
        trained=trained,
        formatting=formatting,
        pictures={
            name: base64.b64encode(content).decode()
            for name, content in pictures.items()
        },
        completion=logs.completion(trained.workdir, run.last_step, run.config.train),
        validation_selects=trained.task.examples["validation"]
        >= MIN_VALIDATION_EXAMPLES,
        confusions=most_frequent_errors(run),
        num_errors=(run.probabilities.argmax(axis=1) != run.examples.labels).sum(),
        shown_errors=len(errors),
        largest_fall=max((np.abs(tile.falls).max() for tile in errors), default=0),
        overconfidence=estimate_overconfidence(run.probabilities, run.examples.labels),
        command=shlex.join(["rnnmnist", "report", *flags]),
        time=f"{datetime.datetime.now().astimezone():%Y-%m-%d %H:%M %Z}",
        processor=machine.describe_processor(),
        versions=machine.installed_versions()
        | {"matplotlib": metadata.version("matplotlib")},
    )


def most_frequent_errors(run: RunData) -> list[tuple[str, str, int]]:
    """Returns the true class, the predicted class and the count of frequent errors."""
    classes = run.task.classes
    errors = [
        (classes[label], classes[predicted], int(count))
        for (label, predicted), count in np.ndenumerate(run.result.confusion)
        if count and label != predicted
    ]
    errors.sort(key=lambda error: -error[2])
    return errors[:MAX_CONFUSIONS]


def estimate_over_time(predicted: np.ndarray, examples: Examples) -> np.ndarray:
    """Returns accuracies after each time step, between the ends of their intervals.

    They are those of the examples that have the time step, [3, time]. The intervals are
    95 % Wilson intervals over examples, of a network with the mean count of correct
    predictions, as in a result file.

    Predictions are int [networks, examples, time].
    """
    is_read = np.ones(predicted.shape[1:], bool)
    if examples.lengths is not None:
        is_read = ~find_padding(predicted.shape[2], examples.lengths)
    totals = is_read.sum(axis=0)
    totals = totals[totals > 0]  # no example can have the last time steps
    is_correct = (predicted == examples.labels[:, None]) & is_read
    correct = is_correct.sum(axis=1).mean(axis=0)[: len(totals)]
    intervals = map(wilson_interval, correct.tolist(), totals.tolist())
    low, high = np.transpose(list(intervals))
    return np.array([low, correct / totals, high])


def find_errors(run: RunData) -> list[plots.Tile]:
    """Returns the most confident errors, with the time steps on which each depends."""
    classes, examples = run.task.classes, run.examples
    predicted = run.probabilities.argmax(axis=1)
    confidence = run.probabilities.max(axis=1)
    (wrong,) = np.nonzero(predicted != examples.labels)
    order = np.argsort(-confidence[wrong], kind="stable")
    positions = wrong[order][:MAX_ERRORS]
    falls = np.zeros((len(positions), run.task.time_steps))
    # The network is not the one that predicted a left-out example.
    if len(positions) and not run.is_left_out:
        falls = occlude(run.network, examples, positions)
    pixel_order = run.trained.pixel_order
    tiles = []
    for position, fall in zip(positions.tolist(), falls, strict=True):
        values = examples.strip_padding(position)
        times = np.arange(len(values))
        if pixel_order is not None:  # the time step in which each pixel is read
            ranks = pixel_order.argsort(axis=None)
            times = (ranks // pixel_order.shape[1]).reshape(values.shape)
        tile = plots.Tile(
            name=examples.name(position),
            values=values,
            falls=fall[times],
            predicted=classes[predicted[position]],
            probability=formatting.format_probability(confidence[position]),
            label=classes[examples.labels[position]],
        )
        tiles.append(tile)
    return tiles


def estimate_overconfidence(
    probabilities: np.ndarray, labels: np.ndarray
) -> tuple[float, float, float]:
    """Returns the mean confidence minus the accuracy, and its 95 % interval.

    The confidence is the probability of the predicted class. The interval is normal,
    over examples.
    """
    is_correct = probabilities.argmax(axis=1) == labels
    differences = probabilities.max(axis=1) - is_correct
    mean = differences.mean()
    half = Z_95 * differences.std() / np.sqrt(len(labels))
    return mean, mean - half, mean + half
