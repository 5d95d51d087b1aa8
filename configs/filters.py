"""Random filters with a fitted head, for small data sets of your own sequences.

    rnnmnist train --config=filters --config.data.path=FILE_OR_FOLDER

The path is a .npz, .ts, .csv or .parquet file, or a folder of .npy files; see
docs/formats.md. `--config=files` chooses between this configuration and `trained`,
depending on the number of training sequences.
"""

from rnnmnist import Config, DataConfig, ModelConfig


def get_config() -> Config:
    """Returns a recipe that is validated by leave-one-out, not by a split."""
    return Config(
        data=DataConfig(name="files", validation=False),
        model=ModelConfig(cell="filters"),
    )
