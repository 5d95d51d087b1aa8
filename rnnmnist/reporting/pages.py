"""The report of a run: its data and pictures."""

import dataclasses
import shlex
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from rnnmnist.config.resolving import RunConfig, fill_defaults
from rnnmnist.config.schema import SETTINGS, Config
from rnnmnist.config.tasks import MIN_VALIDATION_EXAMPLES, Task
from rnnmnist.data.examples import Examples
from rnnmnist.evaluation.formatting import (
    format_accuracy,
    format_interval,
    format_loss,
    format_percent,
    format_probability,
    format_split,
    format_validation,
)
from rnnmnist.evaluation.left_out import load_evaluated
from rnnmnist.evaluation.network import Network
from rnnmnist.evaluation.occlusion import occlude
from rnnmnist.evaluation.probabilities import combine_members
from rnnmnist.evaluation.scoring import score_split
from rnnmnist.evaluation.trained_run import TrainedRun
from rnnmnist.reporting import calibration, plots
from rnnmnist.reporting.calibration import SplitPredictions
from rnnmnist.reporting.html import Section, write_report
from rnnmnist.runs import logs
from rnnmnist.runs.results import Result
from rnnmnist.runs.scores import wilson_interval
from rnnmnist.runs.selection import select
from rnnmnist.runtime.mesh import make_cpu_mesh

MAX_ERRORS = 16  # examples of the gallery
MAX_CLASSES = 50  # with more, the confusion matrix is not drawn
MAX_CONFUSIONS = 20  # rows of the table of confused classes


@dataclasses.dataclass(frozen=True, eq=False)  # arrays have no single truth value
class RunData:
    """A run at one of its steps, with its predictions for every example of a split."""

    trained: TrainedRun
    network: Network
    config: RunConfig  # of the newest checkpoint, since a resume can change settings
    last_step: int  # the newest checkpoint
    task: Task  # that of the evaluated data
    split: str  # as `Report.split`
    examples: Examples  # the whole split
    predictions: list[SplitPredictions]  # by network, not calibrated
    combined: SplitPredictions  # of the network, or the ensemble, calibrated
    is_left_out: bool  # each example is predicted by a head fitted without it
    scores: Result
    metrics: list[logs.Metrics]  # lines of `metrics.jsonl`; empty if there is no file
    sessions: list[logs.Session]  # empty if none has ended, or for a shipped model

    @property
    def training(self) -> str:
        """How far the run is trained, in steps, examples and epochs."""
        train, task = self.config.train, self.trained.task
        completion = logs.completion(self.trained.workdir, self.last_step, train)
        progress = f"up to step {self.last_step:,} of {train.num_steps:,}"
        examples = self.last_step * train.batch_size
        epochs = examples / task.examples["train"]
        return (
            f"{completion or progress}; {examples:,} {task.noun}, {epochs:.1f} epochs "
            f"of {task.name}"
        )

    @property
    def seconds(self) -> str:
        """The duration of all recorded sessions."""
        if not self.sessions:
            return "not recorded"
        total = sum(session.seconds["total"] for session in self.sessions)
        return f"{total:,.1f}"

    @property
    def hardware(self) -> str:
        """The processors of all recorded sessions."""
        processors = dict.fromkeys(session.hardware for session in self.sessions)
        return ", ".join(processors) or "not recorded"


class Report(NamedTuple):
    """The files of a report, and the scores that it shows.

    Attributes:
        dataset: the name of the evaluated data.
        split: `test`, or, in a run without one, `validation` or else `train`. Of random
            filters, it is `leave_one_out` or `leave_one_group_out` in place of `train`.
        step: the step of the checkpoint.
        scores: the scores on all examples of the split.
        pictures: the PNG files.
        page: the HTML file, which contains the pictures.
    """

    dataset: str
    split: str
    step: int
    scores: Result
    pictures: tuple[Path, ...]
    page: Path


def load_run_data(run: TrainedRun) -> RunData:
    """Reads a run's files and predicts every example of the evaluated split."""
    task, split, examples, left_out = load_evaluated(run)
    network = run.make_network(make_cpu_mesh())
    if left_out is not None:  # known at the end of an example only
        logits, lengths = left_out[:, :, None], None
    elif run.config.model.bidirectional:
        logits, lengths = network.logits(examples)[:, :, None], None
    else:
        logits, lengths = network.logits(examples, every_step=True), examples.lengths
    predictions = [
        SplitPredictions.from_logits(member, examples.labels, lengths)
        for member in logits
    ]
    combined = SplitPredictions.from_logits(
        combine_members(logits), examples.labels, lengths, run.multiplier
    )
    last_logits = logits[:, np.arange(len(examples)), predictions[0].lengths - 1]
    config = run.config
    last_step = run.checkpoint_step
    header = select(run.workdir, "latest")
    if header.step > last_step:
        last_step = header.step
        config = dataclasses.replace(
            config, train=header.config.train, execution=header.config.execution
        )
    return RunData(
        trained=run,
        network=network,
        config=config,
        last_step=last_step,
        task=task,
        split=split,
        examples=examples,
        predictions=predictions,
        combined=combined,
        is_left_out=left_out is not None,
        scores=score_split(run, task, split, examples, last_logits),
        metrics=logs.read(run.workdir, logs.Metrics),
        sessions=logs.read(run.workdir, logs.Session),
    )


