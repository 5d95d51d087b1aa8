"""Compares the predictions of an export and the original network."""

from collections.abc import Callable

import msgspec
import numpy as np

from rnnmnist.data.examples import Inputs
from rnnmnist.evaluation.network import Network
from rnnmnist.evaluation.predictions import find_lengths
from rnnmnist.runtime.jax_defaults import jax_defaults

BATCH_SIZE = 128  # examples per call to an export
NUM_RANDOM_EXAMPLES = 256  # drawn if the data of the run are missing
# Two logits of an example tie if their difference is at most this fraction of the
# largest absolute logit, or of 1 if the largest absolute logit is below 1. A different
# order of summation changes logits by less than this tolerance.
TIE_TOLERANCE = 1e-4
# The tie tolerance for random filters. If many outputs of a filter are close to a
# threshold, rounding moves some of these outputs across the threshold. On PLAID, logits
# differ by 14 % of the largest logit for one of 215 recordings, and by at most 2 % for
# 99 % of the recordings.
FILTER_TIE_TOLERANCE = 0.2


class Certificate(msgspec.Struct, frozen=True, kw_only=True):
    """The result of a comparison, as saved in `certificate.json`.

    Attributes:
        dataset: the name of the data set.
        split: the first of `test`, `validation` and `train` that the run has. If the
            data of the run are missing, `drawn`, for random examples.
        step: the step of the checkpoint.
        params_sha256: the SHA-256 of the parameters, as in result files.
        artefact_sha256: the SHA-256 of the exported file.
        examples: the number of examples.
        correct: the number of correct predictions of the export; None for random
            examples.
        differing: the number of examples for which the export and the network predict
            different classes.
        ties: the number of differing examples for which the network's logits of the two
            classes tie.
        max_abs_difference: the maximum absolute difference between the logits of the
            export and the network.
        versions: the version of each library.
    """

    dataset: str
    split: str
    step: int
    params_sha256: str
    artefact_sha256: str
    examples: int
    correct: int | None
    differing: int
    ties: int
    max_abs_difference: float
    versions: dict[str, str]


@jax_defaults()
def predict_logits(
    predict: Callable[..., np.ndarray], inputs: tuple[np.ndarray, ...]
) -> np.ndarray:
    """Computes the logits of an export in batches, [n, classes].

    `inputs` is the result of `exported_inputs`.
    """
    batches = []
    for start in range(0, len(inputs[0]), BATCH_SIZE):
        batch = slice(start, start + BATCH_SIZE)
        batches.append(predict(*[array[batch] for array in inputs]))
    return np.concatenate(batches)


def count_differences(
    logits: np.ndarray, expected_logits: np.ndarray, tie_tolerance: float
) -> tuple[int, int]:
    """Counts the examples with different predictions, and the ties among them.

    Args:
        logits: logits of the export, [n, classes].
        expected_logits: logits of the network, [n, classes].
        tie_tolerance: `TIE_TOLERANCE` or `FILTER_TIE_TOLERANCE`.
    """
    predictions = logits.argmax(axis=-1)
    is_different = predictions != expected_logits.argmax(axis=-1)
    max_logits = expected_logits.max(axis=-1)
    margins = max_logits - expected_logits[np.arange(len(logits)), predictions]
    scales = np.maximum(1, np.abs(expected_logits).max(axis=-1))
    is_tie = is_different & (margins <= tie_tolerance * scales)
    return int(is_different.sum()), int(is_tie.sum())


def draw_inputs(network: Network) -> Inputs:
    """Draws random examples for the comparison if the data of the run are missing.

    The features of sequences are normally distributed, with the mean and standard
    deviation of the training data. The pixels of images are uniformly distributed.
    """
    generator = np.random.default_rng(0)
    task, normalization = network.task, network.normalization
    if task.image_shape is not None:
        image_shape = (NUM_RANDOM_EXAMPLES, *task.image_shape)
        return Inputs(generator.integers(0, 256, image_shape, np.uint8))
    shape = (NUM_RANDOM_EXAMPLES, task.time_steps, task.features)
    values = generator.normal(normalization.mean, normalization.std, shape)
    return Inputs(values, normalization=normalization)


def exported_inputs(network: Network, examples: Inputs) -> tuple[np.ndarray, ...]:
    """Converts examples to the inputs of an exported network.

    Returns images, uint8 [n, rows, columns], or two arrays: sequences before
    normalization, float32 [n, time, features], and their lengths, int32 [n].
    """
    values = examples.raw(slice(None))
    if network.task.image_shape:
        return (values,)
    return values.astype(np.float32), find_lengths(examples, values.shape[1])
