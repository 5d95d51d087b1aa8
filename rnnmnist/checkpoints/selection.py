"""Which of a run's checkpoints a user means."""

import contextlib
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from rnnmnist.checkpoints.store import DamagedError, list_steps, rank, read_metrics
from rnnmnist.errors import UserError

Result = TypeVar("Result")


def find_step(workdir: Path, wanted: str) -> int:
    """The checkpoint that a user means.

    Args:
        workdir: of a run; nothing is created in it.
        wanted: `best` (highest validation accuracy, the earlier on a tie),
            `latest`, or a number.

    Raises:
        UserError: when there is no such workdir or step, with those that exist.
    """
    try:
        steps = list_steps(workdir)
        there = "" if steps else _what_is_there(workdir)
    except OSError as error:
        raise UserError(f"--workdir: {workdir} cannot be read: {error}") from error
    if not steps:
        raise UserError(f"--workdir: {workdir} {there}")
    if wanted == "latest":
        return steps[-1]
    if wanted == "best":
        ranked = [(rank(metrics), step) for step, metrics in _validated(workdir, steps)]
        if not ranked:
            raise UserError(
                f"--step: no checkpoint in {workdir} was validated yet; name one of "
                f"{', '.join(map(str, steps))}, or latest"
            )
        return max(ranked)[1]
    if wanted in map(str, steps):
        return int(wanted)
    raise UserError(
        f"--step: there is no step {wanted} in {workdir}; there are best, latest, "
        f"{', '.join(map(str, steps))}"
    )


def with_step(workdir: Path, wanted: str, use: Callable[[int], Result]) -> Result:
    """Calls a function with the step that a user means.

    Beside a running trainer, which deletes old checkpoints, that step can vanish
    while it is read. Then the one that is meant by now is taken.

    Args:
        workdir: of a run.
        wanted: as for `find_step`.
        use: what to do with the step.

    Raises:
        DamagedError: for a checkpoint that is still there.
    """
    for tries_left in reversed(range(10)):
        try:
            return use(find_step(workdir, wanted))
        except DamagedError as error:
            time.sleep(0.2)  # a checkpoint is deleted file by file
            if error.folder.exists() or not tries_left:
                raise
    raise AssertionError  # for the type checker: the last try returns or raises


def _what_is_there(workdir: Path) -> str:
    if workdir.is_dir():
        return "holds no checkpoint; train in it with python -m rnnmnist.main"
    beside = workdir.parent
    runs = (
        sorted(folder.name for folder in beside.iterdir() if _holds_steps(folder))
        if beside.is_dir()
        else []
    )
    there = f"in {beside} there are {', '.join(runs)}" if runs else "nor a run near it"
    return f"does not exist; {there}"


def _validated(workdir: Path, steps: list[int]) -> list[tuple[int, dict[str, Any]]]:
    found = [(step, read_metrics(workdir, step)) for step in steps]
    return [(step, metrics) for step, metrics in found if metrics is not None]


def _holds_steps(folder: Path) -> bool:
    with contextlib.suppress(OSError):  # another user's folder beside ours
        return bool(list_steps(folder))
    return False
