"""Learning rates, the parameters that are decayed, and the average of weights."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import Sharding

from rnnmnist.config.resolving import RunTrainConfig
from rnnmnist.models.cells import BACKWARD
from rnnmnist.models.classifier import (
    NOT_TRAINED,
    SequenceClassifier,
    abstract_params,
)

EMA_WARMUP = 10  # updates; the decay of the average grows over about as many


def decay_mask(model: SequenceClassifier) -> np.ndarray:
    """Returns which parameters of a network are decayed, bool [parameters].

    All that are trained are, except in residual layers around a linear recurrence:
    there only the kernels are, since decay would shorten the memory of the recurrence
    and undo the initialization of the encoder's bias.
    """
    spared = "layers", f"{BACKWARD}layers", NOT_TRAINED
    masks = [
        np.full(leaf.size, path[-1].key == "kernel" or path[0].key not in spared)
        for path, leaf in jax.tree.leaves_with_path(abstract_params(model))
    ]
    return np.concatenate(masks)


def learning_rate(config: RunTrainConfig, step: jax.typing.ArrayLike) -> jax.Array:
    """Returns the learning rate of the update after `step` ones.

    It rises linearly in the warm-up, and then is constant or a cosine to 0.
    """
    peak = config.learning_rate
    warmup = int(config.warmup_fraction * config.num_steps)
    # Starts above 0, so that the first update changes the parameters.
    rise = optax.linear_schedule(peak / (warmup + 1), peak, warmup)
    schedule = optax.constant_schedule(peak)
    if config.schedule == "cosine":
        remaining = max(1, config.num_steps - warmup)
        schedule = optax.cosine_decay_schedule(peak, remaining)
    schedule = optax.join_schedules([rise, schedule], [warmup])
    with jax.numpy_dtype_promotion("standard"):  # optax divides steps by floats
        return jnp.asarray(schedule(step), jnp.float32)


def rate_settings(config: RunTrainConfig) -> RunTrainConfig:
    """Returns the settings on which learning rates depend; others are equal."""
    names = ("learning_rate", "schedule", "warmup_fraction", "num_steps")
    kept: dict[str, Any] = {name: getattr(config, name) for name in names}
    return RunTrainConfig(**kept, batch_size=1, log_every_steps=1, eval_every_steps=1)


@functools.partial(jax.jit, static_argnames=("config", "count", "sharding"))
def learning_rates(
    first: jax.Array, *, config: RunTrainConfig, count: int, sharding: Sharding
) -> jax.Array:
    """Returns the learning rates of the updates after `first` ones, float32 [count]."""
    rates = learning_rate(config, first + jnp.arange(count))
    return jax.lax.with_sharding_constraint(rates, sharding)


def average(
    mean: jax.Array, params: jax.Array, step: jax.Array, decay: float
) -> jax.Array:
    """Updates an exponential moving average by the weights after update `step + 1`.

    The decay is smaller at first, so that the initial weights are forgotten sooner.

    References:
        Polyak and Juditsky, "Acceleration of Stochastic Approximation by Averaging",
        SIAM Journal on Control and Optimization 30(4), 1992.
    """
    rate = 1 - jnp.minimum(decay, (1 + step) / (EMA_WARMUP + step))
    return mean + rate * (params - mean)
