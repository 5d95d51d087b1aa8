"""The text that a training run prints, and parts of its error messages."""

import contextlib
import functools
import logging
import os
import shlex
import shutil
import sys
import sysconfig
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import TracebackType

import jax
import numpy as np
from jax.sharding import Mesh

from rnnmnist.config.resolving import RunConfig, RunTrainConfig
from rnnmnist.config.tasks import MIN_VALIDATION_EXAMPLES, Task
from rnnmnist.errors import erase_line, is_terminal
from rnnmnist.evaluation.metrics import (
    format_accuracies,
    format_counts,
    format_percent,
    format_result,
    format_split,
    format_validation,
)
from rnnmnist.runs import logs
from rnnmnist.runs.checkpoint_files import Header, read_header
from rnnmnist.runs.results import Result
from rnnmnist.runtime.jax_internals import process_count
from rnnmnist.runtime.library_logs import has_handlers
from rnnmnist.runtime.mesh import platform_of
from rnnmnist.training.optimizer import Schedule
from rnnmnist.training.step import UpdateStats

# The parts of a line of training that are left out first if a terminal is too narrow.
# The time left always stays.
LEAST_IMPORTANT = ("speed", "accuracy", "loss", "epoch", "step", "share")
_logger = logging.getLogger(__name__)
_warn_once = functools.cache(_logger.warning)
REMEDY = "lower train.learning_rate or set train.clip_norm"


def write(text: str, end: str = "\n") -> None:
    """Writes lines to standard output, or logs them if the caller's program does.

    It does if standard output is no terminal, and the logger `rnnmnist` has the level
    INFO and a handler: each line is then a record. Commands never do, whose logger has
    the level WARNING. A training does not end because the reader of its output has, as
    `| head` does, unless nobody reads standard error either.
    """
    is_logged = _logger.isEnabledFor(logging.INFO) and has_handlers(_logger)
    if is_logged and not is_terminal(sys.stdout):
        for line in filter(None, text.splitlines()):
            _logger.info(line)
        return
    try:
        print(text, end=end, flush=True)
    except BrokenPipeError:
        if os.path.sameopenfile(sys.stdout.fileno(), sys.stderr.fileno()):
            raise  # as after the kernel of a notebook was killed
        _warn_once("standard output has no reader any more; training goes on")


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

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self._is_drawn:
            write("")

    def start(self, networks: int, parameters: int, *, on_host: bool) -> None:
        """Prints the sizes of the networks and of the run, and where its data stay."""
        self.line(f"{_format_parameters(networks, parameters)}, {self._steps}")
        if on_host or self._noun == "sequences":
            where = "on the host" if on_host else "on the devices"
            self.line(f"training {self._noun} stay {where}")
        self.line("compiling the training step")

    def announce_closed_form(self, networks: int, parameters: int) -> None:
        """Prints the number of parameters that are fitted in closed form."""
        parameters_text = _format_parameters(networks, parameters)
        self.line(f"{parameters_text}, of the head, which is fitted in closed form")

    def show(self, metrics: logs.Metrics) -> None:
        """Prints the metrics of training or validation."""
        if metrics.split != "train":
            name = format_split(metrics.split)
            groups = ""
            if metrics.groups is not None:
                groups = f", groups: {metrics.groups:,}"
            self.line(
                f"step {metrics.step}  {name} loss {metrics.loss:.4f}  "
                f"accuracy {format_percent(metrics.accuracy)} "
                f"({format_counts(metrics)}{groups})"
            )
            return
        parts = self._training_parts(metrics)
        line = "  ".join(parts.values())
        erase = erase_line(sys.stdout)
        if not erase:  # not a terminal
            self.line(line)
            return
        for name in LEAST_IMPORTANT:
            if len(line) <= len(erase.strip("\r")):
                break
            del parts[name]
            line = "  ".join(parts.values())
        self.line(line, end="")

    def _training_parts(self, metrics: logs.Metrics) -> dict[str, str]:
        """Returns the parts of a line of training, by their names."""
        step = metrics.step
        seconds = time.monotonic() - self._started
        finished = max(1, step - self._first_step)
        seconds_left = seconds / finished * (self._num_steps - step)
        return {
            "epoch": f"epoch {step / self._steps_per_epoch:.1f}",
            "step": f"step {step}/{self._num_steps}",
            "share": f"{100 * step // self._num_steps} %",
            "loss": f"loss {metrics.loss:.4f}",
            "accuracy": f"accuracy {format_percent(metrics.accuracy)}",
            "speed": f"{metrics.examples_per_second:,.0f} {self._noun}/s",
            "left": f"{seconds_left:.0f} s left",
        }

    def line(self, text: str, end: str = "\n") -> None:
        """Prints a line, which replaces one on a terminal that has not ended."""
        if self._verbose:
            erase = erase_line(sys.stdout) if self._is_drawn else ""
            write(erase + text, end)
            self._is_drawn = not end


def _format_parameters(networks: int, parameters: int) -> str:
    """Formats the number of parameters of each network: `5 x 81,674 parameters`."""
    text = f"{parameters:,} parameters"
    return f"{networks} x {text}" if networks > 1 else text


