"""The most accurate MNIST recipe: an LSTM with 146,090 parameters and augmentation.

    rnnmnist train --config=best

Measured on one AMD EPYC core with JAX 0.10.2: 973 s, test accuracy 99.61 ± 0.03 %
over 5 seeds (10,000 images; `results/best.json`).
"""

from rnnmnist import Config, DataConfig, ModelConfig, TrainConfig


def get_config() -> Config:
    """Returns a recipe of 60 epochs, with 176 units, augmentation and an EMA."""
    return Config(
        data=DataConfig(
            max_shift=2, max_rotation=12, max_scale=0.15, max_shear=0.2, elastic=0.8
        ),
        model=ModelConfig(hidden_size=176),
        train=TrainConfig(
            num_steps=25_800,
            eval_every_steps=860,
            label_smoothing=0.05,
            ema_decay=0.999,
        ),
    )
