"""The optimizer, its learning rates, and the average of the weights."""

import functools
from collections.abc import Mapping
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax.sharding import Sharding
from jax.tree_util import DictKey

from rnnmnist.config.resolving import RunTrainConfig
from rnnmnist.models.cells import BACKWARD
from rnnmnist.models.classifier import NOT_TRAINED, Params

EMA_WARMUP = 10  # updates; the decay of the average grows over about as many


def make_optimizer(clip_norm: float) -> optax.GradientTransformation:
    """Returns clipping and Adam, which give the direction of an update.

    The training step multiplies it by the learning rate, after it has added the weight
    decay, and subtracts it. A `clip_norm` of 0 does not clip. The state has the same
    structure with and without clipping, so that a resumed run may change it.
    """
    clip = optax.clip_by_global_norm(clip_norm) if clip_norm else optax.identity()
    return optax.chain(clip, optax.scale_by_adam())


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


class Schedule(NamedTuple):
    """The learning rate of each update, by the settings of the same names.

    It rises linearly in the warm-up, and then is constant or a cosine to 0.
    """

    learning_rate: float  # at the end of the warm-up
    schedule: Literal["constant", "cosine"]
    warmup_fraction: float  # of the run
    num_steps: int  # in the run

    @classmethod
    def create(cls, config: RunTrainConfig) -> "Schedule":
        """Returns the schedule of a run."""
        return cls(
            learning_rate=config.learning_rate,
            schedule=config.schedule,
            warmup_fraction=config.warmup_fraction,
            num_steps=config.num_steps,
        )

    def __call__(self, step: jax.typing.ArrayLike) -> jax.Array:
        """Returns the learning rate of the update after `step` ones, float32."""
        peak = self.learning_rate
        warmup_steps = int(self.warmup_fraction * self.num_steps)
        # Starts above 0, so that the first update changes the parameters.
        rise = optax.linear_schedule(peak / (warmup_steps + 1), peak, warmup_steps)
        after = optax.constant_schedule(peak)
        if self.schedule == "cosine":
            remaining_steps = max(1, self.num_steps - warmup_steps)
            after = optax.cosine_decay_schedule(peak, remaining_steps)
        joined = optax.join_schedules([rise, after], [warmup_steps])
        # optax mixes integers and floats, and a process can forbid that promotion.
        with jax.numpy_dtype_promotion("standard"):
            return jnp.asarray(joined(step), jnp.float32)


@functools.partial(
    jax.jit, static_argnames=("schedule", "updates_per_chunk", "sharding")
)
def learning_rates(
    first: jax.Array, *, schedule: Schedule, updates_per_chunk: int, sharding: Sharding
) -> jax.Array:
    """Returns the learning rates of a chunk's updates after `first` ones, float32."""
    rates = schedule(first + jnp.arange(updates_per_chunk))
    return jax.lax.with_sharding_constraint(rates, sharding)


def update_average(
    average: jax.Array, params: jax.Array, step: jax.Array, decay: float
) -> jax.Array:
    """Updates an exponential moving average by the weights after update `step + 1`.

    The decay is smaller at first, so that the initial weights are forgotten sooner.

    References:
        Polyak and Juditsky, "Acceleration of Stochastic Approximation by Averaging",
        SIAM Journal on Control and Optimization 30(4), 1992.
    """
    rate = 1 - jnp.minimum(decay, (1 + step) / (EMA_WARMUP + step))
    return average + rate * (params - average)
