"""Sequences of your own.

    python -m rnnmnist.main --config=files --config.data.path=FILE_OR_FOLDER

The path is a .npz, .ts, .csv or .parquet file, or a folder of .npy files;
docs/sequences.md describes them.
"""

from rnnmnist import Config, DataConfig, ModelConfig, TrainConfig


def get_config() -> Config:
    """Returns the configuration."""
    return Config(
        data=DataConfig(name="files"),
        model=ModelConfig(cell="lru", hidden_size=64, pooling="mean", differences=True),
        train=TrainConfig(num_epochs=20, min_steps=600, learning_rate=4e-3),
    )
