"""A network trained by gradient descent, for large data sets of your own sequences.

    rnnmnist train --config=trained --config.data.path=FILE_OR_FOLDER

The path is a .npz, .ts, .csv or .parquet file, or a folder of .npy files; see
docs/formats.md. `--config=files` chooses between this configuration and `filters`,
depending on the number of training sequences.
"""

from rnnmnist import Config, DataConfig, ModelConfig, TrainConfig


def get_config() -> Config:
    """Returns a recipe with LRU layers; docs/results_choices.md lists alternatives."""
    return Config(
        data=DataConfig(name="files"),
        model=ModelConfig(cell="lru", pooling="mean", deltas=True),
        train=TrainConfig(
            num_epochs=20, min_steps=600, learning_rate=4e-3, label_smoothing=0.1
        ),
    )
