"""The folder of a run: its lock, and the steps in it."""

import contextlib
import fcntl
import logging
import re
import shutil
from collections.abc import Iterator
from pathlib import Path

from rnnmnist.config.files import open_folder
from rnnmnist.errors import UserError

# The folder with the arrays of `fit`. Its stem names the data set.
ARRAYS = "arrays.data"
UNFINISHED = ".unfinished"  # the folder of what is being saved or deleted
# In the folder of a step; see `checkpoint_files.py`.
SUMS_FILE = "SHA256SUMS"
HEADER_FILE = "header/metadata"

_logger = logging.getLogger(__name__)


@contextlib.contextmanager
def lock(workdir: Path) -> Iterator[None]:
    """Locks a workdir, so that only this run trains in it.

    The lock is the kernel's, and ends with the process. A file system without locks
    causes a warning. The folder is created, and removed at the end if nothing was
    written in it.
    """
    missing = [path for path in (workdir, *workdir.parents) if not path.exists()]
    with open_folder(workdir) as folder:
        try:
            fcntl.flock(folder, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise UserError(
                f"workdir: {workdir} is in use by another process; stop this process, "
                "or name another workdir"
            ) from None
        except OSError as error:
            _logger.warning(
                f"the file system of {workdir} has no locks ({error.strerror}), so a "
                "second training process would not be detected"
            )
        try:
            yield
        finally:
            with contextlib.suppress(OSError):  # a run has started in it
                for created in missing:
                    created.rmdir()


def list_steps(workdir: Path) -> list[int]:
    """Returns the steps of the finished checkpoints, ascending.

    Where another file or folder has the name of a step, this step could not be saved.

    Raises:
        UserError: if this package did not write a folder that is named as a step.
    """
    steps = []
    for path in workdir.iterdir() if workdir.is_dir() else []:
        if re.fullmatch("0|[1-9][0-9]*", path.name):
            # One of these files is there even if the checkpoint is damaged.
            if (path / HEADER_FILE).exists() or (path / SUMS_FILE).exists():
                steps.append(int(path.name))
            elif path.exists():  # else a training process has just deleted it
                raise UserError(
                    f"workdir: {path} is not a checkpoint of rnnmnist; name another "
                    "workdir, or rename this folder"
                )
    return sorted(steps)


def remove_unfinished(workdir: Path) -> None:
    """Removes what a process has not finished to save or to delete."""
    shutil.rmtree(workdir / UNFINISHED, ignore_errors=True)
