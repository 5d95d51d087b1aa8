"""Whether a run may go on from what is in its workdir, and from which step."""

import contextlib
import logging
from pathlib import Path

from rnnmnist.checkpoints.store import (
    DamagedError,
    has_state,
    list_steps,
    quarantine,
    read_config,
)
from rnnmnist.checkpoints.verification import check
from rnnmnist.config.schema import Config, flatten
from rnnmnist.errors import UserError

_logger = logging.getLogger(__name__)

# What a run may change when it goes on: where things are and when it speaks.
FREE = {
    "tutorial_128",
    "data.data_dir",
    "data.manual_dir",
    "train.log_every_steps",
    "train.log_metrics",
    "train.eval_every_steps",
    "train.keep_checkpoints",
    "train.num_devices",
}
# What it may change too, but then it is no longer the run that it would have been.
FREE_WITH_WARNING = {
    "model.recurrence",
    "model.remat_rows",
    "train.num_steps",
    "train.learning_rate",
    "train.schedule",
    "train.warmup_fraction",
}


def step_to_resume(config: Config, workdir: Path) -> int:
    """Compares the newest checkpoint's configuration with the one asked for.

    Returns:
        The newest checkpoint's step, 0 where there is none.

    Raises:
        UserError: naming each setting that would make it another run, with both
            values; or when the checkpoint is beyond the run's last step.
    """
    step = _newest_readable(workdir)
    if not step:
        return 0
    if not has_state(workdir, step):
        raise UserError(
            f"--workdir: {workdir} holds parameters only, which cannot be trained on; "
            "name another workdir"
        )
    refused = [
        f"{name}={asked} (checkpoint: {before})"
        for name, (before, asked) in _changes(config, workdir, step).items()
        if name not in FREE | FREE_WITH_WARNING
    ]
    if refused:
        raise UserError(
            f"--workdir: step {step} in {workdir} belongs to another run: "
            f"{', '.join(refused)}; name another workdir, or set what it has"
        )
    if step > config.train.num_steps:
        raise UserError(
            f"train.num_steps: must be at least {step}, the newest checkpoint in "
            f"{workdir}, not {config.train.num_steps}"
        )
    return step


def quarantine_damaged(workdir: Path) -> None:
    """Renames every damaged checkpoint, with a warning that says which and why.

    Training then goes on from the newest good one, and saves the step again.
    """
    for step in list_steps(workdir):
        try:
            check(workdir, step)
        except DamagedError as error:
            _logger.warning(
                "checkpoint %d is damaged and not used (%s); it is now %s",
                step,
                error.why,
                quarantine(workdir, step),
            )


def warn_of_changes(config: Config, workdir: Path, step: int) -> None:
    """Warns of each setting that makes the result another than an unbroken run's."""
    for name, (before, asked) in _changes(config, workdir, step).items():
        if name in FREE_WITH_WARNING:
            _logger.warning(
                "%s was %s and is now %s: the result differs from an unbroken run's",
                name,
                before,
                asked,
            )


def _newest_readable(workdir: Path) -> int:
    for step in reversed(list_steps(workdir)):
        with contextlib.suppress(DamagedError):
            read_config(workdir, step)
            has_state(workdir, step)
            return step
    return 0


def _changes(
    config: Config, workdir: Path, step: int
) -> dict[str, tuple[object, object]]:
    before = flatten(read_config(workdir, step).to_dict())
    asked = flatten(config.to_dict())
    return {
        name: (before[name], asked[name])
        for name in asked
        if asked[name] != before[name]
    }
