"""Random filters, of which only the head is fitted: for few sequences of your own.

    rnnmnist train --config=filters --config.data.path=FILE_OR_FOLDER

The path is a .npz, .ts, .csv or .parquet file, or a folder of .npy files;
docs/formats.md describes them. With `--config=files`, the number of training sequences
chooses between this configuration and `trained`.
"""

from rnnmnist import Config, DataConfig, ModelConfig


def get_config() -> Config:
    """Every sequence is for training, since each is left out in turn to validate."""
    return Config(
        data=DataConfig(name="files", validation=False),
        model=ModelConfig(cell="filters"),
    )
