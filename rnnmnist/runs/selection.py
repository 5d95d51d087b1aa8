"""Selection of a checkpoint of a run: `best`, `latest` or a step."""

import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from rnnmnist.errors import UserError
from rnnmnist.runs.checkpoints import DamagedError, list_steps, read_header
from rnnmnist.runs.logs import best_step

T = TypeVar("T")


def find_step(workdir: Path, selector: str) -> int:
    """Returns the step of the checkpoint `best`, `latest`, or with this number."""
    if not workdir.is_dir():
        headers = workdir.parent.glob("*/*/header/metadata")
        runs = ", ".join(sorted({header.parents[2].name for header in headers}))
        raise UserError(
            f"workdir: {workdir} does not exist; {workdir.parent} contains "
            f"{runs or 'no run'}"
        )
    steps = list_steps(workdir)
    if not steps:
        raise UserError(
            f"workdir: {workdir} holds no checkpoint; train in it with "
            "python -m rnnmnist.main"
        )
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
    while True:
        try:
            return function(find_step(workdir, selector))
        except DamagedError as error:
            time.sleep(0.2)  # a checkpoint is deleted file by file
            if error.folder.exists():
                raise
