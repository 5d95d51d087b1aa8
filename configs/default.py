"""All of MNIST, ten epochs, no augmentation: the main result of the README.

    python -m rnnmnist.main --config=default

Measured on one core of AMD EPYC with jax 0.10.2: 99 s, test accuracy 99.22 ± 0.06 %
over 5 seeds (10,000 images; `results/default.json`).
"""

from rnnmnist import Config


def get_config() -> Config:
    """The default of every setting."""
    return Config()