def report_run(trained: TrainedRun) -> Report:
    """Writes the report of a run into its workdir."""
    run = load_run_data(trained)
    *pictures, page = write_pages(run)
    return Report(
        dataset=run.task.name,
        split=run.split,
        step=trained.checkpoint_step,
        scores=run.scores,
        pictures=tuple(pictures),
        page=page,
    )


def write_pages(run: RunData) -> list[Path]:
    """Writes the pictures and the page; returns their paths, the page last."""
    sections = {
        "confusion": _confusion_matrix(run),
        "gallery": _gallery(run),
        "reliability": _calibration(run),
        "classes": _accuracy_by_class(run),
    }
    if run.trained.config.model.fitting == "gradient":
        curves = plots.learning_curves(run.metrics) if run.metrics else None
        sections["curves"] = Section(curves)
    # Left-out predictions are known at the end of a sequence only.
    if not (run.trained.config.model.bidirectional or run.is_left_out):
        sections["steps"] = _accuracy_over_time(run)
    validation_selects = False
    if run.trained.config.model.fitting == "gradient":
        validation_examples = run.trained.task.examples["validation"]
        validation_selects = validation_examples >= MIN_VALIDATION_EXAMPLES
    chosen, default = _list_settings(run)
    return write_report(
        run.trained.workdir / "report",
        "report.html",
        sections,
        _format_command(run.trained),
        run=run,
        trained=run.trained,
        facts=_facts(run),
        validation_selects=validation_selects,
        chosen_settings=chosen,
        default_settings=default,
    )


def _format_command(run: TrainedRun) -> str:
    """Returns the command line that writes the same report."""
    folder = run.workdir
    if folder.is_relative_to(Path.cwd()):
        folder = folder.relative_to(Path.cwd())
    flags = [f"--workdir={folder}"]
    if run.selector != "best":
        flags.append(f"--step={run.selector}")
    flags += [f"--config.{name}={value}" for name, value in run.settings.items()]
    return shlex.join(["rnnmnist", "report", *flags])


def estimate_accuracies(correct: np.ndarray, totals: np.ndarray) -> np.ndarray:
    """Estimates accuracies from `correct` [ensemble, accuracies] of `totals` examples.

    Returns the accuracies between the ends of their intervals, [3, accuracies]. Of one
    network, these are 95 % Wilson intervals over examples. Of an ensemble, they are
    means with the range from the lowest to the highest: its members share their
    examples, so pooled counts would give intervals that are too narrow.
    """
    accuracies = correct / totals
    if len(correct) > 1:
        return np.array([accuracies.min(0), accuracies.mean(0), accuracies.max(0)])
    intervals = [
        wilson_interval(count, total)
        for count, total in zip(correct[0].tolist(), totals.tolist(), strict=True)
    ]
    low, high = np.transpose(intervals)
    return np.array([low, accuracies[0], high])


def _confusion_matrix(run: RunData) -> Section:
    counts = np.array(run.scores.confusion)
    names = run.task.classes
    errors = counts.copy()
    np.fill_diagonal(errors, 0)
    most_frequent = np.argsort(-errors, axis=None, kind="stable")[:MAX_CONFUSIONS]
    rows = []
    for cell in most_frequent:
        true, predicted = divmod(int(cell), len(names))
        count = errors[true, predicted]
        if count > 0:
            rows.append((names[true], names[predicted], f"{count:,}"))
    picture = None
    if len(names) <= MAX_CLASSES:
        picture = plots.confusion_matrix(counts, names)
    return Section(picture, rows)


def _accuracy_over_time(run: RunData) -> Section:
    labels = run.examples.labels
    correct = np.array([network.correct_by_time for network in run.predictions])
    lengths = run.predictions[0].lengths
    times = np.arange(lengths.max())  # can be shorter than those of the task
    totals = (lengths[:, None] > times).sum(axis=0)
    estimates = estimate_accuracies(correct[:, : len(totals)], totals)
    majority = int(np.bincount(labels).max()) / len(labels)
    quarters = [(time, estimates[1, time - 1]) for time in plots.quarters(len(totals))]
    return Section(
        plots.accuracy_over_time(estimates, majority), numbers={"quarters": quarters}
    )


