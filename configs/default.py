"""The main recipe of the README: ten epochs on all of MNIST, no augmentation.

    rnnmnist train --config=default

Measured on one AMD EPYC core with JAX 0.10.2: 99 s per seed, test accuracy
99.22 ± 0.06 %, mean and standard deviation over 5 seeds (10,000 images;
`results/default.json`).
"""

from rnnmnist import Config, DataConfig, ModelConfig, TrainConfig


def get_config() -> Config:
    """Returns the default settings, except for `log_every_steps`."""
    return Config(
        seed=0,
        data=DataConfig(
            name="mnist",
            view="rows",  # 28 time steps of 28 pixels
            max_shift=0,
        ),
        model=ModelConfig(
            cell="lstm",
            hidden_size=128,
            forget_bias=1.0,
            initializer="flax",  # LeCun-normal and orthogonal kernels
            pooling="last",
        ),
        train=TrainConfig(
            batch_size=128,
            num_steps=4300,  # about ten epochs of 55,000 images
            loss="last",  # cross-entropy after the last row
            label_smoothing=0.0,
            learning_rate=7e-3,
            schedule="cosine",
            warmup_fraction=0.02,
            weight_decay=0.1,
            clip_norm=1.0,
            ema_decay=0.0,
            log_every_steps=100,
            eval_every_steps=430,  # about once per epoch
            keep_checkpoints=2,
        ),
    )
