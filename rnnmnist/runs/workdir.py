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
                f"workdir: {workdir} is in use by another process; stop it, or name "
                "another workdir"
            ) from None
        except OSError as error:
            _logger.warning(
                f"the file system of {workdir} has no locks ({error.strerror}): a "
                "second trainer would not be detected"
            )
        try:
            yield
        finally:
            with contextlib.suppress(OSError):  # a run has started in it
                for created in missing:
                    created.rmdir()


def list_steps(workdir: Path) -> list[int]:
    """Returns the steps of the finished checkpoints, ascending."""
    return sorted(int(path.name) for path in _numbered(workdir) if _is_ours(path))


def check_folders(workdir: Path) -> None:
    """Checks that this package wrote everything in a workdir that is named as a step.

    Where another file or folder has the name of a step, this step cannot be saved.
    """
    for path in _numbered(workdir):
        if not _is_ours(path):
            raise UserError(
                f"workdir: {path} is not a checkpoint of rnnmnist; name another "
                "workdir, or rename this folder"
            )


def _is_ours(folder: Path) -> bool:
    """Whether this package wrote a folder, which can be damaged."""
    return (folder / HEADER_FILE).exists() or (folder / SUMS_FILE).exists()


def _numbered(workdir: Path) -> list[Path]:
    if not workdir.is_dir():
        return []
    return [
        path for path in workdir.iterdir() if re.fullmatch("0|[1-9][0-9]*", path.name)
    ]


def remove_unfinished(workdir: Path) -> None:
    """Removes what a process has not finished to save or to delete."""
    shutil.rmtree(workdir / UNFINISHED, ignore_errors=True)
