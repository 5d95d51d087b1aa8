"""Sequences of your own.

    python -m rnnmnist.main --config=files --config.data.path=FILE_OR_FOLDER

The path is a .npz, .ts, .csv or .parquet file, or a folder of .npy files;
docs/sequences.md describes them.
"""

from rnnmnist import Config, DataConfig, TrainConfig


def get_config() -> Config:
    """Returns the configuration."""
    return Config(
        data=DataConfig(name="files"),
        train=TrainConfig(
            batch_size=32,
            num_steps=1000,
            learning_rate=2e-3,
        ),
    )
