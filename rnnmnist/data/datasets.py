"""Loads a data set: its task, and the examples of each split."""

from rnnmnist.config.schema import DataConfig
from rnnmnist.config.tasks import Task
from rnnmnist.data import sequences
from rnnmnist.data.examples import Dataset
from rnnmnist.data.tasks import read_task


def load(
    config: DataConfig, *, trained: Task | None = None, cache: bool = True
) -> Dataset:
    """Loads every split of a data set, in the original order.

    Args:
        config: which data set, and its folders. It is prepared if it is not yet.
        trained: the task of a trained network, whose normalization is used.
        cache: whether newly decoded images are written to the cache.
    """
    if config.name == "files":
        return sequences.load(config, trained)
    from rnnmnist.data import images  # TFDS takes two seconds to import

    return Dataset(read_task(config), images.load(config, cache=cache))
