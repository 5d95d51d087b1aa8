"""Validates during training, and stops runs early or after a signal."""

from collections.abc import Callable

import jax
import numpy as np
from msgspec.structs import asdict, replace

from rnnmnist.config.functions import Function
from rnnmnist.config.resolving import RunConfig, RunTrainConfig
from rnnmnist.config.tasks import MIN_VALIDATION_EXAMPLES
from rnnmnist.data.examples import Examples
from rnnmnist.errors import StoppedError, prefix_errors
from rnnmnist.evaluation.logit_metrics import compute_ensemble_metrics
from rnnmnist.evaluation.predictions import predict_logits
from rnnmnist.evaluation.probabilities import calibrate
from rnnmnist.models.parameters import Params
from rnnmnist.runs.logs import StepMetrics, describe_completion
from rnnmnist.runs.records import Record
from rnnmnist.runtime.distributed import broadcast, max_over_processes
from rnnmnist.runtime.signals import StopFlag
from rnnmnist.training.metric_functions import average_metrics
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
    means = average_metrics(program.objective.metrics, logits, examples.labels)
    if isinstance(config.train.loss, Function):  # replaces the cross-entropy
        losses = average_metrics([config.train.loss], logits, examples.labels)
        (values,) = losses.values()
        members = [
            replace(member, loss=value)
            for member, value in zip(metrics.members, values, strict=True)
        ]
        metrics = replace(metrics, members=tuple(members))
    return replace(metrics, metrics=means or None), temperature


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


def should_stop_early(
    metrics: StepMetrics,
    config: RunTrainConfig,
    record: Record,
    callback: Callback | None,
) -> bool:
    """Returns True if the callback or early stopping stops the run."""

    def decide() -> bool:
        if callback is not None and callback(metrics):
            return True
        return describe_completion(record.lines, metrics.step, config) is not None

    with jax.transfer_guard("allow"):  # the callback may copy arrays to the host
        return broadcast(decide)
