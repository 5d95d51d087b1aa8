"""Data sets by their names, with the examples of each split."""

from rnnmnist.config.schema import DataConfig
from rnnmnist.config.tasks import Task
from rnnmnist.data.examples import Dataset
from rnnmnist.data.image_sets import image_task


def load(config: DataConfig, *, trained: Task | None = None) -> Dataset:
    """Loads every split of a data set, which is prepared if it is not yet.

    Sequences have the normalization and the classes of a trained task, if one is given.
    """
    if config.name == "files":
        from rnnmnist.data.sequences import reading  # imports pyarrow

        return reading.load_files(config, trained)

    from rnnmnist.data import images  # TFDS takes two seconds to import

    return Dataset(image_task(config), images.load_splits(config))
