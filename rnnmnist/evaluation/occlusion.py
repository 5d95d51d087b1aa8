"""Occlusion: on which time steps a prediction depends."""

import numpy as np

from rnnmnist.arithmetic import ceil_div
from rnnmnist.data.examples import Inputs, View, find_padding
from rnnmnist.evaluation.network import TrainedNetwork
from rnnmnist.evaluation.predictions import log_probabilities, predict_logits
from rnnmnist.models.classifier import Params

WINDOWS = 28  # of a sequence at most; the rows of an image


def occlude(
    network: TrainedNetwork,
    params: Params,
    inputs: Inputs,
    positions: slice | np.ndarray = slice(None),
) -> np.ndarray:
    """Returns `Predictor.occlusion` of members of a network, float32 [n, time].

    `params` are those of the members, and `positions` select the inputs. After the
    normalization, the mean of the training split and the background are 0.
    """
    values = network.view(inputs.take(positions))
    lengths = None if inputs.lengths is None else inputs.lengths[positions]
    count, time_steps, _ = values.shape
    ends = np.full(count, time_steps) if lengths is None else lengths
    windows = np.arange(time_steps) // ceil_div(ends, WINDOWS)[:, None]
    windows[find_padding(time_steps, ends)] = -1

    def classify(is_occluded: np.ndarray) -> np.ndarray:
        occluded = Inputs(np.where(is_occluded[..., None], 0, values), lengths)
        logits = predict_logits(network.model, params, occluded, View(), network.mesh)
        return log_probabilities(logits)

    whole = classify(np.zeros(windows.shape, bool))
    predicted = whole.argmax(-1)[:, None]
    falls: np.ndarray = np.zeros(windows.shape, np.float32)
    for window in range(windows.max() + 1):
        is_inside = windows == window
        fall = np.take_along_axis(whole - classify(is_inside), predicted, axis=1)
        falls += np.where(is_inside, fall, 0)
    return falls
