"""Compares an export with the network of its run, on all examples of a split."""

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

BATCH = 128  # examples that an export gets at a time
# The first examples of a split, with which the model of a time step is compared: it is
# called for each of their time steps.
STREAMED = 256
DRAWN = 256  # examples of a comparison without the data of the run
# Two logits of an example tie if they differ by at most this part of its largest one.
# Sums in another order differ less.
TOLERANCE = 1e-4
# The same for random filters. Where their outputs are dense, those that are rounded
# differently are on the other side of some thresholds. On PLAID, one recording of 215
# has logits that differ by 0.14 of the largest one, 99 % by at most 0.02.
TOLERANCE_OF_FILTERS = 0.2


class Certificate(msgspec.Struct, frozen=True, kw_only=True):
    """The result of a comparison, as in `certificate.json`.

    Attributes:
        dataset: the name of the data.
        split: `test`, or, in a run without one, `validation` or else `train`; `drawn`
            if the data of the run were missing, and the examples were drawn.
        step: the step of the checkpoint.
        params_sha256: as in result files.
        artefact_sha256: the SHA-256 of the file.
        examples: the number of examples.
        correct: the number of predictions of the export that are the label; None if the
            examples were drawn.
        differing: the number of predictions that are not the network's.
        ties: the number of differing predictions of classes whose logits tie.
        max_abs_difference: the largest difference between logits.
        versions: the versions of libraries, by their names.
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
    """Compares an export with its network, for the examples of a split, or drawn ones.

    The network has read the examples in their own type, as `evaluate` does. The export
    reads what its users pass: the result of `exported_inputs`. The model of a time step
    reads one after another of the first examples. `expected` has the calibrated logits
    of the network, or of the ensemble, [n, classes].

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
    largest_difference = float(np.abs(logits - expected).max())
    if not np.isfinite(largest_difference):  # the network has finite logits
        raise RunError(f"the logits of the {name} export are not finite")
    versions = installed_versions()
    versions |= {package: metadata.version(package) for package in FORMATS[name]}
    predicted = logits.argmax(axis=-1)
    differs = predicted != expected.argmax(axis=-1)
    # A margin says by how much the network prefers its prediction to the export's.
    margins = expected.max(axis=-1) - expected[np.arange(count), predicted]
    uses_filters = run.config.model.is_closed_form
    tolerance = TOLERANCE_OF_FILTERS if uses_filters else TOLERANCE
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
        max_abs_difference=largest_difference,
        versions=versions,
    )


def draw_inputs(run: Network) -> Inputs:
    """Draws inputs for a comparison without the data of a run.

    The values of sequences are normal, with the mean and deviation of each feature in
    the training. Grey levels of images are uniform.
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
    """Returns the function from inputs to logits that an ONNX model computes."""
    session = _open_session(artefact)
    names = [argument.name for argument in session.get_inputs()]

    def predict(*inputs: np.ndarray) -> np.ndarray:
        (logits,) = session.run(["logits"], dict(zip(names, inputs, strict=True)))
        return logits

    return predict


def load_onnx_step(artefact: Path) -> Callable[..., np.ndarray]:
    """Returns the function from inputs to logits that an ONNX time step computes.

    The function takes whole sequences as `streamed_inputs` returns them, and gives the
    model one time step after another.
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
    import onnxruntime  # only this format needs it

    return onnxruntime.InferenceSession(artefact, providers=["CPUExecutionProvider"])


def load_stablehlo(artefact: Path) -> Callable[..., np.ndarray]:
    """Returns the function from inputs to logits that a StableHLO program computes.

    It is compiled from the bytes of the file, which contain nothing of this process.
    """
    exported = jax.export.deserialize(bytearray(artefact.read_bytes()))
    predict = jax.jit(exported.call)
    return lambda *inputs: np.asarray(predict(*inputs))


def exported_inputs(run: Network, examples: Inputs) -> tuple[np.ndarray, ...]:
    """Returns examples as an exported network takes them.

    They are images, uint8 [n, rows, columns]; or sequences before normalization,
    float32 [n, time, features], and their lengths, int32 [n].
    """
    values = examples.raw(slice(None))
    if run.task.image_shape:
        return (values,)
    return values.astype(np.float32), find_lengths(examples, values.shape[1])


def streamed_inputs(run: Network, examples: Inputs) -> tuple[np.ndarray, ...]:
    """Returns examples as the model of a time step takes them, and their lengths.

    A time step has grey levels from 0 to 1 in the order of the view, or the features of
    a sequence before normalization. The result is float32 [n, time, features] and int32
    [n].
    """
    inputs = exported_inputs(run, examples)
    if run.task.image_shape:
        values = run.view(*inputs)
        return values, find_lengths(examples, values.shape[1])
    return inputs
