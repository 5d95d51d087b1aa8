"""A network that is trained by gradients, for many sequences of your own.

    rnnmnist train --config=trained --config.data.path=FILE_OR_FOLDER

The path is a .npz, .ts, .csv or .parquet file, or a folder of .npy files;
docs/formats.md describes them. With `--config=files`, the number of training sequences
chooses between this configuration and `filters`.
"""

from rnnmnist import Config, DataConfig, ModelConfig, TrainConfig


def get_config() -> Config:
    """Layers that are linear in their state; docs/results_choices.md compares them."""
    return Config(
        data=DataConfig(name="files"),
        model=ModelConfig(cell="lru", pooling="mean", deltas=True),
        train=TrainConfig(
            num_epochs=20, min_steps=600, learning_rate=4e-3, label_smoothing=0.1
        ),
    )
