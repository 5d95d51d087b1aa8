"""Validates during training, and stops runs early or after a signal."""

import math
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from msgspec.structs import asdict, replace

from rnnmnist.config.functions import Function, short_name
from rnnmnist.config.resolving import RunConfig, RunTrainConfig
from rnnmnist.config.tasks import MIN_VALIDATION_EXAMPLES
from rnnmnist.data.examples import Examples
from rnnmnist.errors import RunError, StoppedError, prefix_errors
from rnnmnist.evaluation.logit_metrics import compute_ensemble_metrics
from rnnmnist.evaluation.predictions import predict_logits
from rnnmnist.evaluation.probabilities import calibrate
from rnnmnist.models.parameters import Params
from rnnmnist.runs.logs import StepMetrics, describe_completion
from rnnmnist.runs.records import Record
from rnnmnist.runtime.distributed import max_over_processes
from rnnmnist.runtime.signals import StopFlag
from rnnmnist.training.state import Program

# Called with validation metrics. Returns True to stop the run, which can resume later.
Callback = Callable[[StepMetrics], bool | None]


def validate(
    config: RunConfig,
    program: Program,
    params: Params,
    examples: Examples,
    step: int,
) -> tuple[StepMetrics, float | None]:
    """Evaluates an ensemble's parameters on the validation split.

    Returns the metrics and the fitted temperature. The temperature is None if the split
    is too small to select a checkpoint.
    """
    with prefix_errors(f"cannot save step {step}"):
        logits = predict_logits(
            program.model, params, examples, program.transform.view, program.mesh
        )
    temperature = None
    if len(examples) >= MIN_VALIDATION_EXAMPLES:
        temperature = calibrate(logits, examples.labels)
    metrics = compute_step_metrics(config, logits, examples, step, "validation")
    means = {
        short_name(metric): average(metric, logits, examples.labels)
        for metric in program.objective.metrics
    }
    loss = config.train.loss
    if isinstance(loss, Function):  # replaces the cross-entropy
        members = []
        values = average(loss, logits, examples.labels)
        for member, value in zip(metrics.members, values, strict=True):
            if not math.isfinite(value):
                raise RunError(
                    f"step {step}: the validation loss for seed {member.seed} is "
                    f"{value}; change {short_name(loss)} (train.loss), or lower "
                    "train.learning_rate"
                )
            members.append(replace(member, loss=value))
        metrics = replace(metrics, members=tuple(members))
    return replace(metrics, metrics=means or None), temperature


def average(
    function: Function, logits: np.ndarray, labels: np.ndarray
) -> tuple[float, ...]:
    """Averages a custom loss or metric over the examples, for each ensemble member.

    Logits are float32 [ensemble, examples, classes]; labels are int32 [examples].
    """
    values = jax.vmap(function, in_axes=(0, None))(logits, jnp.asarray(labels))
    return tuple(np.asarray(values, np.float32).mean(axis=1, dtype=float).tolist())


def compute_step_metrics(
    config: RunConfig, logits: np.ndarray, examples: Examples, step: int, split: str
) -> StepMetrics:
    """Computes metrics from logits, [ensemble, examples, classes]."""
    metrics = compute_ensemble_metrics(logits, examples.labels, config.seed)
    return StepMetrics(**asdict(metrics), step=step, split=split)


def raise_if_stopped(stop: StopFlag, step: int, num_steps: int, record: Record) -> None:
    """Raises a `StoppedError` in all processes if any process has received a signal."""
    signal_number = max_over_processes(stop.signal_number)
    if not signal_number:
        return
    message = f"stopped at step {step} of {num_steps}, and nothing was saved"
    if step and record.workdir is not None:
        message = (
            f"saved step {step} of {num_steps} in {record.workdir}; start the run "
            "again to resume"
        )
    raise StoppedError(message, signal_number)


def should_stop(
    metrics: StepMetrics,
    config: RunTrainConfig,
    lines: list[StepMetrics],
    callback: Callback | None,
) -> bool:
    """Returns True if the callback or early stopping stops the run."""
    if callback is not None and callback(metrics):
        return True
    return describe_completion(lines, metrics.step, config) is not None
