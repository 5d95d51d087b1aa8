"""Reaches a mean test accuracy of 98.5 % in three epochs.

    python -m rnnmnist.main --config=benchmarks/recipes/accuracy_98_5.py

The number of steps was selected on the validation split. Mean validation accuracy over
seeds 0 to 4: 98.37 % after 860 steps, 98.62 % after 1,290 steps.
"""

from rnnmnist import Config, TrainConfig


def get_config() -> Config:
    """Returns the default network with a lower learning rate and weight decay."""
    return Config(
        train=TrainConfig(
            learning_rate=4e-3, weight_decay=1e-4, num_steps=1290, eval_every_steps=1290
        )
    )
