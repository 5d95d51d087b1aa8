"""The files of leave-one-out predictions, for runs without held-out examples.

They are in `evaluation`, beside the result files. A .npz file has the logits, for
`evaluate` and the report. A table is for the user. It has a row for each training
example of each network:

    sequence,seed,label,predicted,logit rest,logit walk
    recording 1,0,walk,rest,0.41,-0.41

The last columns are the logits of the classes, by a head that was fitted without the
example, or without its group. Examples are in the order of their groups.
"""

import csv
import io
from pathlib import Path

import numpy as np

from rnnmnist.config.tasks import Task
from rnnmnist.data.examples import Examples
from rnnmnist.data.sequences.reading import open_npz
from rnnmnist.errors import prefix_errors
from rnnmnist.evaluation.trained_run import TrainedRun
from rnnmnist.runs.logs import Metrics
from rnnmnist.runs.results import result_path
from rnnmnist.runs.writing import write_atomically

COLUMNS = ("sequence", "seed", "label", "predicted")  # before those of the classes


def load_evaluated(
    run: TrainedRun, split: str | None = None
) -> tuple[Task, str, Examples, np.ndarray | None]:
    """Loads what `score_split` takes: a task, a split, its examples, their logits.

    Without a name, and if the head was fitted in closed form to all labelled examples,
    these are the training examples in the order of their groups, with the logits of
    their leave-one-out predictions. Otherwise, the logits are None: not yet computed.
    """
    task, name, examples = run.load_split(split)
    metrics = run.validation_metrics
    is_of_training = split is None and name == "train"
    # Without a validation split, only fits in closed form have metrics.
    if metrics is None or not is_of_training or task.sha256 != run.task.sha256:
        return task, name, examples, None
    path = result_path(run.workdir, metrics.split, metrics.step).with_suffix(".npz")
    shape = (run.config.num_seeds, len(examples), len(task.classes))
    with prefix_errors(path, "train in another workdir"):
        with open_npz(path) as file:
            logits = file["logits"]
        if logits.shape != shape:
            raise ValueError(f"logits {logits.shape}, not {shape}")
    return task, metrics.split, examples.sort_by_group(), logits


def write_left_out(
    workdir: Path, metrics: Metrics, task: Task, train: Examples, logits: np.ndarray
) -> None:
    """Writes the files of leave-one-out predictions, which have these metrics.

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
    arrays = io.BytesIO()
    np.savez_compressed(arrays, logits=logits)
    path = result_path(workdir, metrics.split, metrics.step)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path.with_suffix(".csv"), text.getvalue().encode())
    write_atomically(path.with_suffix(".npz"), arrays.getvalue())
