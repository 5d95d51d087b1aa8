"""Classifies a sequence one time step at a time, in constant time and memory."""

import functools
from typing import Any, NamedTuple

import jax
import numpy as np

from rnnmnist.config.tasks import Task
from rnnmnist.data.examples import Normalization, find_invalid
from rnnmnist.evaluation.predictions import softmax
from rnnmnist.models.classifier import Params, SequenceClassifier


class StreamState(NamedTuple):
    """What a network remembers of a sequence so far."""

    carry: Any  # of the recurrence, with a leading ensemble axis
    last: np.ndarray  # float64 [features], the last value of each; NaN before the first


def start(model: SequenceClassifier, params: Params, task: Task) -> StreamState:
    """Returns the state before the first time step."""
    carry = _start(params, model=model)
    return StreamState(carry, np.full(task.features, np.nan))


def step(
    model: SequenceClassifier,
    params: Params,
    normalization: Normalization,
    state: StreamState,
    features: np.ndarray,
) -> tuple[StreamState, np.ndarray]:
    """Returns the state and the probabilities after one more time step.

    The features are real [features], with NaN for missing values. The probabilities
    are means over the ensemble, float32 [classes].
    """
    values = np.asarray(features, np.float64)
    if values.shape != state.last.shape:
        raise ValueError(
            f"a time step has {len(state.last)} features, not values of shape "
            f"{values.shape}"
        )
    if found := find_invalid(values, normalization.missing):
        (feature,), reason = found
        raise ValueError(f"feature {feature} {reason}")
    if normalization.missing == "forward_fill":
        values = np.where(np.isnan(values), state.last, values)
    inputs = normalization(values[None, None], None)[0]
    carry, logits = _step(params, state.carry, inputs, model=model)
    probabilities = softmax(jax.device_get(logits)).mean(0)[0]
    return StreamState(carry, values), probabilities


@functools.partial(jax.jit, static_argnames="model")
def _start(params: Params, *, model: SequenceClassifier) -> Any:
    def one_network(params: Params) -> Any:
        return model.apply({"params": params}, 1, method="start")

    return jax.vmap(one_network)(params)


@functools.partial(jax.jit, static_argnames="model")
def _step(
    params: Params, carry: Any, inputs: jax.Array, *, model: SequenceClassifier
) -> tuple[Any, jax.Array]:
    def one_network(params: Params, carry: Any) -> Any:
        return model.apply({"params": params}, carry, inputs, method="step")

    return jax.vmap(one_network)(params, carry)
