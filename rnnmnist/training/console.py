"""Console output of a training run: header, progress and summary."""

import logging
import shlex

from rnnmnist.config.resolving import RunTrainConfig
from rnnmnist.config.schema import LOAD_SETTINGS, is_custom
from rnnmnist.config.tasks import MIN_VALIDATION_EXAMPLES, Task
from rnnmnist.errors import escape_unprintable
from rnnmnist.evaluation.formatting import (
    format_accuracies,
    format_counts,
    format_percent,
    format_split,
    format_validation,
)
from rnnmnist.runs import logs
from rnnmnist.runs.checkpoint_files import Header
from rnnmnist.runs.metrics import Result
from rnnmnist.runtime.jax_internals import process_count
from rnnmnist.runtime.mesh import mesh_platform
from rnnmnist.training.resume import Run

_logger = logging.getLogger(__name__)


class Progress:
    """Prints the progress of a run if `verbose` is True.

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
                f"cannot write to standard output ({error}); training continues"
            )

    def start(self, num_members: int, num_parameters: int) -> None:
        """Prints the numbers of parameters and steps, and the batch size."""
        prefix = f"{num_members} x " if num_members > 1 else ""
        self.write(
            f"{prefix}{num_parameters:,} parameters, {self.config.num_steps:,} steps "
            f"of {self.config.batch_size:,} {self.task.noun}"
        )
        self.write("compiling the training step")

    def show(self, metrics: logs.StepMetrics) -> None:
        """Prints a line of training or validation metrics."""
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
            self.write(
                f"step {metrics.step}  {format_split(metrics.split)} "
                f"loss {metrics.loss:.4f}  accuracy {accuracy} "
                f"({format_counts(metrics)})"
            )


def describe_run(run: Run) -> str:
    """Describes the network, the data set, the devices and the resume point."""
    record, config, dataset, mesh, completion, reason = run
    task, step = dataset.task, record.step
    lines = [
        f"{config.model.description} on {task.name}, first seed {config.seed}, "
        f"{mesh_platform(mesh)} devices: {mesh.size}, processes: {process_count()}, in "
        f"{record.workdir or 'memory'}"
    ]
    if task.image_shape is None:
        lines.append(describe_sequences(task))
    if reason is not None and not step:
        network, other_cell = "a trained network", "filters"
        if config.model.is_closed_form:
            network, other_cell = "random filters", "lru"
        lines.append(f"{network}, {reason}; to override, set model.cell={other_cell}")
    if completion is not None:
        lines.append(completion)
    elif step:
        lines.append(f"resuming from step {step}")
    return "\n".join(lines)


def describe_sequences(task: Task) -> str:
    """Describes the sequences."""
    return (
        f"{task.sizes} sequences for training / validation / test; at most "
        f"{task.time_steps:,} time steps; features: {task.features}; classes: "
        f"{len(task.classes)}"
    )


def summarize(
    run: Run,
    step: int,
    result: Result | None,
    *,
    seconds: float,
    compile_seconds: float,
) -> str:
    """Describes the results of a finished run, with commands for its checkpoint."""
    record, config, task = run.record, run.config, run.dataset.task
    header = record.select("best")
    stop_reason = ""
    if step < config.train.num_steps:
        reason = logs.describe_completion(record.lines, step, config.train)
        stop_reason = f"; {reason or 'stopped by a callback'}"
    test = f"none: {task.name} has no test split"
    if result is not None and result.split == "test":
        test = format_accuracies(result)
    examples = step * header.config.train.batch_size
    flags = [f"--workdir={record.workdir}"]
    # Commands import a custom function only if a flag specifies the function.
    for name, value in config.flat().items():
        if name in LOAD_SETTINGS and is_custom(name, value):
            flags.append(f"--config.{name}={value}")
    text = (
        f"\nsteps       {step:,} ({examples:,} {task.noun}){stop_reason}\n"
        f"seconds     {seconds:.1f}, including {compile_seconds:.1f} for compilation\n"
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
    """Describes the validation of the selected checkpoint, and how it was selected."""
    step, metrics = header.step, header.metrics
    if metrics is None:
        return f"none: no sequences were held out; the last step, {step}, is selected"
    if header.config.model.is_closed_form:
        return format_validation(metrics)
    reason = "best at step"
    if metrics.examples < MIN_VALIDATION_EXAMPLES:
        reason = (
            f"fewer than {MIN_VALIDATION_EXAMPLES} examples, so the last step is used:"
        )
    return f"{format_validation(metrics)}, {reason} {step}"
