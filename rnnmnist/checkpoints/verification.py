"""Verification of checkpoints against their saved checksums."""

import time
from pathlib import Path

from rnnmnist.checkpoints import store
from rnnmnist.checkpoints.selection import find_step
from rnnmnist.errors import RunError


def check_checkpoint(workdir: Path, step: int) -> None:
    """Reads a checkpoint and compares it with its checksums.

    Neither the model nor the optimizer is needed: the saved shapes are restored.

    Raises:
        DamagedError: if it differs from what was saved.
    """
    store.read_params(workdir, step)
    if store.read_header(workdir, step).has_training_state:
        store.read_state(workdir, step)


def find_fault(workdir: Path, step: int) -> str | None:
    """Describes the fault of a checkpoint; returns None for a good one."""
    try:
        check_checkpoint(workdir, step)
    except store.DamagedError as error:
        return error.reason
    except RunError as error:
        return str(error)
    return None


def verify(workdir: Path) -> dict[int, str | None]:
    """Returns the fault of each checkpoint of a run, by step; None for a good one."""
    find_step(workdir, "latest")
    faults = {step: find_fault(workdir, step) for step in store.list_steps(workdir)}
    if any(faults.values()):
        time.sleep(0.2)  # a running trainer deletes a checkpoint file by file
    return {
        step: fault for step, fault in faults.items() if (workdir / str(step)).exists()
    }
