"""The file of leave-one-out predictions, for runs without held-out examples.

It is a table in `evaluation`, beside the result files, with a row for each training
example of each network:

    sequence,seed,label,predicted,logit rest,logit walk
    recording 1,0,walk,rest,0.41,-0.41

The last columns are the logits of the classes, by a head that was fitted without the
example, or without its group. Examples are in the order of their groups.
"""

import csv
import io
import math
from pathlib import Path

import numpy as np

from rnnmnist.config.tasks import Task
from rnnmnist.data.examples import Examples
from rnnmnist.errors import UserError
from rnnmnist.evaluation.metrics import score_logits
from rnnmnist.evaluation.trained_run import TrainedRun
from rnnmnist.runs.logs import Metrics
from rnnmnist.runs.results import result_path
from rnnmnist.runs.writing import write_atomically

COLUMNS = ("sequence", "seed", "label", "predicted")  # before those of the classes


def load_evaluated(
    run: TrainedRun, split: str | None = None
) -> tuple[Task, str, Examples, np.ndarray | None]:
    """Loads what `TrainedRun.score` takes: a task, a split, its examples, their logits.

    Without a name, and if the head was fitted in closed form to all labelled examples,
    these are the training examples in the order of their groups, with the logits of
    their leave-one-out predictions. Otherwise, the logits are None: not yet computed.
    """
    task, name, examples = run.load_split(split)
    metrics = run.validation
    if split is not None or metrics is None or not run.is_fitted_to(task, name):
        return task, name, examples, None
    examples = examples.sort_by_group()
    logits = read_left_out(run.workdir, metrics, task, examples)
    if logits is None:
        raise UserError(
            f"workdir: {left_out_path(run.workdir, metrics)}, which has the "
            "leave-one-out predictions, is missing or of another run; train in another "
            "workdir"
        )
    return task, metrics.split, examples, logits


def left_out_path(workdir: Path, metrics: Metrics) -> Path:
    """Returns the path of the predictions that have these metrics."""
    return result_path(workdir, metrics.split, metrics.step).with_suffix(".csv")


def write_left_out(
    workdir: Path, metrics: Metrics, task: Task, train: Examples, logits: np.ndarray
) -> None:
    """Writes leave-one-out predictions, which have these metrics.

    The logits are float64 [ensemble, examples, classes], and the examples sorted by
    group.
    """
    text = io.StringIO(newline="")
    writer = csv.writer(text, lineterminator="\n")
    # Without "logit", a class could have the name of another column.
    writer.writerow([*COLUMNS, *(f"logit {name}" for name in task.classes)])
    for network, network_logits in zip(metrics.networks, logits, strict=True):
        for position, values in enumerate(network_logits):
            label = task.classes[train.labels[position]]
            predicted = task.classes[values.argmax()]
            name = train.name(position)
            writer.writerow([name, network.seed, label, predicted, *values.tolist()])
    path = left_out_path(workdir, metrics)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, text.getvalue().encode())


def read_left_out(
    workdir: Path, metrics: Metrics, task: Task, train: Examples
) -> np.ndarray | None:
    """Reads the logits of leave-one-out predictions, as `write_left_out` takes them.

    Returns None if there is no file, or it is damaged, or its predictions do not have
    the metrics, which are those of the checkpoint.
    """
    path = left_out_path(workdir, metrics)
    try:
        with path.open(encoding="utf-8", newline="") as file:
            rows = list(csv.reader(file))[1:]
        values = [[float(cell) for cell in row[len(COLUMNS) :]] for row in rows]
        shape = (len(metrics.networks), len(train), len(task.classes))
        logits = np.reshape(values, shape)
    except (OSError, ValueError, csv.Error):
        return None
    names = [train.name(position) for position in range(len(train))]
    if [row[0] for row in rows] != names * len(metrics.networks):
        return None
    scores = score_logits(logits, train.labels)
    has_metrics = scores.correct == metrics.correct and math.isclose(
        scores.loss, metrics.loss, rel_tol=1e-6
    )
    return logits if has_metrics else None
