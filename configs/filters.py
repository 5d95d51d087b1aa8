"""Random filters with a fitted head, for your own small data sets of sequences.

    rnnmnist train --config=filters --config.data.path=FILE_OR_FOLDER

The path is a .npz, .ts, .csv or .parquet file, or a folder of .npy files; see
docs/formats.md. `--config=files` chooses between this configuration and `trained`,
depending on the number of training sequences.
"""

from rnnmnist import Config, DataConfig, ModelConfig


def get_config() -> Config:
    """Returns a recipe without a validation split; validation is leave-one-out."""
    return Config(
        data=DataConfig(name="files", validation=False),
        model=ModelConfig(cell="filters"),
    )
