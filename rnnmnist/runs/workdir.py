"""The workdir of a run: names of its files and folders, its lock, and its steps."""

import contextlib
import fcntl
import logging
import re
import shutil
from collections.abc import Iterator
from pathlib import Path

from rnnmnist.config.files import open_folder
from rnnmnist.errors import UserError

# The folder of the arrays passed to `fit`. Its stem becomes the data set's name.
ARRAYS_FOLDER = "arrays.data"
UNFINISHED_FOLDER = ".unfinished"  # contains checkpoints being saved or deleted
# Paths in the folder of a checkpoint; see `checkpoint_files.py`.
CHECKSUMS_FILE = "SHA256SUMS"
HEADER_FILE = "header/metadata"

_logger = logging.getLogger(__name__)


@contextlib.contextmanager
def lock(workdir: Path) -> Iterator[None]:
    """Locks a workdir, so that two processes cannot train in the same run.

    The kernel releases the lock when the process ends. If the file system does not
    support locks, a warning is logged. If the workdir does not exist, it is created,
    and removed again if it is still empty at the end.
    """
    missing_folders = [
        path for path in (workdir, *workdir.parents) if not path.exists()
    ]
    with open_folder(workdir) as folder:
        try:
            fcntl.flock(folder, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise UserError(
                f"workdir: {workdir} is in use by another process; stop that process, "
                "or choose another workdir"
            ) from None
        except OSError as error:
            _logger.warning(
                f"the file system of {workdir} does not support locks "
                f"({error.strerror}), so a second training process would not be "
                "detected"
            )
        try:
            yield
        finally:
            with contextlib.suppress(OSError):  # the folder is not empty
                for path in missing_folders:
                    path.rmdir()


def list_steps(workdir: Path) -> list[int]:
    """Returns the steps of all checkpoints, even damaged ones, in ascending order."""
    steps = []
    for path in workdir.iterdir() if workdir.is_dir() else []:
        # Even a damaged checkpoint has one of these files.
        has_file = (path / HEADER_FILE).exists() or (path / CHECKSUMS_FILE).exists()
        if has_file and re.fullmatch("0|[1-9][0-9]*", path.name):
            steps.append(int(path.name))
    return sorted(steps)


def remove_unfinished(workdir: Path) -> None:
    """Removes checkpoints that were not completely saved or deleted."""
    shutil.rmtree(workdir / UNFINISHED_FOLDER, ignore_errors=True)
