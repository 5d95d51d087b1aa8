"""Selection of a checkpoint of a run: `best`, `latest` or a step."""

import contextlib
import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from rnnmnist.checkpoints.header import best_step
from rnnmnist.checkpoints.store import (
    DamagedError,
    list_steps,
    read_header,
)
from rnnmnist.errors import UserError

T = TypeVar("T")


def find_step(workdir: Path, selector: str) -> int:
    """Returns the step of the selected checkpoint.

    Args:
        workdir: of a run; nothing is created in it.
        selector: `best` (highest validation accuracy, the earlier step on a tie),
            `latest`, or the number of a step.
    """
    steps = list_steps(workdir)
    if not steps:
        raise UserError(f"workdir: {workdir} {_describe_missing(workdir)}")
    if selector == "latest":
        return steps[-1]
    existing = ", ".join(map(str, steps))
    if selector == "best":
        best = best_step({s: read_header(workdir, s).metrics for s in steps})
        if best is None:
            raise UserError(
                f"step: no checkpoint in {workdir} has been validated yet; choose "
                f"latest or one of {existing}"
            )
        return best
    if selector in map(str, steps):
        return int(selector)
    raise UserError(
        f"step: {workdir} has no step {selector}; choose best, latest or one of "
        f"{existing}"
    )


def with_step(workdir: Path, selector: str, function: Callable[[int], T]) -> T:
    """Calls a function with the selected step.

    A running trainer deletes old checkpoints, so the step can disappear while it is
    read. Then the function is called again with the step that is selected by now.

    Raises:
        DamagedError: if the checkpoint is damaged and still exists.
    """
    for tries_left in reversed(range(10)):
        try:
            return function(find_step(workdir, selector))
        except DamagedError as error:
            time.sleep(0.2)  # a checkpoint is deleted file by file
            if error.folder.exists() or not tries_left:
                raise
    raise AssertionError  # for the type checker: the last try returns or raises


def _describe_missing(workdir: Path) -> str:
    if workdir.is_dir():
        return "holds no checkpoint; train in it with python -m rnnmnist.main"
    parent = workdir.parent
    folders = sorted(parent.iterdir()) if parent.is_dir() else []
    runs = ", ".join(folder.name for folder in folders if _holds_steps(folder))
    return f"does not exist; {parent} contains {runs or 'no run'}"


def _holds_steps(folder: Path) -> bool:
    with contextlib.suppress(OSError):  # a sibling folder can belong to another user
        return bool(list_steps(folder))
    return False
