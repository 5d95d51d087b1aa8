"""A recipe for the 5,000 MNIST images in the package; requires no download.

    rnnmnist train

Measured on one AMD EPYC core with AVX-512 and JAX 0.10.2: 24 s, test accuracy
97.60 ± 0.53 % over 3 seeds (500 images; `results/embedded.json`).
"""

from rnnmnist import Config, DataConfig, TrainConfig


def get_config() -> Config:
    """Returns a recipe of 48 epochs, with random shifts of up to two pixels."""
    return Config(
        data=DataConfig(name="mnist5k", max_shift=2),
        train=TrainConfig(num_steps=1500, log_every_steps=100, eval_every_steps=150),
    )
