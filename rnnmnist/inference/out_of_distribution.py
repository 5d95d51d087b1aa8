"""Out-of-distribution check: whether an image shows a digit at all.

A classifier assigns one of its classes to every image, often with high confidence. The
check therefore has a small LSTM of its own, with an eleventh class for images that are
not digits: generated strokes, shapes and textures, and digits that are cut or turned.
The threshold is a quantile of the scores of held-out digits.

The check does not depend on the network whose predictions it accompanies.
`tools/outlier_check.py` trains and measures it.

References:
    Hendrycks, Mazeika, Dietterich, "Deep Anomaly Detection with Outlier Exposure",
    ICLR 2019.
"""

import functools
from pathlib import Path
from typing import NamedTuple

import numpy as np
from scipy.special import expit, logsumexp

from rnnmnist.models.lstm import FusedParams

PATH = Path(__file__).parent / "out_of_distribution.npz"


class OutOfDistributionCheck(NamedTuple):
    """An LSTM that reads rows, whose last class is "no digit"."""

    network: FusedParams  # float32
    max_score: float  # images above it are refused

    def scores(self, images: np.ndarray) -> np.ndarray:
        """Returns the logarithms of the odds that images are not digits, float32 [n].

        The images are uint8 [n, 28, 28], preprocessed as MNIST's are.
        """
        network = self.network
        cell = hidden = np.zeros((len(images), len(network.hidden)), np.float32)
        for row in (images.astype(np.float32) / 255).swapaxes(0, 1):
            gates = row @ network.row + hidden @ network.hidden + network.bias
            input_gate, forget, candidate, output = np.split(gates, 4, axis=-1)
            cell = expit(forget) * cell + expit(input_gate) * np.tanh(candidate)
            hidden = expit(output) * np.tanh(cell)
        logits = hidden @ network.head + network.head_bias
        return logits[:, -1] - logsumexp(logits[:, :-1], axis=-1)

    def is_digit(self, images: np.ndarray) -> np.ndarray:
        """Returns whether such images show digits, bool [n]; a blank one does not."""
        return images.any((1, 2)) & (self.scores(images) <= self.max_score)


@functools.cache
def load_check() -> OutOfDistributionCheck:
    """Loads the check that is shipped with the package; its weights are float16."""
    with np.load(PATH, allow_pickle=False) as file:
        arrays = [file[name].astype(np.float32) for name in FusedParams._fields]
        return OutOfDistributionCheck(FusedParams(*arrays), float(file["max_score"]))
