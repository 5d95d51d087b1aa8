"""The default recipe with a loss after every time step, for early predictions.

    rnnmnist train --config=every_step

Measured on one AMD EPYC core with JAX 0.10.2: 112 s, test accuracy 99.03 ± 0.04 %
over 5 seeds (10,000 images; `results/every_step.json`).
"""

from rnnmnist import Config, TrainConfig


def get_config() -> Config:
    """Returns the default settings with another loss and more frequent logging."""
    return Config(
        train=TrainConfig(loss="every_step", log_every_steps=100, eval_every_steps=430)
    )