def _gallery(run: RunData) -> Section:
    names = run.task.classes
    examples = run.examples
    order = run.trained.pixel_order
    predictions = run.combined
    errors = calibration.most_confident_errors(predictions, MAX_ERRORS)
    falls = np.zeros((len(errors), run.task.time_steps))
    # The network is not the one that predicted a left-out example.
    if len(errors) and not run.is_left_out:
        falls = occlude(run.network, examples, errors)
    tiles = []
    for index, fall in zip(errors, falls, strict=True):
        values = examples.strip_padding(index)
        times = np.arange(len(values))
        if order is not None:  # the time step in which each pixel is read
            times = (order.argsort(axis=None) // order.shape[1]).reshape(values.shape)
        tiles.append(
            plots.Tile(
                name=examples.name(index),
                values=values,
                falls=fall[times],
                predicted=names[predictions.predicted[index, -1]],
                probability=format_probability(predictions.confidence[index]),
                label=names[predictions.labels[index]],
            )
        )
    return Section(
        plots.gallery(tiles, run.task.feature_names) if tiles else None,
        numbers={
            "tiles": tiles,
            "total": (~predictions.correct).sum(),
            # The exponential function of more than 709 is not finite.
            "factor": np.exp(min(700, float(np.abs(falls).max(initial=0)))),
        },
    )


def _calibration(run: RunData) -> Section:
    bins = calibration.calibration_bins(run.combined)
    present = bins.examples > 0
    accuracy = estimate_accuracies(bins.correct[None, present], bins.examples[present])
    total = bins.examples.sum()
    return Section(
        plots.reliability_diagram(bins, accuracy),
        numbers={
            "bins": bins,
            "examples": total,
            "confidence": bins.confidence.sum() / total,
            "accuracy": bins.correct.sum() / total,
        },
    )


def _accuracy_by_class(run: RunData) -> Section:
    confusions = np.array([network.confusion for network in run.scores.networks])
    totals = confusions[0].sum(axis=1)
    present = np.flatnonzero(totals)  # only these classes have an accuracy
    totals = totals[present]
    correct = np.diagonal(confusions, axis1=1, axis2=2)[:, present]
    low, accuracy, high = estimate_accuracies(correct, totals)
    rows = []
    for index in np.argsort(accuracy, kind="stable"):
        count = correct[:, index].sum()
        total = len(correct) * totals[index]
        rows.append(
            (
                run.task.classes[present[index]],
                f"{count:,} of {total:,}",
                format_percent(accuracy[index]),
                format_interval((low[index], high[index])),
            )
        )
    return Section(rows=rows)


def _facts(run: RunData) -> list[tuple[str, str]]:
    """Returns the names and values of the card `Run`."""
    trained, scores = run.trained, run.scores
    train = run.config.train
    validation = "none"
    if trained.validation_metrics is not None:
        validation = format_validation(trained.validation_metrics)
    facts = [
        ("workdir", str(trained.workdir)),
        ("data set", run.task.name),
        ("parameters", f"{trained.num_parameters:,}"),
        ("checkpoint", f"step {trained.checkpoint_step:,} of {train.num_steps:,}"),
        ("training", run.training),
        ("validation", validation),
    ]
    seconds = run.seconds
    if len(run.sessions) > 1:
        seconds += f", in {len(run.sessions)} sessions"
    split = format_split(run.split)
    is_repeated = trained.validation_metrics is not None and (
        run.split == trained.validation_metrics.split
    )
    if not is_repeated:
        facts.append((split, format_accuracy(scores)))
    facts += [
        ("loss", format_loss(scores).removeprefix("loss ")),
        ("seconds", seconds),
        ("hardware", run.hardware),
        ("SHA-256 of parameters", trained.params_sha256),
    ]
    return facts


def _list_settings(
    run: RunData,
) -> tuple[list[tuple[str, str]], list[tuple[str, str]]]:
    """Returns the settings that are not the defaults, and those that are, as text.

    The defaults are those of a run with this cell on the data of the training.
    """
    given = ("data.name", "model.cell")
    config = run.config.flat()
    with_defaults = Config().replace({name: config[name] for name in given})
    by_default = fill_defaults(with_defaults, run.trained.task).flat()
    for name in given:
        by_default[name] = SETTINGS[name].default
    chosen: list[tuple[str, str]] = []
    defaults: list[tuple[str, str]] = []
    for name, value in config.items():
        text = _format_setting(name, value)
        if value == by_default[name]:
            defaults.append((name, text))
        else:
            default_text = _format_setting(name, by_default[name])
            chosen.append((name, f"{text} (default: {default_text})"))
    return chosen, defaults


def _format_setting(name: str, value: Any) -> str:  # of the type of the setting
    """Formats the value of a setting; None is what it stands for, or "none"."""
    return SETTINGS[name].by_default or "none" if value is None else str(value)
