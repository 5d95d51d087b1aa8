"""Fashion-MNIST, read by the same network under the same recipe.

    python -m rnnmnist.main --config=fashion

TIME, ACCURACY
"""

from rnnmnist.config import Config, DataConfig


def get_config() -> Config:
    """The defaults, on garments."""
    return Config(data=DataConfig(name="fashion_mnist"))
