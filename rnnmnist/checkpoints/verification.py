"""Whether the checkpoints of a run are what was saved."""

import time
from pathlib import Path

from rnnmnist.checkpoints import store
from rnnmnist.checkpoints.selection import find_step
from rnnmnist.errors import RunError


def check(workdir: Path, step: int) -> None:
    """Reads everything in a checkpoint and compares it with the saved checksums.

    It needs neither the model nor the optimizer: the shapes are those that were saved.

    Raises:
        DamagedError: when something is not what was saved.
        RunError: when it cannot be read for another reason.
    """
    store.read_config(workdir, step)
    store.read_metrics(workdir, step)
    store.read_params(workdir, step)
    if store.has_state(workdir, step):
        store.read_state(workdir, step)


def fault_of(workdir: Path, step: int) -> str | None:
    """What is wrong with a checkpoint; None for a good one."""
    try:
        check(workdir, step)
    except store.DamagedError as error:
        return error.why
    except RunError as error:
        return str(error)
    return None


def verify(workdir: Path) -> dict[int, str | None]:
    """What is wrong with each checkpoint of a run, by step; None for a good one.

    Raises:
        UserError: when there is no checkpoint at all, with what there is.
    """
    find_step(workdir, "latest")
    found = {step: fault_of(workdir, step) for step in store.list_steps(workdir)}
    if any(found.values()):
        time.sleep(0.2)  # a running trainer deletes a checkpoint file by file
    return {
        step: fault for step, fault in found.items() if (workdir / str(step)).exists()
    }
