"""Traces of an LSTM: its gates, states and predictions after each row."""

import functools
from typing import NamedTuple

import jax
import numpy as np

from rnnmnist.evaluation.predictions import (
    EvaluationSplit,
    decision_rows,
    predict_logits,
    softmax,
)
from rnnmnist.models.classifier import Params, SequenceClassifier, time_major
from rnnmnist.models.recurrences import LSTM, Activations
from rnnmnist.runtime.ensemble import split_ensemble


class Trace(NamedTuple):
    """The activations of an LSTM after each row of each image.

    The gates and states are float32 [images, rows, units]. Gates are from 0 to 1, the
    candidate and the hidden state from -1 to 1.
    """

    probabilities: np.ndarray  # float32 [images, rows, classes]
    hidden: np.ndarray
    cell: np.ndarray
    input_gate: np.ndarray
    forget_gate: np.ndarray
    output_gate: np.ndarray
    candidate: np.ndarray

    @property
    def entropy(self) -> np.ndarray:
        """Entropy of the probabilities in nats, float32 [images, rows]."""
        logs = np.log(np.maximum(self.probabilities, np.finfo(np.float32).tiny))
        return -(self.probabilities * logs).sum(-1)

    @property
    def decision_rows(self) -> np.ndarray:
        """The row after which the prediction no longer changes, int [images]."""
        return decision_rows(self.probabilities.argmax(-1))


def trace(model: SequenceClassifier, params: Params, split: EvaluationSplit) -> Trace:
    """Runs one LSTM over images and records its activations.

    Raises:
        ValueError: for another cell, or several networks.
    """
    networks = split_ensemble(params)
    if not isinstance(model.make_recurrence(), LSTM) or len(networks) > 1:
        raise ValueError("a trace needs one network with an LSTM")
    (logits,) = predict_logits(model, params, split, every_step=True)
    images = split.images.reshape(-1, *split.images.shape[2:])
    activations = jax.device_get(_activations(networks[0], images, model=model))
    states = {
        name: array.swapaxes(0, 1)[: len(logits)]
        for name, array in activations._asdict().items()
    }
    return Trace(softmax(logits), **states)


@functools.partial(jax.jit, static_argnames="model")
def _activations(
    params: Params, images: jax.Array, *, model: SequenceClassifier
) -> Activations:
    recurrence = model.make_recurrence()
    variables = {"params": {"cell": params["cell"]}}
    inputs = time_major(images)
    return recurrence.apply(variables, inputs, method=LSTM.activations)  # type: ignore[return-value]
