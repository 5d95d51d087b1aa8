"""The optimizer: clipping, Adam on a schedule, weight averaging."""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from rnnmnist.config.schema import TrainConfig

EMA_WARMUP = 10  # updates; the decay of the average grows over about as many


class AveragingState(NamedTuple):
    """State of an optimizer that averages its iterates."""

    iterate: Any  # the trained weights, in the shapes of the parameters
    inner: Any  # state of the optimizer that trains them
    updates: jax.Array  # int32 [], finished so far


@functools.cache  # jit takes the optimizer as static and compares by identity
def make_optimizer(config: TrainConfig) -> optax.GradientTransformation:
    """Returns Adam or AdamW with its schedule, optional clipping and averaging.

    With `ema_decay`, the parameters are the averaged weights; take gradients at
    `trained_weights`.
    """
    schedule = make_schedule(config)
    optimizer = (
        optax.adamw(schedule, weight_decay=config.weight_decay)
        if config.weight_decay
        else optax.adam(schedule)
    )
    if config.clip_norm:
        optimizer = optax.chain(optax.clip_by_global_norm(config.clip_norm), optimizer)
    if config.ema_decay:
        optimizer = average_weights(optimizer, config.ema_decay)
    return optimizer


def make_schedule(config: TrainConfig) -> optax.Schedule:
    """Returns a linear warm-up followed by a constant or a cosine decay to 0."""
    warmup = int(config.warmup_fraction * config.num_steps)
    remaining = max(1, config.num_steps - warmup)
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


def average_weights(
    optimizer: optax.GradientTransformation, decay: float
) -> optax.GradientTransformation:
    """Makes the parameters an exponential moving average of an optimizer's iterates.

    Validation, checkpoints and evaluation then read the average as `params`; only the
    code that computes gradients needs `trained_weights`.

    Args:
        optimizer: computes the iterates.
        decay: of the average per update. The first updates use a smaller one, so that
            the initial weights are forgotten sooner.

    References:
        Polyak and Juditsky, "Acceleration of Stochastic Approximation by Averaging",
        SIAM Journal on Control and Optimization 30(4), 1992.
    """

    def init(params: Any) -> AveragingState:
        return AveragingState(params, optimizer.init(params), jnp.zeros((), jnp.int32))

    def update(
        grads: Any, state: Any, params: Any = None
    ) -> tuple[Any, AveragingState]:
        updates, inner = optimizer.update(grads, state.inner, state.iterate)
        iterate = optax.apply_updates(state.iterate, updates)
        count = state.updates
        rate = 1 - jnp.minimum(decay, (1 + count) / (EMA_WARMUP + count))
        change = jax.tree.map(lambda new, mean: rate * (new - mean), iterate, params)
        return change, AveragingState(iterate, inner, count + 1)

    return optax.GradientTransformation(init, update)


def trained_weights(params: Any, opt_state: Any) -> Any:
    """Returns the weights at which `make_optimizer` expects the gradient."""
    return opt_state.iterate if isinstance(opt_state, AveragingState) else params
