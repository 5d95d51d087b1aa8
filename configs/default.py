"""All of MNIST, ten epochs, no augmentation: the run that the README reports.

    python -m rnnmnist.main --config=default

TIME, ACCURACY
"""

from rnnmnist.config import Config


def get_config() -> Config:
    """The defaults of every setting."""
    return Config()
