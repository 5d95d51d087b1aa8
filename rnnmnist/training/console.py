"""The text that a training run prints, and parts of its error messages."""

import contextlib
import shlex
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import jax
import numpy as np
from jax.sharding import Mesh

from rnnmnist.config.resolving import RunConfig, RunTrainConfig
from rnnmnist.config.tasks import MIN_VALIDATION_EXAMPLES, Task
from rnnmnist.errors import erase_line
from rnnmnist.evaluation.metrics import (
    format_accuracies,
    format_counts,
    format_percent,
    format_result,
)
from rnnmnist.runs import logs
from rnnmnist.runs.checkpoint_files import read_header
from rnnmnist.runs.results import Result
from rnnmnist.runtime.jax_internals import process_count
from rnnmnist.runtime.mesh import platform_of
from rnnmnist.training.optimizer import Schedule
from rnnmnist.training.step import UpdateStats

REMEDY = "lower train.learning_rate or set train.clip_norm"


class Progress(contextlib.AbstractContextManager["Progress"]):
    """Prints the progress of a run that has finished `step` steps, unless quiet.

    A terminal has one line of training, which ends when the context is left.
    """

    def __init__(
        self, config: RunTrainConfig, task: Task, step: int, *, verbose: bool
    ) -> None:
        self._verbose = verbose
        self._noun = task.noun
        self._first_step = step
        self._num_steps = config.num_steps
        self._steps = f"{config.num_steps:,} steps of {config.batch_size:,} {task.noun}"
        self._steps_per_epoch = task.examples["train"] / config.batch_size
        self._started = time.monotonic()
        self._is_drawn = False  # a line that has not ended

    def __exit__(self, *error: object) -> None:
        if self._is_drawn:
            print(flush=True)

    def start(self, networks: int, parameters: int, *, on_host: bool) -> None:
        """Prints the sizes of the networks and of the run, and where its data stay."""
        of_networks = f"{networks} x " if networks > 1 else ""
        self.line(f"{of_networks}{parameters:,} parameters, {self._steps}")
        if on_host or self._noun == "sequences":
            where = "on the host" if on_host else "on the devices"
            self.line(f"training {self._noun} stay {where}")
        self.line("compiling the training step")

    def show(self, metrics: logs.Metrics) -> None:
        """Prints the metrics of training or validation."""
        step = metrics.step
        accuracy = format_percent(metrics.accuracy)
        if metrics.split == "validation":
            self.line(
                f"step {step}  validation loss {metrics.loss:.4f}  accuracy {accuracy} "
                f"({format_counts(metrics)})"
            )
            return
        seconds = time.monotonic() - self._started
        done = max(1, step - self._first_step)
        left = seconds / done * (self._num_steps - step)
        parts = [
            f"epoch {step / self._steps_per_epoch:.1f}",
            f"step {step}/{self._num_steps}",
            f"{100 * step // self._num_steps} %",
            f"loss {metrics.loss:.4f}",
            f"accuracy {accuracy}",
            f"{metrics.examples_per_second:,.0f} {self._noun}/s",
            f"{left:.0f} s left",
        ]
        erase = erase_line(sys.stdout)
        while erase and len("  ".join(parts)) > len(erase) - 2 and len(parts) > 1:
            parts.pop(-2 if len(parts) > 4 else 0)  # first the speed, last the share
        self.line("  ".join(parts), end="" if erase else "\n")

    def line(self, text: str, end: str = "\n") -> None:
        """Prints a line, in place of one that has not ended."""
        if self._verbose:
            erase = erase_line(sys.stdout) if self._is_drawn else ""
            print(erase + text, end=end, flush=True)
            self._is_drawn = not end


