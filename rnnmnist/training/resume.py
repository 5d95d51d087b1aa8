"""Resuming: the step to resume from, and the settings that may change."""

import contextlib
import logging
from pathlib import Path

from rnnmnist.config.schema import SETTINGS, Config
from rnnmnist.config.tasks import Task
from rnnmnist.errors import UserError
from rnnmnist.runs.checkpoints import (
    DamagedError,
    find_fault,
    list_steps,
    quarantine,
    read_header,
)
from rnnmnist.runs.workdir import check_free

_logger = logging.getLogger(__name__)


def check_workdir(config: Config, workdir: Path) -> None:
    """Checks before the data are read that a run may train in a workdir."""
    check_free(workdir)
    step_to_resume(config, workdir)


def step_to_resume(config: Config, workdir: Path) -> int:
    """Returns the newest checkpoint's step, 0 if there is none."""
    step = _newest_readable_step(workdir)
    if not step:
        return 0
    header = read_header(workdir, step)
    # Before the data are read, the batch is not yet reduced to their number.
    batch_size = min(config.train.batch_size, header.task.examples.train)
    config = config.replace({"train.batch_size": batch_size})
    if not header.has_training_state:
        raise UserError(
            f"workdir: {workdir} holds parameters only, which cannot be trained on; "
            "name another workdir"
        )
    refused = [
        f"{name}={new} (checkpoint: {old})"
        for name, (old, new) in _changes(header.config, config).items()
        if SETTINGS[name].resume == "refused"
    ]
    if refused:
        raise UserError(
            f"workdir: step {step} in {workdir} belongs to another run: "
            f"{', '.join(refused)}; name another workdir, or use the checkpoint's "
            "settings"
        )
    if step > config.train.num_steps:
        raise UserError(
            f"train.num_steps: must be at least {step}, the newest checkpoint in "
            f"{workdir}, not {config.train.num_steps}; set that or name another workdir"
        )
    return step


def check_same_data(task: Task, workdir: Path, step: int) -> None:
    """Checks that the data of a run are those of the checkpoint that it resumes."""
    saved = read_header(workdir, step).task
    if task.sha256 != saved.sha256:
        raise UserError(
            f"workdir: step {step} in {workdir} was trained on other data than "
            f"{task.name} (SHA-256 {saved.sha256}, not {task.sha256}); name another "
            "workdir, or the same data"
        )


def quarantine_damaged(workdir: Path) -> None:
    """Renames every damaged checkpoint, with a warning, so that it can be replaced."""
    for step in list_steps(workdir):
        if (fault := find_fault(workdir, step)) is not None:
            _logger.warning(
                "checkpoint %d is damaged and not used (%s); it is now %s",
                step,
                fault,
                quarantine(workdir, step),
            )


def warn_of_changes(config: Config, workdir: Path, step: int) -> None:
    """Warns of each changed setting that affects the result."""
    saved = read_header(workdir, step).config
    for name, (old, new) in _changes(saved, config).items():
        if SETTINGS[name].resume == "warned":
            _logger.warning(
                "%s was %s and is now %s: the result will differ from that of an "
                "uninterrupted run",
                name,
                old,
                new,
            )


def _newest_readable_step(workdir: Path) -> int:
    for step in reversed(list_steps(workdir)):
        with contextlib.suppress(DamagedError):
            read_header(workdir, step)
            return step
    return 0


def _changes(saved: Config, config: Config) -> dict[str, tuple[object, object]]:
    """Returns the checkpoint's and the new value of each setting that differs."""
    old = saved.flat()
    new = config.flat()
    return {name: (old[name], new[name]) for name in new if new[name] != old[name]}
