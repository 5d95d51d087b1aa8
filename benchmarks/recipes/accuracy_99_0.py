"""A mean of 99.0 % of all test images, in a number of steps fixed on validation.

    python -m rnnmnist.main --config=benchmarks/recipes/accuracy_99_0.py

On validation, with seeds 0 to 4: 99.18 % in the mean.
"""

from rnnmnist import Config, DataConfig, TrainConfig


def get_config() -> Config:
    """The default network at a lower rate and decay, in seven epochs, moved a pixel."""
    return Config(
        data=DataConfig(max_shift=1),
        train=TrainConfig(
            learning_rate=4e-3, weight_decay=1e-4, num_steps=3010, eval_every_steps=3010
        ),
    )
