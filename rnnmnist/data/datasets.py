"""Loads data sets by name."""

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np

from rnnmnist.config.functions import import_function
from rnnmnist.config.schema import Config, DataConfig, is_user_defined
from rnnmnist.config.tasks import Task
from rnnmnist.data.examples import Dataset, Examples
from rnnmnist.data.image_sets import embedded_images, image_task
from rnnmnist.errors import UserError, prefix_errors


class Source(NamedTuple):
    """The data source of a run, opened but not yet validated.

    Attributes:
        examples: the number of training examples, including examples that will be held
            out for validation.
        load: loads the data set.
        are_binary: returns True if every feature has at most two distinct values in
            the training sequences.
    """

    examples: int
    load: Callable[[Config], Dataset]
    are_binary: Callable[[], bool] = lambda: False


def load(config: Config, *, trained: Task | None = None) -> Dataset:
    """Loads all splits of a data set; TFDS downloads and prepares it if necessary.

    If `trained` is given, sequences get the normalization and classes of that task.
    """
    return open_source(config.data, trained).load(config)


def open_source(config: DataConfig, trained: Task | None = None) -> Source:
    """Opens a data source. Reads sequences immediately; `Source.load` reads images."""
    if config.name != "files":
        return Source(image_task(config).examples["train"], _load_images)

    from rnnmnist.data.sequences import reading  # imports pyarrow

    selected = config.feature_names if trained is None else trained.feature_names
    if config.path is None:
        raise UserError(
            f"data.path: must name your sequences, {reading.SEQUENCE_FORMATS}; set "
            "data.path=PATH"
        )
    path = config.path
    if is_user_defined("data.path", path):
        # The caller asked for this function, so its code may run.
        function = import_function("data.path", path)
        sequences = reading.read_function(function, selected)
        name = function.function.__name__
    else:
        sequences = reading.read(Path(path), config.roles, selected)
        name = Path(path).stem

    def load_sequences(config: Config) -> Dataset:
        with prefix_errors(path):
            return reading.to_dataset(name, sequences, config, trained)

    return Source(sequences.count_training(), load_sequences, sequences.are_binary)


def _load_images(config: Config) -> Dataset:
    if config.data.name == "mnist5k":
        splits = {
            split: Examples(images, labels=labels.astype(np.int32))
            for split, (images, labels) in embedded_images().items()
        }
    else:
        from rnnmnist.data.images import load_splits  # importing TFDS takes two seconds

        splits = load_splits(config.data)
    return Dataset(image_task(config.data), splits)
