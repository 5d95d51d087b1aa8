"""Traces of an LSTM: its gates, states and predictions after each row."""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from rnnmnist.models.classifier import Params, SequenceClassifier
from rnnmnist.models.recurrence import Carry, Kernels, read_rows


class Trace(NamedTuple):
    """The activations of an LSTM after each row of each image."""

    probabilities: np.ndarray  # float32 [images, rows, classes]
    hidden: np.ndarray  # float32 [images, rows, units], h, from -1 to 1
    cell: np.ndarray  # float32 [images, rows, units], c
    input_gate: np.ndarray  # float32 [images, rows, units], from 0 to 1
    forget_gate: np.ndarray  # likewise
    output_gate: np.ndarray  # likewise
    candidate: np.ndarray  # float32 [images, rows, units], from -1 to 1

    @property
    def entropy(self) -> np.ndarray:
        """Entropy of the probabilities in nats, float32 [images, rows]."""
        logs = np.log(np.maximum(self.probabilities, np.finfo(np.float32).tiny))
        return -(self.probabilities * logs).sum(-1)

    @property
    def decision_rows(self) -> np.ndarray:
        """The row after which the prediction no longer changes, int [images]."""
        return decision_rows(self.probabilities.argmax(-1))


def decision_rows(predicted: np.ndarray) -> np.ndarray:
    """Returns the row, from 1, after which no prediction changes, int [images].

    Args:
        predicted: classes after each row, int [images, rows].
    """
    same = predicted[:, ::-1] == predicted[:, -1:]
    return predicted.shape[1] - np.cumprod(same, axis=1).sum(axis=1) + 1


def trace(model: SequenceClassifier, params: Params, images: np.ndarray) -> Trace:
    """Runs an LSTM over images and records its activations.

    Args:
        model: with an LSTM cell.
        params: of one network.
        images: uint8 [images, rows, columns].

    Raises:
        ValueError: for another cell, or an ensemble.
    """
    if "hf" not in params["cell"] or params["head"]["bias"].ndim > 1:
        raise ValueError("a trace needs the parameters of one LSTM")
    return Trace(*jax.device_get(_trace(params, images, model=model)))


@functools.partial(jax.jit, static_argnames="model")
def _trace(params: Params, images: jax.Array, *, model: SequenceClassifier) -> Any:
    kernels = Kernels.of(params["cell"])
    units = kernels.hidden.shape[0]
    zeros = jnp.zeros((units, len(images)), kernels.row.dtype)
    rows = (images.astype(jnp.float32) / 255).transpose(1, 2, 0)
    last, residuals = read_rows(kernels, Carry(zeros, zeros), rows)
    i, f, g, o = jnp.split(residuals.gates, 4, axis=1)  # each [rows, units, images]
    hidden = jnp.concatenate([residuals.inputs[1:, -units:], last.h[None]])
    cell = jnp.concatenate([residuals.c[1:], last.c[None]])
    logits = jnp.asarray(model.apply({"params": params}, images, every_row=True))

    def by_image(array: jax.Array) -> jax.Array:
        return array.transpose(2, 0, 1)

    return (jax.nn.softmax(logits), *map(by_image, (hidden, cell, i, f, o, g)))
