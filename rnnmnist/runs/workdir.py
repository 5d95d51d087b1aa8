"""The folder of a run: its lock and its steps."""

import contextlib
import fcntl
import logging
import re
import shutil
from collections.abc import Iterator
from pathlib import Path

from rnnmnist.config.files import open_folder
from rnnmnist.errors import UserError

# The folder with the arrays passed to `fit`; its stem becomes the name of the data set.
ARRAYS_FOLDER = "arrays.data"
UNFINISHED_FOLDER = ".unfinished"  # contains steps that are being saved or deleted
# In the folder of a step; see `checkpoint_files.py`.
CHECKSUMS_FILE = "SHA256SUMS"
HEADER_FILE = "header/metadata"

_logger = logging.getLogger(__name__)


@contextlib.contextmanager
def lock(workdir: Path) -> Iterator[None]:
    """Locks a workdir, so that only one run at a time trains in it.

    The kernel holds the lock and releases it when the process ends. If the file system
    does not support locks, a warning is logged. The folder is created, and removed
    again if it is still empty at the end.
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
            with contextlib.suppress(OSError):  # the folder is not empty
                for created in missing:
                    created.rmdir()


def list_steps(workdir: Path) -> list[int]:
    """Returns the steps of the finished checkpoints, ascending.

    Raises:
        UserError: if a file or folder has the name of a step but is not a checkpoint.
            The step could not be saved.
    """
    steps = []
    for path in workdir.iterdir() if workdir.is_dir() else []:
        if re.fullmatch("0|[1-9][0-9]*", path.name):
            # Even a damaged checkpoint has one of these files.
            if (path / HEADER_FILE).exists() or (path / CHECKSUMS_FILE).exists():
                steps.append(int(path.name))
            elif path.exists():  # otherwise a training process has just deleted it
                raise UserError(
                    f"workdir: {path} is not a checkpoint of rnnmnist; name another "
                    "workdir, or rename this folder"
                )
    return sorted(steps)


def remove_unfinished(workdir: Path) -> None:
    """Removes checkpoints whose saving or deletion has not finished."""
    shutil.rmtree(workdir / UNFINISHED_FOLDER, ignore_errors=True)
