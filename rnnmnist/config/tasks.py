"""Descriptions of classification tasks, available before any data are read."""

import dataclasses

from rnnmnist.config.schema import Config
from rnnmnist.errors import UserError


@dataclasses.dataclass(frozen=True)
class Task:
    """The classes and the size of a data set."""

    name: str
    classes: tuple[str, ...]  # in the order of the labels
    train_examples: int


def check_task(config: Config, task: Task) -> None:
    """Checks the settings whose range depends on the task.

    Raises:
        UserError: naming the setting, its value and what is allowed.
    """
    batch_size = config.train.batch_size
    if batch_size > task.train_examples:
        raise UserError(
            f"train.batch_size: must be at most the {task.train_examples} training "
            f"examples of {task.name}, not {batch_size}"
        )
