"""Console output of a training run: header, progress and summary."""

import logging
import shlex
import textwrap

import numpy as np

from rnnmnist.config.resolving import RunTrainConfig
from rnnmnist.config.schema import LOAD_SETTINGS, is_user_defined
from rnnmnist.config.tasks import MIN_VALIDATION_EXAMPLES, Task
from rnnmnist.data.examples import Dataset
from rnnmnist.errors import escape_unprintable
from rnnmnist.evaluation.formatting import (
    format_counts,
    format_percent,
    format_result,
    format_split,
    format_validation,
)
from rnnmnist.runs import logs
from rnnmnist.runs.checkpoint_files import Header
from rnnmnist.runs.results import Result
from rnnmnist.runtime.jax_internals import process_count
from rnnmnist.runtime.mesh import platform_of
from rnnmnist.training.resume import Run

_logger = logging.getLogger(__name__)


class Progress:
    """Prints the progress of a run if `verbose` is set.

    If writing to standard output fails, training continues without output. Writing
    fails if standard output is closed, the disk is full, or the reader of a pipe has
    exited (`rnnmnist train | head`).
    """

    def __init__(self, config: RunTrainConfig, task: Task, *, verbose: bool) -> None:
        self.config = config
        self.task = task
        self.verbose = verbose

    def write(self, text: str) -> None:
        """Prints one or more lines."""
        if not self.verbose:
            return
        try:
            # Names in the data can contain terminal escape sequences.
            for line in text.split("\n"):
                print(escape_unprintable(line), flush=True)
        except (OSError, ValueError) as error:
            self.verbose = False
            _logger.warning(
                f"standard output cannot be written ({error}); training continues"
            )

    def start(self, members: int, parameters: int) -> None:
        """Prints the number of parameters, the number of steps and the batch size."""
        each = f"{members} x " if members > 1 else ""
        self.write(
            f"{each}{parameters:,} parameters, {self.config.num_steps:,} steps of "
            f"{self.config.batch_size:,} {self.task.noun}"
        )
        self.write("compiling the training step")

    def show(self, metrics: logs.StepMetrics) -> None:
        """Prints the metrics of training or validation."""
        accuracy = format_percent(metrics.accuracy)
        if metrics.split == "train":
            step, num_steps = metrics.step, self.config.num_steps
            examples_per_step = len(metrics.members) * self.config.batch_size
            speed = metrics.examples_per_second or 1
            seconds_left = (num_steps - step) * examples_per_step / speed
            self.write(
                f"step {step}/{num_steps}  {100 * step // num_steps} %  "
                f"loss {metrics.loss:.4f}  accuracy {accuracy}  "
                f"{speed:,.0f} {self.task.noun}/s  "
                f"{seconds_left:.0f} s left"
            )
        else:
            groups = ""
            if metrics.groups is not None:
                groups = f", groups: {metrics.groups:,}"
            self.write(
                f"step {metrics.step}  {format_split(metrics.split)} "
                f"loss {metrics.loss:.4f}  accuracy {accuracy} "
                f"({format_counts(metrics)}{groups})"
            )


def describe_run(run: Run) -> str:
    """Describes the network, the data set, the devices and the resume point."""
    record, config, dataset, mesh, completion, reason = run
    task, step = dataset.task, record.step
    seeds = f"seed {config.seed}"
    if config.num_seeds > 1:
        seeds = f"seeds {config.seeds[0]} to {config.seeds[-1]}"
    devices = f"{mesh.size} {platform_of(mesh)} device{'s' if mesh.size > 1 else ''}"
    if process_count() > 1:
        devices += f" of {process_count()} processes"
    location = record.workdir or "memory"
    lines = [
        f"{config.model.description} on {task.name}, {seeds}, {devices}, in {location}"
    ]
    if task.image_shape is None:
        lines.append(describe_sequences(dataset))
    if reason is not None and not step:
        chosen, other = "a trained network", "filters"
        if config.model.is_closed_form:
            chosen, other = "random filters", "lru"
        lines.append(f"{chosen}, {reason}; to override, set model.cell={other}")
    if completion is not None:
        hint = ""
        if step < config.train.num_steps:
            hint = "; to train on, set a larger train.patience, or none"
        lines.append(completion + hint)
    elif step:
        lines.append(f"resuming from step {step}")
    return "\n".join(lines)


def describe_sequences(dataset: Dataset) -> str:
    """Describes the sequences, and lists the validation groups."""
    task, train = dataset.task, dataset.splits["train"]
    features = textwrap.shorten(", ".join(task.feature_names), 100, placeholder=" …")
    classes = textwrap.shorten(", ".join(task.classes), 100, placeholder=" …")
    text = (
        f"{task.sizes} sequences for training / validation / test; at most "
        f"{task.time_steps:,} time steps; features: {features or task.features}; "
        f"classes: {classes}"
    )
    if train.lengths is not None:
        median = np.median(train.lengths)
        if task.time_steps > 3 * median:
            text += (
                f"\nhalf of the training sequences have at most {median:,.0f} time "
                f"steps, but all are padded to {task.time_steps:,}; to save time, "
                "shorten long sequences, or choose fewer features (data.features)"
            )
    if task.validation_groups:
        text += f"\nvalidation groups: {', '.join(task.validation_groups)}"
    return text


def summarize(
    run: Run,
    steps: int,
    result: Result | None,
    *,
    seconds: float,
    compiling: float,
) -> str:
    """Returns the results of a finished run, and commands that use its checkpoint."""
    record, config, task = run.record, run.config, run.dataset.task
    header = record.select("best")
    stop_reason = ""
    if steps < config.train.num_steps:
        reason = logs.describe_completion(record.lines, steps, config.train)
        stop_reason = f"; {reason or 'stopped by a callback'}"
    test = f"none: {task.name} has no test split"
    if result is not None and result.split == "test":
        test = format_result(result)
    examples = steps * header.config.train.batch_size
    flags = [f"--workdir={record.workdir}"]
    # The commands import custom functions only if a flag names them.
    for name, value in config.flat().items():
        if name in LOAD_SETTINGS and is_user_defined(name, value):
            flags.append(f"--config.{name}={value}")
    text = (
        f"\nsteps       {steps:,} ({examples:,} {task.noun}){stop_reason}\n"
        f"seconds     {seconds:.1f}, including {compiling:.1f} to compile\n"
        f"validation  {describe_validation(header)}\n"
        f"test        {test}"
    )
    if record.workdir is not None:
        text += (
            f"\ncheckpoint  {record.workdir / str(header.step)}\n"
            f"evaluate    rnnmnist evaluate {shlex.join(flags)}\n"
            f"report      rnnmnist report {shlex.join(flags)}"
        )
    return text


def describe_validation(header: Header) -> str:
    """Describes the validation metrics of a checkpoint, and why it was selected."""
    step, metrics = header.step, header.metrics
    if metrics is None:
        return f"none: no sequences were held out, so best is the last step, {step}"
    accuracy = format_validation(metrics)
    if header.config.model.is_closed_form:
        return accuracy
    if metrics.examples < MIN_VALIDATION_EXAMPLES:
        return (
            f"{accuracy}, at the last step, {step}: selection needs at least "
            f"{MIN_VALIDATION_EXAMPLES} validation examples"
        )
    criterion = ""
    if header.config.train.has_class_weights:
        criterion = " by balanced accuracy"
    return f"{accuracy}, best at step {step}{criterion}"
