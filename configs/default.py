"""All of MNIST, ten epochs, no augmentation: the run that the README reports.

    python -m rnnmnist.main --config=default

Measured on 2 cores of Intel(R) Xeon(R) Processor with jax 0.12.0.1: 41 s, test
accuracy 98.99 ± 0.02 % over 5 seeds (10,000 images; `results/default.json`).
"""

from rnnmnist.config import Config


def get_config() -> Config:
    """The defaults of every setting."""
    return Config()
