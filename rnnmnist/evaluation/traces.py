"""Traces of an LSTM: its gates, states and predictions after each time step."""

import functools
from typing import Any, NamedTuple

import jax
import numpy as np

from rnnmnist.data.views import View
from rnnmnist.evaluation.predictions import (
    EvaluationSplit,
    decision_times,
    predict_logits,
    softmax,
)
from rnnmnist.models.classifier import Params, SequenceClassifier
from rnnmnist.models.lstm import LSTM, Activations
from rnnmnist.runtime.ensemble import split_ensemble


class Trace(NamedTuple):
    """The activations of an LSTM after each time step of each example.

    The gates and states are float32 [examples, time, units]. Gates are from 0 to 1, the
    candidate and the hidden state from -1 to 1.
    """

    probabilities: np.ndarray  # float32 [examples, time, classes]
    hidden: np.ndarray
    cell: np.ndarray
    input_gate: np.ndarray
    forget_gate: np.ndarray
    output_gate: np.ndarray
    candidate: np.ndarray

    @property
    def decision_times(self) -> np.ndarray:
        """The time step after which each prediction no longer changes, [examples]."""
        return decision_times(self.probabilities.argmax(-1))


def trace(model: SequenceClassifier, params: Params, split: EvaluationSplit) -> Trace:
    """Runs one LSTM over examples and records its activations."""
    networks = split_ensemble(params)
    if not isinstance(model.make_recurrence(), LSTM) or len(networks) > 1:
        raise ValueError("a trace needs one LSTM of which the last state is read")
    (logits,) = predict_logits(model, params, split, every_step=True)
    stored = split.device_batches(0, -(-len(logits) // split.batch_size)).stored
    stored = stored.reshape(-1, *stored.shape[2:])
    activations = jax.device_get(
        _activations(networks[0], stored, model=model, view=split.view)
    )
    states = {
        name: array.swapaxes(0, 1)[: len(logits)]
        for name, array in activations._asdict().items()
    }
    return Trace(softmax(logits), **states)


@functools.partial(jax.jit, static_argnames=("model", "view"))
def _activations(
    params: Params, stored: jax.Array, *, model: SequenceClassifier, view: View | None
) -> Activations:
    inputs = stored if view is None else view(stored)
    found: Any = model.apply(
        {"params": params},
        inputs.swapaxes(0, 1),
        method=lambda model, inputs: model.recurrence.activations(inputs),
    )
    return found
