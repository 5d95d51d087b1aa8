"""Compares an export with the original network on all examples of a split."""

import hashlib
from collections.abc import Callable
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING

import jax
import jax.export
import msgspec
import numpy as np

from rnnmnist.config.tasks import Task
from rnnmnist.data.examples import Examples, Inputs
from rnnmnist.errors import RunError
from rnnmnist.evaluation.network import Network
from rnnmnist.evaluation.predictions import find_lengths
from rnnmnist.exporting.formats import FORMATS
from rnnmnist.runtime.jax_defaults import jax_defaults
from rnnmnist.runtime.machine import installed_versions

if TYPE_CHECKING:
    from onnxruntime import InferenceSession

BATCH_SIZE = 128  # examples per call to an export
# The streaming model is called once per time step, so it is compared only on the first
# examples of a split.
NUM_STREAMED_EXAMPLES = 256
NUM_RANDOM_EXAMPLES = 256  # used if the data of the run are missing
# Two logits of an example tie if their difference is at most this fraction of the
# largest absolute logit, or of 1 if the largest absolute logit is below 1. Changing the
# order of summation changes logits by less.
TIE_TOLERANCE = 1e-4
# The tie tolerance for random filters. If many outputs of a filter are close to a
# threshold, rounding moves some of them across it. On PLAID, logits differ by 14 % of
# the largest logit for one of 215 recordings, and by at most 2 % for 99 % of them.
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
        ties: the number of these examples for which the logits of the two classes tie.
        max_abs_difference: the maximum absolute difference between logits.
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
def compare(
    artefact: Path,
    network: Network,
    task: Task,
    split: str,
    examples: Inputs,
    expected_logits: np.ndarray,
) -> Certificate:
    """Compares an export's predictions with the predictions of the original network.

    The export reads the examples in the format that its users pass (`exported_inputs`).
    `expected_logits`, [n, classes], are the calibrated logits of the network, which has
    read the examples in their stored dtype, as in `evaluate`.

    A streaming model, `step.onnx`, is compared on the first `NUM_STREAMED_EXAMPLES`
    examples.

    Raises:
        RunError: if a logit of the export is infinite or NaN.
    """
    format = artefact.suffix.removeprefix(".")
    if artefact.stem == "step":
        predict = load_onnx_step(artefact)
        inputs = streamed_inputs(network, examples)
        expected_logits = expected_logits[:NUM_STREAMED_EXAMPLES]
    else:
        predict = load_onnx(artefact) if format == "onnx" else load_stablehlo(artefact)
        inputs = exported_inputs(network, examples)
    count = len(expected_logits)
    batches = [
        slice(start, start + BATCH_SIZE) for start in range(0, count, BATCH_SIZE)
    ]
    logits = np.concatenate(
        [predict(*[array[batch] for array in inputs]) for batch in batches]
    )
    max_difference = float(np.abs(logits - expected_logits).max())
    if not np.isfinite(max_difference):  # the network has finite logits
        raise RunError(f"some logits of the {format} export are not finite")
    versions = installed_versions()
    versions |= {package: metadata.version(package) for package in FORMATS[format]}
    predictions = logits.argmax(axis=-1)
    is_different = predictions != expected_logits.argmax(axis=-1)
    # The network's logit for its own prediction minus its logit for the export's
    # prediction.
    margins = (
        expected_logits.max(axis=-1) - expected_logits[np.arange(count), predictions]
    )
    uses_filters = network.config.model.is_closed_form
    tolerance = FILTER_TIE_TOLERANCE if uses_filters else TIE_TOLERANCE
    is_tie = is_different & (
        margins <= tolerance * np.maximum(1, np.abs(expected_logits).max(axis=-1))
    )
    correct = None
    if isinstance(examples, Examples):
        correct = int((predictions == examples.labels[:count]).sum())
    return Certificate(
        dataset=task.name,
        split=split,
        step=network.checkpoint_step,
        params_sha256=network.params_sha256,
        artefact_sha256=hashlib.sha256(artefact.read_bytes()).hexdigest(),
        examples=count,
        correct=correct,
        differing=int(is_different.sum()),
        ties=int(is_tie.sum()),
        max_abs_difference=max_difference,
        versions=versions,
    )


def draw_inputs(network: Network) -> Inputs:
    """Draws random examples, to compare exports if the data of the run are missing.

    The features of sequences are normally distributed, with the mean and standard
    deviation of the training data. The pixels of images are uniformly distributed.
    """
    generator = np.random.default_rng(0)
    task, normalization = network.task, network.normalization
    if task.image_shape is not None:
        shape = (NUM_RANDOM_EXAMPLES, *task.image_shape)
        return Inputs(generator.integers(0, 256, shape, np.uint8))
    noise = generator.standard_normal(
        (NUM_RANDOM_EXAMPLES, task.time_steps, task.features)
    )
    values = normalization.mean + normalization.std * noise
    return Inputs(values, normalization=normalization)


def load_onnx(artefact: Path) -> Callable[..., np.ndarray]:
    """Loads an ONNX model as a function that maps inputs to logits."""
    session = _open_session(artefact)
    names = [argument.name for argument in session.get_inputs()]

    def predict(*inputs: np.ndarray) -> np.ndarray:
        (logits,) = session.run(["logits"], dict(zip(names, inputs, strict=True)))
        return logits

    return predict


def load_onnx_step(artefact: Path) -> Callable[..., np.ndarray]:
    """Loads a streaming ONNX model as a function that maps sequences to logits.

    The arguments of the function are the result of `streamed_inputs`. It calls the
    model once per time step.
    """
    session = _open_session(artefact)
    state_size = session.get_inputs()[0].shape[1]

    def predict(values: np.ndarray, lengths: np.ndarray) -> np.ndarray:
        state = np.zeros((len(values), state_size), np.float32)
        all_logits = []
        for time in range(lengths.max()):
            inputs = {"state": state, "features": values[:, time]}
            state, logits = session.run(["next_state", "logits"], inputs)
            all_logits.append(logits)
        return np.stack(all_logits)[lengths - 1, np.arange(len(lengths))]

    return predict


def _open_session(artefact: Path) -> "InferenceSession":
    import onnxruntime  # only this format requires it

    return onnxruntime.InferenceSession(artefact, providers=["CPUExecutionProvider"])


def load_stablehlo(artefact: Path) -> Callable[..., np.ndarray]:
    """Loads a StableHLO program as a function that maps inputs to logits.

    The function depends only on the content of the file.
    """
    exported = jax.export.deserialize(bytearray(artefact.read_bytes()))
    predict = jax.jit(exported.call)
    return lambda *inputs: np.asarray(predict(*inputs))


def exported_inputs(network: Network, examples: Inputs) -> tuple[np.ndarray, ...]:
    """Converts examples to the inputs of an exported network.

    The inputs are either images, uint8 [n, rows, columns], or sequences before
    normalization, float32 [n, time, features], and their lengths, int32 [n].
    """
    values = examples.raw(slice(None))
    if network.task.image_shape:
        return (values,)
    return values.astype(np.float32), find_lengths(examples, values.shape[1])


def streamed_inputs(network: Network, examples: Inputs) -> tuple[np.ndarray, ...]:
    """Converts examples to the inputs of a streaming model and their lengths.

    The inputs, float32 [n, time, features], are sequences before normalization. For
    images, they are the pixel values, from 0 to 1, in the order that `data.view`
    selects. The lengths are int32 [n].
    """
    inputs = exported_inputs(network, examples)
    if network.task.image_shape:
        values = network.view(*inputs)
        return values, find_lengths(examples, values.shape[1])
    return inputs
