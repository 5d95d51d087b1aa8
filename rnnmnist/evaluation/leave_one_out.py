"""Formats the table of leave-one-out predictions, for runs without held-out examples.

The table has one row per ensemble member and training example:

    sequence,group,seed,label,predicted,logit rest,logit walk
    recording 1,subject 7,0,walk,rest,0.41,-0.41

The last columns contain the logits of a head that was fitted without the example or, if
there are groups, without the example's group. For each seed, examples are sorted by
group. If there are no groups, the column `group` is omitted.
"""

import csv
import io
from collections.abc import Iterable

import numpy as np

from rnnmnist.config.tasks import Task
from rnnmnist.data.examples import Examples


def format_table(
    seeds: Iterable[int], task: Task, train: Examples, logits: np.ndarray
) -> str:
    """Formats leave-one-out predictions as CSV.

    Args:
        seeds: seeds of the ensemble members.
        task: the task, which contains the class names.
        train: training examples, sorted by group.
        logits: float64 [ensemble, examples, classes].
    """
    classes, groups = task.classes, train.groups
    group_column = [] if groups is None else ["group"]
    text = io.StringIO(newline="")
    writer = csv.writer(text, lineterminator="\n")
    # The prefix "logit" prevents clashes between class names and other columns.
    columns = ["sequence", *group_column, "seed", "label", "predicted"]
    writer.writerow([*columns, *(f"logit {name}" for name in classes)])
    for seed, member_logits in zip(seeds, logits, strict=True):
        for position, values in enumerate(member_logits):
            label = classes[train.labels[position]]
            predicted = classes[values.argmax()]
            group = [] if groups is None else [groups[position]]
            row = [train.name(position), *group, seed, label, predicted]
            writer.writerow([*row, *values.tolist()])
    return text.getvalue()
