"""The optimizer, its learning rates, and the average of the weights."""

import functools
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax.sharding import Sharding
from jax.tree_util import DictKey

from rnnmnist.config.functions import Function, bind
from rnnmnist.config.resolving import RunTrainConfig
from rnnmnist.models.cells import BACKWARD
from rnnmnist.models.parameters import NOT_TRAINED, Params

EMA_WARMUP = 10  # updates; the decay of the average grows over about as many


def adamw(
    learning_rate: jax.typing.ArrayLike, *, weight_decay: float
) -> optax.GradientTransformation:
    """Returns AdamW."""
    return optax.chain(
        # One operation on a vector is faster than one for each array.
        optax.flatten(optax.scale_by_adam()),
        optax.add_decayed_weights(weight_decay, mask=decay_mask),
        optax.scale_by_learning_rate(learning_rate),
    )


# The optimizers of the package, by the values of `train.optimizer`.
OPTIMIZERS = {"adamw": adamw}


def make_optimizer(
    learning_rate: jax.typing.ArrayLike, clip_norm: float, optimizer: Function
) -> optax.GradientTransformation:
    """Returns the optimizer of a network, which gets clipped gradients.

    A `clip_norm` of 0 does not clip. Parameters that are not trained do not change.
    """
    clip = optax.clip_by_global_norm(clip_norm) if clip_norm else optax.identity()
    return optax.chain(
        optax.flatten(clip),  # one norm is faster than one for each array
        optimizer(learning_rate),
        optax.masked(optax.set_to_zero(), not_trained_mask),
    )


def not_trained_mask(params: Params) -> Mapping[str, Any]:
    """Returns whether each array is not trained, in a tree like `params`."""
    mask: Mapping[str, Any] = jax.tree.map_with_path(
        lambda path, _: path[0].key in NOT_TRAINED, params
    )
    return mask


def decay_mask(params: Params) -> Mapping[str, Any]:
    """Returns whether each array of a network is decayed, in a tree like `params`.

    All that are trained are decayed, except in residual layers around a linear
    recurrence: there only the kernels are, since decay would shorten the memory of the
    recurrence and undo the initialization of the encoder's bias.
    """
    spared = ("layers", f"{BACKWARD}layers", *NOT_TRAINED)

    def is_decayed(path: tuple[DictKey, ...], _: jax.Array) -> bool:
        return path[-1].key == "kernel" or path[0].key not in spared

    mask: Mapping[str, Any] = jax.tree.map_with_path(is_decayed, params)
    return mask


def constant(peak: float, num_steps: int, *, warmup_fraction: float) -> optax.Schedule:
    """Returns a schedule that rises linearly, and is constant then."""
    warmup_steps = int(warmup_fraction * num_steps)
    first = peak / (warmup_steps + 1)  # above 0: the first update changes parameters
    return optax.warmup_constant_schedule(first, peak, warmup_steps)


def cosine(peak: float, num_steps: int, *, warmup_fraction: float) -> optax.Schedule:
    """Returns a schedule that rises linearly, and falls then on a cosine to 0."""
    warmup_steps = int(warmup_fraction * num_steps)
    first = peak / (warmup_steps + 1)
    decay_steps = max(num_steps, warmup_steps + 1)
    return optax.warmup_cosine_decay_schedule(first, peak, warmup_steps, decay_steps)


# The schedules of the package, by the values of `train.schedule`.
SCHEDULES = {"constant": constant, "cosine": cosine}


def compute_learning_rate(
    config: RunTrainConfig, step: jax.typing.ArrayLike
) -> jax.Array:
    """Returns the learning rate of update `step`, float32."""
    make_schedule = bind(
        config.schedule, SCHEDULES, warmup_fraction=config.warmup_fraction
    )
    # optax mixes integers and floats, and a process can forbid that promotion.
    with jax.numpy_dtype_promotion("standard"):
        schedule = make_schedule(config.learning_rate, config.num_steps)
        return jnp.asarray(schedule(step), jnp.float32)


@functools.partial(jax.jit, static_argnames=("config", "updates", "sharding"))
def compute_learning_rates(
    start: jax.Array, *, config: RunTrainConfig, updates: int, sharding: Sharding
) -> jax.Array:
    """Returns the learning rates of a chunk, whose first update is `start`, float32."""
    learning_rates = jax.vmap(functools.partial(compute_learning_rate, config))(
        start + jnp.arange(updates)
    )
    return jax.lax.with_sharding_constraint(learning_rates, sharding)


def update_ema(ema: Params, params: Params, step: jax.Array, decay: float) -> Params:
    """Updates an exponential moving average by the parameters after update `step`.

    The decay is smaller at first, so that the initial weights are forgotten sooner.

    References:
        Polyak and Juditsky, "Acceleration of Stochastic Approximation by Averaging",
        SIAM Journal on Control and Optimization 30(4), 1992.
    """
    weight = 1 - jnp.minimum(decay, (1 + step) / (EMA_WARMUP + step))
    updated: Params = jax.tree.map(
        lambda old, new: old + weight * (new - old), ema, params
    )
    return updated
