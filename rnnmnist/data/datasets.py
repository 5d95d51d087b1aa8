"""Data sets by their names, with the examples of each split."""

from rnnmnist.config.resolving import choose_network, settings_of_data
from rnnmnist.config.schema import Config, DataConfig
from rnnmnist.config.tasks import Task
from rnnmnist.data.examples import Dataset
from rnnmnist.data.image_sets import image_task
from rnnmnist.errors import prefix_errors


def load_for_training(config: Config) -> tuple[Config, Dataset]:
    """Loads the data set of a run, with the splits that its training uses.

    Returns the configuration with the network for the number of training sequences,
    and the data set.
    """
    if config.data.name != "files":
        return config, load(config.data)

    from rnnmnist.data.sequences import reading  # imports pyarrow

    path = reading.find_path(config.data)
    sequences = reading.read(path, config.data.roles, config.data.feature_names)
    with prefix_errors(path):
        config = choose_network(config, sequences.count_training())
        name = reading.name_of(path)
        dataset = reading.to_dataset(name, sequences, settings_of_data(config))
    return config, dataset


def load(config: DataConfig, *, trained: Task | None = None) -> Dataset:
    """Loads every split of a data set, which is prepared if it is not yet.

    Sequences have the normalization and the classes of a trained task, if one is given.
    """
    if config.name == "files":
        from rnnmnist.data.sequences import reading  # imports pyarrow

        return reading.load_files(config, trained)

    from rnnmnist.data import images  # TFDS takes two seconds to import

    return Dataset(image_task(config), images.load_splits(config))
