"""Optimizers, learning rate schedules and the EMA of the parameters."""

import functools
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax.sharding import Sharding
from jax.tree_util import DictKey

from rnnmnist.config.functions import Function, resolve_function
from rnnmnist.config.resolving import RunTrainConfig
from rnnmnist.models.cells import BACKWARD
from rnnmnist.models.parameters import NOT_TRAINED, Params

EMA_WARMUP = 10  # approximate number of updates over which the EMA decay increases


def adamw(
    learning_rate: jax.typing.ArrayLike, *, weight_decay: float
) -> optax.GradientTransformation:
    """AdamW, with weight decay for the parameters in `decay_mask`."""
    return optax.chain(
        # One operation on a single vector is faster than one operation per array.
        optax.flatten(optax.scale_by_adam()),
        optax.add_decayed_weights(weight_decay, mask=decay_mask),
        optax.scale_by_learning_rate(learning_rate),
    )


# Built-in values of `train.optimizer`.
OPTIMIZERS = {"adamw": adamw}


def make_optimizer(
    learning_rate: jax.typing.ArrayLike, clip_norm: float, optimizer: Function
) -> optax.GradientTransformation:
    """Adds gradient clipping to an optimizer, and freezes the `NOT_TRAINED` modules.

    `clip_norm` is the maximum global norm of the gradient; 0 disables clipping.
    """
    clip = optax.clip_by_global_norm(clip_norm) if clip_norm else optax.identity()
    return optax.chain(
        optax.flatten(clip),  # one norm is faster than one norm per array
        optimizer(learning_rate),
        optax.masked(optax.set_to_zero(), frozen_mask),
    )


def frozen_mask(params: Params) -> Mapping[str, Any]:
    """Returns a tree like `params`, with True for frozen arrays."""
    mask: Mapping[str, Any] = jax.tree.map_with_path(
        lambda path, _: path[0].key in NOT_TRAINED, params
    )
    return mask


def decay_mask(params: Params) -> Mapping[str, Any]:
    """Returns a tree like `params`, with True for arrays subject to weight decay.

    Weight decay applies to all arrays, although `make_optimizer` does not update frozen
    arrays, with one exception. In residual layers
    around a linear recurrence, weight decay applies only to kernels. Otherwise, it
    would shorten the memory of the recurrence and undo the initialization of the
    encoder bias.
    """
    kernels_only = ("layers", f"{BACKWARD}layers")

    def is_decayed(path: tuple[DictKey, ...], _: jax.Array) -> bool:
        return path[-1].key == "kernel" or path[0].key not in kernels_only

    mask: Mapping[str, Any] = jax.tree.map_with_path(is_decayed, params)
    return mask


def constant(peak: float, num_steps: int, *, warmup_fraction: float) -> optax.Schedule:
    """Linear warmup, then a constant learning rate."""
    warmup_steps = int(warmup_fraction * num_steps)
    init_value = peak / (warmup_steps + 1)  # not 0: the first update has an effect
    return optax.warmup_constant_schedule(init_value, peak, warmup_steps)


def cosine(peak: float, num_steps: int, *, warmup_fraction: float) -> optax.Schedule:
    """Linear warmup, then cosine decay to 0."""
    warmup_steps = int(warmup_fraction * num_steps)
    init_value = peak / (warmup_steps + 1)
    decay_steps = max(num_steps, warmup_steps + 1)
    return optax.warmup_cosine_decay_schedule(
        init_value, peak, warmup_steps, decay_steps
    )


# Built-in values of `train.schedule`.
SCHEDULES = {"constant": constant, "cosine": cosine}


def compute_learning_rate(
    config: RunTrainConfig, step: jax.typing.ArrayLike
) -> jax.Array:
    """Returns the learning rate of update `step`, counted from 0, float32 []."""
    make_schedule = resolve_function(
        config.schedule, SCHEDULES, warmup_fraction=config.warmup_fraction
    )
    schedule = make_schedule(config.learning_rate, config.num_steps)
    return jnp.asarray(schedule(step), jnp.float32)


@functools.partial(jax.jit, static_argnames=("config", "num_updates", "sharding"))
def compute_learning_rates(
    start: jax.Array, *, config: RunTrainConfig, num_updates: int, sharding: Sharding
) -> jax.Array:
    """Returns the learning rates of consecutive updates, float32 [updates].

    `start` is the index of the first update.
    """
    learning_rates = jax.vmap(functools.partial(compute_learning_rate, config))(
        start + jnp.arange(num_updates)
    )
    return jax.lax.with_sharding_constraint(learning_rates, sharding)


def update_ema(ema: Params, params: Params, step: jax.Array, decay: float) -> Params:
    """Updates the EMA with the parameters after update `step`.

    The decay starts small, so that the initial parameters quickly lose their influence.

    References:
        Polyak and Juditsky, "Acceleration of Stochastic Approximation by Averaging",
        SIAM Journal on Control and Optimization 30(4), 1992.
    """
    weight = 1 - jnp.minimum(decay, (1 + step) / (EMA_WARMUP + step))
    updated: Params = jax.tree.map(
        lambda mean, value: mean + weight * (value - mean), ema, params
    )
    return updated
