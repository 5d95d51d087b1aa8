"""The table of leave-one-out predictions, for runs without held-out examples.

It has a row for each training example of each network:

    sequence,group,seed,label,predicted,logit rest,logit walk
    recording 1,subject 7,0,walk,rest,0.41,-0.41

The last columns are the logits of the classes, by a head that was fitted without the
example, or without its group. Examples are in the order of their groups; without
groups, the table has no column for them.
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
    """Returns the leave-one-out predictions of networks as the text of a CSV file.

    The logits are float64 [ensemble, examples, classes], and the examples sorted by
    group.
    """
    classes, groups = task.classes, train.groups
    group_column = [] if groups is None else ["group"]
    text = io.StringIO(newline="")
    writer = csv.writer(text, lineterminator="\n")
    # Without "logit", a class could have the name of another column.
    columns = ["sequence", *group_column, "seed", "label", "predicted"]
    writer.writerow([*columns, *(f"logit {name}" for name in classes)])
    for seed, logits_of_seed in zip(seeds, logits, strict=True):
        for position, values in enumerate(logits_of_seed):
            label = classes[train.labels[position]]
            predicted = classes[values.argmax()]
            group = [] if groups is None else [groups[position]]
            row = [train.name(position), *group, seed, label, predicted]
            writer.writerow([*row, *values.tolist()])
    return text.getvalue()
