"""Loads a run's data set: images by name, or sequences from a path."""

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np

from rnnmnist.config.functions import import_function
from rnnmnist.config.schema import Config, DataConfig, is_custom
from rnnmnist.config.tasks import Task
from rnnmnist.data.examples import Dataset, Examples
from rnnmnist.data.image_datasets import embedded_images, image_task
from rnnmnist.errors import UserError, prefix_errors


class DataSource(NamedTuple):
    """The data source of a run, opened but not yet validated.

    Attributes:
        num_training_examples: the number of training examples, including examples that
            will be held out for validation.
        load: loads the data set.
        has_binary_features: returns True if every feature has at most two distinct
            values in the training sequences.
    """

    num_training_examples: int
    load: Callable[[Config], Dataset]
    has_binary_features: Callable[[], bool] = lambda: False


def load(config: Config, *, trained_task: Task | None = None) -> Dataset:
    """Loads all splits of a data set; TFDS downloads and prepares it if necessary.

    Sequences use the normalization and classes of `trained_task`, if it is given.
    """
    return open_data_source(config.data, trained_task).load(config)


def open_data_source(
    config: DataConfig, trained_task: Task | None = None
) -> DataSource:
    """Opens a data source.

    Sequences are read immediately, images only by `DataSource.load`.
    """
    if config.name != "files":
        return DataSource(image_task(config).examples["train"], _load_images)

    from rnnmnist.data.sequences import reading  # imports pyarrow

    features = (config if trained_task is None else trained_task).feature_names
    if config.path is None:
        raise UserError(
            "data.path: must be set to the path of your sequences: "
            f"{reading.SEQUENCE_FORMATS}"
        )
    path = config.path
    if is_custom("data.path", path):
        # Running this code is safe: the caller specified the function.
        function = import_function("data.path", path)
        sequences = reading.read_function(function, features)
        name = function.function.__name__
    else:
        sequences = reading.read(Path(path), config.roles, features)
        name = Path(path).stem

    def load_sequences(config: Config) -> Dataset:
        with prefix_errors(path):
            return reading.to_dataset(name, sequences, config, trained_task)

    return DataSource(
        sequences.count_training_sequences(),
        load_sequences,
        sequences.has_binary_features,
    )


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
