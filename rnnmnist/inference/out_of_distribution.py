"""Out-of-distribution check: whether an image is of a digit at all.

A classifier assigns one of its classes to every image, often with high confidence. The
check therefore has a small LSTM of its own, with an eleventh class for images that are
not digits: generated strokes, shapes and textures, and digits that are cut or turned.
The threshold is a quantile of the scores of held-out digits.

The check does not depend on the network whose predictions it accompanies.
`tools/outlier_check.py` trains it, and compares it with other rules. NumPy
computes it here, and JavaScript on the drawing page, from the same weights.

References:
    Hendrycks, Mazeika, Dietterich, "Deep Anomaly Detection with Outlier Exposure",
    ICLR 2019.
"""

import functools
from pathlib import Path
from typing import NamedTuple

import numpy as np
from scipy.special import expit, logsumexp

PATH = Path(__file__).parent / "out_of_distribution.npz"


class OutOfDistributionCheck(NamedTuple):
    """The weights of an LSTM that reads rows, and the largest accepted score.

    The gates are those of `rnnmnist.models.lstm.GATES`, in this order.
    """

    row: np.ndarray  # float32 [columns, 4 * units], the kernel of a row
    hidden: np.ndarray  # float32 [units, 4 * units], the kernel of the hidden state
    bias: np.ndarray  # float32 [4 * units]
    head: np.ndarray  # float32 [units, classes + 1]; the last class is no digit
    head_bias: np.ndarray  # float32 [classes + 1]
    max_score: float

    def scores(self, images: np.ndarray) -> np.ndarray:
        """Returns the logarithms of the odds that images are not digits, float32 [n].

        Args:
            images: uint8 [n, 28, 28], preprocessed as MNIST's are.
        """
        cell = hidden = np.zeros((len(images), len(self.hidden)), np.float32)
        for row in (images.astype(np.float32) / 255).swapaxes(0, 1):
            gates = row @ self.row + hidden @ self.hidden + self.bias
            input_gate, forget, candidate, output = np.split(gates, 4, axis=-1)
            cell = expit(forget) * cell + expit(input_gate) * np.tanh(candidate)
            hidden = expit(output) * np.tanh(cell)
        logits = hidden @ self.head + self.head_bias
        return logits[:, -1] - logsumexp(logits[:, :-1], axis=-1)

    def is_digit(self, images: np.ndarray) -> np.ndarray:
        """Returns whether images are of digits, bool [n]; a blank one is not.

        Args:
            images: uint8 [n, 28, 28], preprocessed as MNIST's are.
        """
        return images.any((1, 2)) & (self.scores(images) <= self.max_score)


@functools.cache
def load() -> OutOfDistributionCheck:
    """Loads the check that is shipped with the package, as float16."""
    with np.load(PATH, allow_pickle=False) as file:
        arrays = {name: file[name].astype(np.float32) for name in file.files}
    return OutOfDistributionCheck(**arrays | {"max_score": float(arrays["max_score"])})
