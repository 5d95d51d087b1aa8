"""A mean of 98.5 % of all test images, in as few steps as validation says.

    python -m rnnmnist.main --config=benchmarks/recipes/accuracy_98_5.py

Fixed on validation, with seeds 0 to 4: 98.37 % in the mean after 860 steps, 98.62 %
after 1,290.
"""

from rnnmnist import Config, TrainConfig


def get_config() -> Config:
    """The default network at a lower rate and decay, in three epochs."""
    return Config(
        train=TrainConfig(
            learning_rate=4e-3, weight_decay=1e-4, num_steps=1290, eval_every_steps=1290
        )
    )
