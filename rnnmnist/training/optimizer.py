"""The optimizer, its learning rates, and the average of the weights."""

import functools
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax.sharding import Sharding
from jax.tree_util import DictKey

from rnnmnist.config.resolving import RunTrainConfig
from rnnmnist.models.cells import BACKWARD
from rnnmnist.models.parameters import NOT_TRAINED, Params

EMA_WARMUP = 10  # updates; the decay of the average grows over about as many


def make_optimizer(
    learning_rate: jax.typing.ArrayLike, clip_norm: float, weight_decay: float
) -> optax.GradientTransformation:
    """Returns the optimizer of a network: AdamW of clipped gradients.

    A `clip_norm` of 0 does not clip. To train with another optimizer of optax, return
    it instead, such as `optax.chain(clip, optax.lamb(learning_rate,
    weight_decay=weight_decay, mask=decay_mask))`. A checkpoint does not record the
    change, so train in a new workdir. A setting of the optimizer is a field of
    `Program` (`training/state.py`), whose method `optimizer` calls this function.

    In each update, an optimizer takes the gradients and the parameters of one network,
    as trees, and nothing else, such as the loss. It must not

    - compare the learning rate with a number, or keep it in its state: it is a traced
      array, so that one compiled program serves all rates;
    - look at layers or at shapes of arrays, as LAMB and Muon do, within
      `optax.flatten`, where all parameters are one vector, which is faster;
    - change parameters that are not trained (`NOT_TRAINED`), whose gradients are 0:
      weight decay needs the mask;
    - have a state whose structure depends on `clip_norm`, which a resumed run may
      change.
    """
    clip = optax.clip_by_global_norm(clip_norm) if clip_norm else optax.identity()
    return optax.chain(
        optax.flatten(optax.chain(clip, optax.scale_by_adam())),
        optax.add_decayed_weights(weight_decay, mask=decay_mask),
        optax.scale_by_learning_rate(learning_rate),
    )


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


def learning_rate(config: RunTrainConfig, step: jax.typing.ArrayLike) -> jax.Array:
    """Returns the learning rate of update `step`, float32.

    It rises linearly in the warm-up, and then is constant or a cosine to 0.
    """
    peak = config.learning_rate
    warmup_steps = int(config.warmup_fraction * config.num_steps)
    first = peak / (warmup_steps + 1)  # above 0: the first update changes parameters
    if config.schedule == "cosine":
        decay_steps = max(config.num_steps, warmup_steps + 1)
        schedule = optax.warmup_cosine_decay_schedule(
            first, peak, warmup_steps, decay_steps
        )
    else:
        schedule = optax.warmup_constant_schedule(first, peak, warmup_steps)
    # optax mixes integers and floats, and a process can forbid that promotion.
    with jax.numpy_dtype_promotion("standard"):
        return jnp.asarray(schedule(step), jnp.float32)


@functools.partial(jax.jit, static_argnames=("config", "updates", "sharding"))
def learning_rates(
    start: jax.Array, *, config: RunTrainConfig, updates: int, sharding: Sharding
) -> jax.Array:
    """Returns the learning rates of a chunk, whose first update is `start`, float32."""
    rates = jax.vmap(functools.partial(learning_rate, config))(
        start + jnp.arange(updates)
    )
    return jax.lax.with_sharding_constraint(rates, sharding)


def update_average(
    average: Params, params: Params, step: jax.Array, decay: float
) -> Params:
    """Updates an exponential moving average by the parameters after update `step`.

    The decay is smaller at first, so that the initial weights are forgotten sooner.

    References:
        Polyak and Juditsky, "Acceleration of Stochastic Approximation by Averaging",
        SIAM Journal on Control and Optimization 30(4), 1992.
    """
    rate = 1 - jnp.minimum(decay, (1 + step) / (EMA_WARMUP + step))
    updated: Params = jax.tree.map(
        lambda old, new: old + rate * (new - old), average, params
    )
    return updated
