"""Attributes predictions to time steps by occlusion."""

import numpy as np

from rnnmnist.data.examples import Inputs, padding_mask
from rnnmnist.evaluation.network import Network
from rnnmnist.evaluation.predictions import find_lengths
from rnnmnist.evaluation.probabilities import log_softmax

MAX_WINDOWS = 28  # per sequence; the number of rows in an MNIST image


def occlude(network: Network, inputs: Inputs) -> np.ndarray:
    """Computes the attributions that `Model.occlusion` returns, float32 [n, time].

    Occluded values are set to 0, which is the training mean of normalized sequences and
    the background of images.
    """
    values = network.view(inputs.take(slice(None)))
    time_steps = values.shape[1]
    lengths = find_lengths(inputs, time_steps)
    window_sizes = -(-lengths // MAX_WINDOWS)  # rounded up
    # Index of the window that contains each time step; -1 in the padding.
    windows = np.arange(time_steps) // window_sizes[:, None]
    windows[padding_mask(time_steps, lengths)] = -1

    def log_probabilities(is_occluded: np.ndarray) -> np.ndarray:
        occluded_inputs = Inputs(np.where(is_occluded[..., None], 0, values), lengths)
        return log_softmax(network.calibrated_logits(occluded_inputs))

    baseline = log_probabilities(np.zeros(windows.shape, bool))
    predicted_classes = baseline.argmax(-1)[:, None]
    attributions: np.ndarray = np.zeros(windows.shape, np.float32)
    for window in range(windows.max() + 1):
        is_inside = windows == window
        decrease = baseline - log_probabilities(is_inside)
        attribution = np.take_along_axis(decrease, predicted_classes, axis=1)
        attributions += np.where(is_inside, attribution, 0)
    return attributions
