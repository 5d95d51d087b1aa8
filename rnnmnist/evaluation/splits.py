"""Loads the examples for the evaluation of a network."""

from pathlib import Path

import numpy as np

from rnnmnist.config.schema import is_custom
from rnnmnist.config.tasks import Task
from rnnmnist.data import datasets
from rnnmnist.data.examples import SPLITS, Dataset, Examples
from rnnmnist.errors import MissingDataError, UserError, format_value
from rnnmnist.evaluation.network import Network


def load_split(
    network: Network, split: str | None = None, dataset: Dataset | None = None
) -> tuple[Task, str, Examples]:
    """Loads a split of a data set.

    Args:
        network: the network.
        split: name of the split. None means `Task.evaluated_split`.
        dataset: data set. None means the data set with which the network was loaded or,
            if there is none, the data of the run.

    Returns:
        The task, the name of the split, and its examples.
    """
    if split not in (None, *SPLITS):  # before any data are loaded or downloaded
        raise UserError(
            f"split: must be one of {', '.join(SPLITS)}, not {format_value(split)}"
        )
    task, splits = dataset or network.dataset or _load_dataset(network)
    split = split or task.evaluated_split
    if not len(splits[split]):
        raise UserError(
            f"split: {task.name} has no {split} split; remove split={split}"
        )
    return task, split, splits[split]


def _load_dataset(network: Network) -> Dataset:
    config = network.config.data
    if config.name != "files" and config.path is not None:
        raise UserError(f"data.path: must not be set for {config.name}; remove it")
    if config.name == "files" and config.path is None:
        raise MissingDataError(
            f"data.path: {network.workdir or 'the network'} does not contain the "
            "training sequences; set data.path to the path of these or other sequences"
        )
    is_file = config.path is not None and not is_custom("data.path", config.path)
    if is_file and not Path(str(config.path)).exists():
        raise MissingDataError(
            f"data.path: {config.path} does not exist; set data.path to its new "
            "location"
        )
    dataset = datasets.load(network.config, trained_task=network.task)
    is_specified = network.settings.get("data.path") is not None
    if dataset.task.sha256 != network.task.sha256 and not is_specified:
        raise UserError(
            f"workdir: {network.workdir} was trained on data other than "
            f"{config.path or dataset.task.name}; use the original file or version of "
            "rnnmnist, or set data.path=PATH to evaluate on other sequences"
        )
    return dataset


def load_evaluated(
    network: Network, split: str | None = None, dataset: Dataset | None = None
) -> tuple[Task, str, Examples, np.ndarray | None]:
    """Loads the examples to evaluate, and their leave-one-out logits if available.

    Leave-one-out logits are used if `split` is None and the head was fitted in closed
    form to all labelled examples. In this case, the examples are the training examples,
    sorted by group.

    Returns:
        The task, the name of the split, its examples, and the leave-one-out logits, or
        None if the logits must be computed.
    """
    task, name, examples = load_split(network, split, dataset)
    metrics = network.validation_metrics
    is_training_split = split is None and name == "train"
    # Without a validation split, only closed-form fits have validation metrics.
    if metrics is None or not is_training_split or task.sha256 != network.task.sha256:
        return task, name, examples, None
    state = network.record.read_state()
    if state is None:  # a network saved without its run
        return task, name, examples, None
    return task, metrics.split, examples.sort_by_group(), state["left_out"]
