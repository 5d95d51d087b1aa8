"""Fashion-MNIST, read by the same network; its garments are mirrored and distorted.

    python -m rnnmnist.main --config=fashion

Not measured yet.
"""

from rnnmnist.config import Config, DataConfig, TrainConfig


def get_config() -> Config:
    """40 epochs of garments, half of them mirrored, none of them turned far."""
    return Config(
        data=DataConfig(
            name="fashion_mnist",
            flip=True,
            max_shift=1,
            max_rotation=3,
            max_scale=0.1,
        ),
        train=TrainConfig(
            num_steps=17_200,
            eval_every_steps=860,
            learning_rate=5e-3,
            label_smoothing=0.05,
            ema_decay=0.999,
        ),
    )
