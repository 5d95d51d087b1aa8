"""Sequences of your own.

    rnnmnist train --config=files --config.data.path=FILE_OR_FOLDER

The path is a .npz, .ts, .csv or .parquet file, or a folder of .npy files;
docs/formats.md describes them. Fewer than 1,000 training sequences are classified by
random filters, unless a setting of training is given on the command line.
"""

from rnnmnist import Config, DataConfig, ModelConfig, TrainConfig


def get_config() -> Config:
    """Returns the configuration."""
    return Config(
        data=DataConfig(name="files"),
        model=ModelConfig(
            filters_below=1000,
            cell="lru",
            pooling="mean",
            differences=True,
        ),
        train=TrainConfig(
            num_epochs=20, min_steps=600, learning_rate=4e-3, label_smoothing=0.1
        ),
    )
