"""Data sets by their names, with the examples of each split."""

import numpy as np

from rnnmnist.config.recipes import Request, choose_config
from rnnmnist.config.schema import Config, DataConfig
from rnnmnist.config.tasks import Task
from rnnmnist.data.examples import Dataset, Examples
from rnnmnist.data.image_sets import embedded_images, image_task
from rnnmnist.errors import prefix_errors


def load_for_training(
    request: Request, saved: Config | None
) -> tuple[Config, str | None, Dataset]:
    """Loads the data set of a run, with the splits that its training uses.

    `saved` is the configuration of the run that is in the workdir, if there is one.
    Returns what `choose_config` returns for the number of training examples, and the
    data set.
    """
    config, _ = choose_config(request, saved)
    if config.data.name != "files":
        count = image_task(config.data).examples["train"]
        return *choose_config(request, saved, count), load(config.data)

    from rnnmnist.data.sequences import reading  # imports pyarrow

    path, sequences = reading.read_path(config.data, config.data.feature_names)
    with prefix_errors(path):
        config, reason = choose_config(request, saved, sequences.count_training())
        dataset = reading.to_dataset(path, sequences, config.data)
    return config, reason, dataset


def load(config: DataConfig, *, trained: Task | None = None) -> Dataset:
    """Loads every split of a data set, which TFDS prepares if it is not yet.

    Sequences have the normalization and the classes of a trained task, if one is given.
    """
    if config.name == "files":
        from rnnmnist.data.sequences import reading  # imports pyarrow

        wanted = config.feature_names if trained is None else trained.feature_names
        path, sequences = reading.read_path(config, wanted)
        with prefix_errors(path):
            return reading.to_dataset(path, sequences, config, trained)

    task = image_task(config)
    if config.name == "mnist5k":
        splits = {
            split: Examples(images, labels=labels.astype(np.int32))
            for split, (images, labels) in embedded_images().items()
        }
        return Dataset(task, splits)

    from rnnmnist.data.images import load_splits  # TFDS takes two seconds to import

    return Dataset(task, load_splits(config))
