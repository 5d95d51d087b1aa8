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

BATCH = 128  # examples per call of an export
# The streaming model is called once per time step, so it is compared only on the first
# examples of a split.
STREAMED = 256
DRAWN = 256  # random examples, if the data of the run are missing
# Two logits of an example tie if their difference is at most this fraction of the
# largest absolute logit, or of 1 if all are smaller. A different order of summation
# changes logits by less.
TOLERANCE = 1e-4
# The tolerance for random filters. Where the outputs of a filter are dense, rounding
# moves some of them across a threshold. On PLAID, the difference is 0.14 of the largest
# logit for one of 215 recordings, and at most 0.02 for 99 % of them.
FILTER_TOLERANCE = 0.2


class Certificate(msgspec.Struct, frozen=True, kw_only=True):
    """The result of a comparison, as saved in `certificate.json`.

    Attributes:
        dataset: the name of the data set.
        split: `test`; `validation` or else `train` if the run has no test split;
            `drawn` for random examples, if the data of the run are missing.
        step: the step of the checkpoint.
        params_sha256: the SHA-256 of the parameters, as in result files.
        artefact_sha256: the SHA-256 of the exported file.
        examples: the number of examples.
        correct: the number of correct predictions of the export; None for random
            examples.
        differing: the number of examples for which export and network predict
            different classes.
        ties: the number of differing predictions between classes whose logits tie.
        max_abs_difference: the largest absolute difference between logits.
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
    run: Network,
    task: Task,
    split: str,
    examples: Inputs,
    expected: np.ndarray,
) -> Certificate:
    """Compares the predictions of an export and of its network.

    The export reads examples as its users pass them (`exported_inputs`). The network
    has read examples in their stored type, as in `evaluate`: `expected`, [n, classes],
    contains its calibrated logits. A streaming model, `step.onnx`, is compared on the
    first `STREAMED` examples.

    Raises:
        RunError: if a logit of the export is infinite or NaN.
    """
    name = artefact.suffix.removeprefix(".")
    if artefact.stem == "step":
        predict = load_onnx_step(artefact)
        inputs = streamed_inputs(run, examples)
        expected = expected[:STREAMED]
    else:
        predict = load_onnx(artefact) if name == "onnx" else load_stablehlo(artefact)
        inputs = exported_inputs(run, examples)
    count = len(expected)
    batches = [slice(start, start + BATCH) for start in range(0, count, BATCH)]
    logits = np.concatenate(
        [predict(*[array[batch] for array in inputs]) for batch in batches]
    )
    max_difference = float(np.abs(logits - expected).max())
    if not np.isfinite(max_difference):  # the network has finite logits
        raise RunError(f"the logits of the {name} export are not finite")
    versions = installed_versions()
    versions |= {package: metadata.version(package) for package in FORMATS[name]}
    predicted = logits.argmax(axis=-1)
    differs = predicted != expected.argmax(axis=-1)
    # The network's logit for its own prediction minus its logit for the export's.
    margins = expected.max(axis=-1) - expected[np.arange(count), predicted]
    uses_filters = run.config.model.is_closed_form
    tolerance = FILTER_TOLERANCE if uses_filters else TOLERANCE
    is_close = margins <= tolerance * np.maximum(1, np.abs(expected).max(axis=-1))
    correct = None
    if isinstance(examples, Examples):
        correct = int((predicted == examples.labels[:count]).sum())
    return Certificate(
        dataset=task.name,
        split=split,
        step=run.checkpoint_step,
        params_sha256=run.params_sha256,
        artefact_sha256=hashlib.sha256(artefact.read_bytes()).hexdigest(),
        examples=count,
        correct=correct,
        differing=int(differs.sum()),
        ties=int((differs & is_close).sum()),
        max_abs_difference=max_difference,
        versions=versions,
    )


def draw_inputs(run: Network) -> Inputs:
    """Draws random inputs for a comparison without the data of the run.

    Sequences are normally distributed, with the mean and standard deviation of each
    feature in the training data. Images have uniform grey levels.
    """
    generator = np.random.default_rng(0)
    task, normalization = run.task, run.normalization
    if task.image_shape is not None:
        shape = (DRAWN, *task.image_shape)
        return Inputs(generator.integers(0, 256, shape, np.uint8))
    noise = generator.standard_normal((DRAWN, task.time_steps, task.features))
    values = normalization.mean + normalization.std * noise
    return Inputs(values, normalization=normalization)


def load_onnx(artefact: Path) -> Callable[..., np.ndarray]:
    """Loads an ONNX model as a function from inputs to logits."""
    session = _open_session(artefact)
    names = [argument.name for argument in session.get_inputs()]

    def predict(*inputs: np.ndarray) -> np.ndarray:
        (logits,) = session.run(["logits"], dict(zip(names, inputs, strict=True)))
        return logits

    return predict


def load_onnx_step(artefact: Path) -> Callable[..., np.ndarray]:
    """Loads a streaming ONNX model as a function from whole sequences to logits.

    The function takes the result of `streamed_inputs`, and calls the model once for
    every time step.
    """
    session = _open_session(artefact)
    state_size = session.get_inputs()[0].shape[1]

    def predict(values: np.ndarray, lengths: np.ndarray) -> np.ndarray:
        state = np.zeros((len(values), state_size), np.float32)
        over_time = []
        for time in range(lengths.max()):
            inputs = {"state": state, "features": values[:, time]}
            state, logits = session.run(["next_state", "logits"], inputs)
            over_time.append(logits)
        return np.stack(over_time)[lengths - 1, np.arange(len(lengths))]

    return predict


def _open_session(artefact: Path) -> "InferenceSession":
    import onnxruntime  # needed only for this format

    return onnxruntime.InferenceSession(artefact, providers=["CPUExecutionProvider"])


def load_stablehlo(artefact: Path) -> Callable[..., np.ndarray]:
    """Loads a StableHLO program as a function from inputs to logits.

    Only the bytes of the file are compiled, without any state of this process.
    """
    exported = jax.export.deserialize(bytearray(artefact.read_bytes()))
    predict = jax.jit(exported.call)
    return lambda *inputs: np.asarray(predict(*inputs))


def exported_inputs(run: Network, examples: Inputs) -> tuple[np.ndarray, ...]:
    """Returns examples as inputs of an exported network.

    The inputs are either images, uint8 [n, rows, columns], or sequences before
    normalization, float32 [n, time, features], with their lengths, int32 [n].
    """
    values = examples.raw(slice(None))
    if run.task.image_shape:
        return (values,)
    return values.astype(np.float32), find_lengths(examples, values.shape[1])


def streamed_inputs(run: Network, examples: Inputs) -> tuple[np.ndarray, ...]:
    """Returns examples as inputs of a streaming model, with their lengths.

    The inputs, float32 [n, time, features], are grey levels from 0 to 1 in the pixel
    order of the view, or sequences before normalization. The lengths are int32 [n].
    """
    inputs = exported_inputs(run, examples)
    if run.task.image_shape:
        values = run.view(*inputs)
        return values, find_lengths(examples, values.shape[1])
    return inputs
