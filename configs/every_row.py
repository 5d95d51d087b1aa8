"""The default run, trained by its answers after every row: so its film can be believed.

    python -m rnnmnist.main --config=every_row

Not measured yet.
"""

from rnnmnist.config import Config, TrainConfig


def get_config() -> Config:
    """The default recipe with a loss after each row, not after the last alone."""
    return Config(train=TrainConfig(loss="every_row"))