def print_header(
    config: RunConfig,
    task: Task,
    workdir: Path,
    mesh: Mesh,
    step: int,
    complete: str | None,
    reason: str | None,
) -> None:
    """Prints network, data set, devices, and where the run resumes or is complete.

    `reason` says why the rule of `choose_config` has chosen the network, if it has.
    """
    seeds = f"seed {config.seed}"
    if config.num_seeds > 1:
        seeds = f"seeds {config.seeds[0]} to {config.seeds[-1]}"
    devices = f"{mesh.size} {platform_of(mesh)} device"
    if mesh.size > 1:
        devices += "s"
    if process_count() > 1:
        devices += f" of {process_count()} processes"
    write(
        f"{config.model.description} on {task.name}, {seeds}, {devices}, in {workdir}"
    )
    for line in describe_task(config, task):
        write(line)
    if reason is not None:
        chosen, other = "a trained network", "filters"
        if config.model.fitting == "closed_form":
            chosen, other = "random filters", "lru"
        write(f"{chosen}, {reason}; model.cell={other} chooses the other")
    if complete is not None:
        if step < config.train.num_steps:
            complete += "; train.patience=none or a larger one trains on"
        write(complete)
    elif step:
        write(f"resuming from step {step}")


def describe_task(config: RunConfig, task: Task) -> Iterator[str]:
    """Yields lines on a user's sequences, and on what a run decides by them."""
    if task.image_shape is None:
        features = format_first_ten(task.feature_names)
        classes = format_first_ten(task.classes)
        noun = "features" if task.features > 1 else "feature"
        yield (
            f"{task.sizes} sequences for training / validation / test, of at most "
            f"{task.time_steps:,} time steps with {task.features:,} {noun} "
            f"({features}), in {len(task.classes):,} classes: {classes}"
        )
    if task.validation_groups:
        yield f"validation on the groups {', '.join(task.validation_groups)}"
    class_weights = config.train.class_weight
    if isinstance(class_weights, tuple):
        weights = [f"{name}: {weight:g}" for name, weight in class_weights]
        yield f"class weights {', '.join(weights)}"


def format_first_ten(names: Sequence[str]) -> str:
    """Formats the first ten names, with an ellipsis if there are others."""
    text = ", ".join(names[:10])
    return f"{text}, …" if len(names) > 10 else text


def describe_rejection(config: RunConfig, stats: UpdateStats, step: int) -> str:
    """Describes update `step`, which was rejected.

    The statistics are on the host, and are those of this and of earlier updates.
    """
    row = int(np.argmin(stats.is_applied))
    network = int(np.argmin(stats.is_finite[row]))
    loss = stats.scores.loss[row, network] / config.train.batch_size
    with jax.transfer_guard("allow"):
        rate = float(Schedule.create(config.train)(step))
    return (
        f"{config.seed_suffix(network)} was not applied: its loss is {loss} and its "
        f"gradient norm {stats.grad_norm[row, network]}; one of them or an updated "
        f"parameter is not finite at learning rate {rate:.3g}"
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
    task = header.task
    examples = steps * header.config.train.batch_size
    flags = [f"--workdir={workdir}"]
    if config.model.is_user_cell:  # these commands import such a cell only if named
        flags.append(f"--config.model.cell={config.model.cell}")
    test = f"none: {task.name} has no test split"
    if result is not None and result.split == "test":
        test = format_result(result)
    early_end = ""
    if steps < config.train.num_steps:
        reason = logs.completion(workdir, steps, config.train)
        early_end = f"; {reason or 'ended by a callback'}"
    write(
        f"\nsteps       {steps:,} ({examples:,} {task.noun}){early_end}\n"
        f"seconds     {seconds['total']:.1f} (data {seconds['data']:.1f}, compile "
        f"{seconds['compile']:.1f}, train {seconds['train']:.1f})\n"
        f"validation  {describe_validation(header)}\n"
        f"test        {test}\n"
        f"checkpoint  {workdir / str(best)}\n"
        f"evaluate    {_format_command('evaluate')} {shlex.join(flags)}\n"
        f"report      {_format_command('report')} {shlex.join(flags)}"
    )


def _format_command(name: str) -> str:
    """Formats a command as the user's shell finds it: `rnnmnist evaluate`.

    If the environment of this interpreter is not active, it is a call of its module.
    """
    script = Path(sysconfig.get_path("scripts"), "rnnmnist")
    if shutil.which("rnnmnist") == str(script):
        return f"rnnmnist {name}"
    python = Path("python")
    interpreter = Path(sys.executable)
    if interpreter.is_relative_to(Path.cwd()):
        python = interpreter.relative_to(Path.cwd())
    return f"{python} -m rnnmnist {name}"


def describe_validation(header: Header) -> str:
    """Describes the scores of a checkpoint's validation, and why it was selected."""
    step, scores = header.step, header.metrics
    if scores is None:
        return f"none: no sequences were held out; best is the last step, {step}"
    if header.config.model.fitting == "closed_form":
        return format_validation(scores)
    accuracies = format_accuracies(scores)
    if scores.examples < MIN_VALIDATION_EXAMPLES:
        return (
            f"{accuracies}, at the last step, {step}: fewer than "
            f"{MIN_VALIDATION_EXAMPLES} validation examples do not select one"
        )
    criterion = ""
    if header.config.train.has_class_weights:
        criterion = " by balanced accuracy"
    return f"{accuracies}, best at step {step}{criterion}"
