"""Occlusion: on which time steps a prediction depends."""

import numpy as np

from rnnmnist.data.examples import Inputs, find_padding
from rnnmnist.evaluation.network import Network
from rnnmnist.evaluation.predictions import find_lengths
from rnnmnist.evaluation.probabilities import log_softmax

WINDOWS = 28  # of a sequence at most; the rows of an image


def occlude(network: Network, inputs: Inputs) -> np.ndarray:
    """Returns how much each time step contributes to a prediction, float32 [n, time].

    It is what `Model.occlusion` returns. A time step is occluded by 0, which is the
    mean of the training split after the normalization, and the background of an image.
    """
    values = network.view(inputs.take(slice(None)))
    time_steps = values.shape[1]
    lengths = find_lengths(inputs, time_steps)
    window_sizes = -(-lengths // WINDOWS)  # rounded up
    # The number of the window in which each time step is, -1 in the padding.
    windows = np.arange(time_steps) // window_sizes[:, None]
    windows[find_padding(time_steps, lengths)] = -1

    def classify(is_occluded: np.ndarray) -> np.ndarray:
        occluded = Inputs(np.where(is_occluded[..., None], 0, values), lengths)
        return log_softmax(network.calibrated_logits(occluded))

    whole = classify(np.zeros(windows.shape, bool))
    predicted = whole.argmax(-1)[:, None]
    # How much the log probability of the predicted class falls without each time step.
    attributions: np.ndarray = np.zeros(windows.shape, np.float32)
    for window in range(windows.max() + 1):
        is_inside = windows == window
        attribution = np.take_along_axis(whole - classify(is_inside), predicted, axis=1)
        attributions += np.where(is_inside, attribution, 0)
    return attributions
