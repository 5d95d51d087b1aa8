"""What an update does with a gradient: clipping, Adam on a schedule, averaging."""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from rnnmnist.config.schema import TrainConfig

WARM = 10  # updates, about, before an average reaches far back


class Averaging(NamedTuple):
    """The memory of an optimizer whose iterates are averaged."""

    iterate: Any  # the weights that are trained, in the shapes of the parameters
    inner: Any  # the memory of the optimizer that trains them
    updates: jax.Array  # int32 [], so far


@functools.cache  # the same object again, so that jit knows it again
def make_optimizer(config: TrainConfig) -> optax.GradientTransformation:
    """Adam or AdamW on a schedule, behind clipping by global norm where asked.

    Where the configuration averages, the parameters are the average, and gradients
    are to be taken at `trained_weights`.
    """
    schedule = make_schedule(config)
    optimizer = (
        optax.adamw(schedule, weight_decay=config.weight_decay)
        if config.weight_decay
        else optax.adam(schedule)
    )
    if config.clip_norm:
        optimizer = optax.chain(optax.clip_by_global_norm(config.clip_norm), optimizer)
    return averaged(optimizer, config.ema_decay) if config.ema_decay else optimizer


def make_schedule(config: TrainConfig) -> optax.Schedule:
    """The learning rate by step: a linear warm-up, then constant or a cosine to 0."""
    warmup = int(config.warmup_fraction * config.num_steps)
    rest = max(1, config.num_steps - warmup)
    after = (
        optax.cosine_decay_schedule(config.learning_rate, rest)
        if config.schedule == "cosine"
        else optax.constant_schedule(config.learning_rate)
    )
    if not warmup:
        return after
    # From one step's worth up, so that the first update is not a wasted one.
    rise = optax.linear_schedule(
        config.learning_rate / (warmup + 1), config.learning_rate, warmup
    )
    return optax.join_schedules([rise, after], [warmup])


def averaged(
    optimizer: optax.GradientTransformation, decay: float
) -> optax.GradientTransformation:
    """An optimizer whose parameters are an exponential average of its iterates.

    So all that reads parameters (a validation, a checkpoint, an evaluation) reads the
    average, and nothing has to know of it but who takes the gradient.

    Args:
        optimizer: makes the iterates.
        decay: of the average in one update; less in the first ones, which would stay
            in it for long.

    References:
        Polyak and Juditsky, "Acceleration of Stochastic Approximation by Averaging",
        SIAM Journal on Control and Optimization 30(4), 1992.
    """

    def init(params: Any) -> Averaging:
        return Averaging(params, optimizer.init(params), jnp.zeros((), jnp.int32))

    def update(grads: Any, state: Any, params: Any = None) -> tuple[Any, Averaging]:
        change, inner = optimizer.update(grads, state.inner, state.iterate)
        iterate = optax.apply_updates(state.iterate, change)
        share = 1 - jnp.minimum(decay, (1 + state.updates) / (WARM + state.updates))
        toward = jax.tree.map(lambda new, mean: share * (new - mean), iterate, params)
        return toward, Averaging(iterate, inner, state.updates + 1)

    return optax.GradientTransformation(init, update)


def trained_weights(params: Any, opt_state: Any) -> Any:
    """Where an optimizer from `make_optimizer` needs the gradient.

    Args:
        params: that are evaluated.
        opt_state: the optimizer's memory.
    """
    return opt_state.iterate if isinstance(opt_state, Averaging) else params
