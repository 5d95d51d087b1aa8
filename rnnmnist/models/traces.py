"""What goes on in an LSTM while it reads: gates and states after each row."""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from rnnmnist.models.classifier import Params, SequenceClassifier
from rnnmnist.models.recurrence import Carry, Kernels, read_rows


class Trace(NamedTuple):
    """What an LSTM did with images, after each row of each."""

    probabilities: np.ndarray  # float32 [images, rows, classes], probabilities
    hidden: np.ndarray  # float32 [images, rows, units], the hidden state h, -1 to 1
    cell: np.ndarray  # float32 [images, rows, units], the cell state c
    input_gate: np.ndarray  # float32 [images, rows, units], 0 to 1, as the next two
    forget_gate: np.ndarray
    output_gate: np.ndarray
    candidate: np.ndarray  # float32 [images, rows, units], -1 to 1

    @property
    def entropy(self) -> np.ndarray:
        """How undecided it was, in nats, float32 [images, rows]; at most log(10)."""
        logs = np.log(np.maximum(self.probabilities, np.finfo(np.float32).tiny))
        return -(self.probabilities * logs).sum(-1)

    @property
    def decision_rows(self) -> np.ndarray:
        """The row after which the answer no longer changes, int [images]."""
        return decision_rows(self.probabilities.argmax(-1))


def decision_rows(said: np.ndarray) -> np.ndarray:
    """The row, from 1, after which each answer no longer changes, int [images].

    Args:
        said: the answer after each row, int [images, rows].
    """
    same = said[:, ::-1] == said[:, -1:]
    return said.shape[1] - np.cumprod(same, axis=1).sum(axis=1) + 1


def trace(model: SequenceClassifier, params: Params, images: np.ndarray) -> Trace:
    """Follows an LSTM through images.

    Args:
        model: with an LSTM's cell.
        params: of one network.
        images: uint8 [images, rows, columns], as MNIST has them.

    Raises:
        ValueError: for another cell, or a stack of networks.
    """
    if "hf" not in params["cell"] or params["head"]["bias"].ndim > 1:
        raise ValueError("a trace is of the gates of one LSTM")
    return Trace(*jax.device_get(_trace(params, images, model=model)))


@functools.partial(jax.jit, static_argnames="model")
def _trace(params: Params, images: jax.Array, *, model: SequenceClassifier) -> Any:
    kernels = Kernels.of(params["cell"])
    units = kernels.hidden.shape[0]
    nothing = jnp.zeros((units, len(images)), kernels.row.dtype)
    rows = (images.astype(jnp.float32) / 255).transpose(1, 2, 0)
    last, kept = read_rows(kernels, Carry(nothing, nothing), rows)
    i, f, g, o = jnp.split(kept.gates, 4, axis=1)  # each [rows, units, images]
    hidden = jnp.concatenate([kept.inputs[1:, -units:], last.h[None]])
    cell = jnp.concatenate([kept.c[1:], last.c[None]])
    logits = jnp.asarray(model.apply({"params": params}, images, every_row=True))

    def by_image(array: jax.Array) -> jax.Array:
        return array.transpose(2, 0, 1)

    return (jax.nn.softmax(logits), *map(by_image, (hidden, cell, i, f, o, g)))
