"""A recipe with batches of 1,024 examples, for TPUs and GPUs.

    rnnmnist train --config=large_batch

Measured on one AMD EPYC core with JAX 0.10.2: 199 s, test accuracy 99.17 ± 0.06 %
over 5 seeds (10,000 images; `results/large_batch.json`).
"""

from rnnmnist import Config, TrainConfig


def get_config() -> Config:
    """Returns a recipe with 20 epochs, an EMA, and a tuned learning rate and decay."""
    return Config(
        train=TrainConfig(
            batch_size=1024,
            num_steps=1080,
            log_every_steps=100,
            eval_every_steps=108,
            learning_rate=2e-2,
            weight_decay=0.4,
            ema_decay=0.99,
        )
    )