def print_header(
    config: RunConfig,
    task: Task,
    workdir: Path,
    mesh: Mesh,
    step: int,
    complete: str | None,
) -> None:
    """Prints network, data set, devices, and where the run resumes or is complete."""
    seeds = f"seed {config.seed}"
    if config.num_seeds > 1:
        seeds = f"seeds {config.seeds[0]} to {config.seeds[-1]}"
    devices = f"{mesh.size} {platform_of(mesh)} device{'s' if mesh.size > 1 else ''}"
    if process_count() > 1:
        devices += f" of {process_count()} processes"
    print(
        f"{config.model.cell_name} with {config.model.size} on "
        f"{task.name}, {seeds}, {devices}, in {workdir}"
    )
    if task.image_shape is None:
        print(
            f"{task.sizes} sequences for training / validation / test, of at most "
            f"{task.time_steps:,} time steps with {task.features:,} features "
            f"({first_ten(task.feature_names)}), in {len(task.classes):,} classes: "
            f"{first_ten(task.classes)}"
        )
    if task.validation_groups:
        print(f"validation on the groups {', '.join(task.validation_groups)}")
    if isinstance(weights := config.train.class_weight, tuple):
        print("class weights " + ", ".join(f"{name}: {w:g}" for name, w in weights))
    if complete is not None:
        if step < config.train.num_steps:
            complete += "; train.patience=none or a larger one trains on"
        print(complete)
    elif step:
        print(f"resuming from step {step}")


def first_ten(names: Sequence[str]) -> str:
    """Returns the first ten names as text."""
    return ", ".join(names[:10]) + (", …" if len(names) > 10 else "")


def describe_rejection(config: RunConfig, stats: UpdateStats, step: int) -> str:
    """Describes the update after `step`, which was rejected; arrays are NumPy's."""
    index = int(np.argmin(stats.finite))
    with jax.transfer_guard("allow"):
        rate = float(Schedule.create(config.train)(step))
    return (
        f"{config.seed_suffix(index)} was not applied: its loss is "
        f"{stats.last_loss[index]} and its gradient norm "
        f"{stats.last_norm[index]}; one of them or an updated parameter is not "
        f"finite at learning rate {rate:.3g}"
    )


def print_summary(
    workdir: Path,
    steps: int,
    config: RunConfig,
    result: Result | None,
    seconds: dict[str, float],
) -> None:
    """Prints the results of a run that has ended and the commands that read them."""
    best = steps if result is None else result.step
    header = read_header(workdir, best)
    task, validation = header.task, header.metrics
    examples = steps * header.config.train.batch_size
    if validation is None:
        validated = f"none: no sequences were held out; best is the last step, {best}"
    elif validation.examples < MIN_VALIDATION_EXAMPLES:
        validated = (
            f"{format_accuracies(validation)}, at the last step, {best}: fewer than "
            f"{MIN_VALIDATION_EXAMPLES} validation examples do not select one"
        )
    else:
        is_weighted = header.config.train.has_class_weights
        by = " by balanced accuracy" if is_weighted else ""
        validated = f"{format_accuracies(validation)}, best at step {best}{by}"
    validated += task.validation_note
    flags = [f"--workdir={workdir}"]
    if config.model.is_user_cell:  # which these commands do not import unnamed
        flags.append(f"--config.model.cell={config.model.cell}")
    python = Path("python")
    interpreter = Path(sys.executable)
    if interpreter.is_relative_to(Path.cwd()):  # need not be activated
        python = interpreter.relative_to(Path.cwd())
    test = f"none: {task.name} has no test split"
    if result is not None and result.split == "test":
        test = format_result(result)
    early = ""
    if steps < config.train.num_steps:
        reason = logs.completion(workdir, steps, config.train)
        early = f"; {reason or 'ended by a callback'}"
    print(
        f"\nsteps       {steps:,} ({examples:,} {task.noun}){early}\n"
        f"seconds     {seconds['total']:.1f} (data {seconds['data']:.1f}, compile "
        f"{seconds['compile']:.1f}, train {seconds['train']:.1f})\n"
        f"validation  {validated}\n"
        f"test        {test}\n"
        f"checkpoint  {workdir / str(best)}\n"
        f"evaluate    {python} -m rnnmnist.evaluate {shlex.join(flags)}\n"
        f"report      {python} -m rnnmnist.report {shlex.join(flags)}"
    )
