"""The optimizer: clipping, Adam on a schedule, weight averaging."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax

from rnnmnist.config.schema import TrainConfig
from rnnmnist.models.classifier import Params

EMA_WARMUP = 10  # updates; the decay of the average grows over about as many


@functools.cache  # jit takes the optimizer as static and compares by identity
def make_optimizer(config: TrainConfig) -> optax.GradientTransformation:
    """Returns Adam or AdamW with its schedule and optional clipping.

    The state has the same structure with and without clipping, so that a resumed run
    may change `train.clip_norm`.
    """
    schedule = make_schedule(config)
    optimizer = (
        optax.adamw(schedule, weight_decay=config.weight_decay)
        if config.weight_decay
        else optax.adam(schedule)
    )
    clip = (
        optax.clip_by_global_norm(config.clip_norm)
        if config.clip_norm
        else optax.identity()
    )
    return optax.chain(clip, optimizer)


def decay_mask(params: Params) -> np.ndarray:
    """Returns which parameters of a network are decayed, bool [parameters].

    All are, except in residual layers around a linear recurrence: there only the
    kernels are, since decay would shorten the memory of the recurrence and undo the
    initialization of the encoder's bias. `params` can be shapes and types.
    """

    def is_decayed(path: tuple[jax.tree_util.DictKey, ...]) -> bool:
        return path[0].key != "layers" or path[-1].key == "kernel"

    leaves = jax.tree_util.tree_leaves_with_path(params)
    masks = [np.full(leaf.size, is_decayed(path)) for path, leaf in leaves]
    return np.concatenate(masks)


def make_schedule(config: TrainConfig) -> optax.Schedule:
    """Returns a linear warm-up followed by a constant or a cosine decay to 0."""
    warmup = int(config.warmup_fraction * config.total_steps)
    remaining = max(1, config.total_steps - warmup)
    after = (
        optax.cosine_decay_schedule(config.learning_rate, remaining)
        if config.schedule == "cosine"
        else optax.constant_schedule(config.learning_rate)
    )
    if not warmup:
        return after
    # Starts above 0, so that the first update changes the parameters.
    rise = optax.linear_schedule(
        config.learning_rate / (warmup + 1), config.learning_rate, warmup
    )
    return optax.join_schedules([rise, after], [warmup])


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
