"""Expected errors of commands and functions, and their exit codes.

Every expected error is a `UserError` or a `RunError` with a one-line message. Public
functions document the errors that they raise. Other functions document an error only if
a caller handles it. An `OSError` for a user's path is not caught where it occurs:
`to_expected_error` converts it. Any other exception that propagates out of an entry
point is an internal error: the traceback is printed, and the exit code is 1. Problems
in the data cause a `DataWarning`. Problems with a run or the machine are logged as
warnings.
"""

import contextlib
import difflib
import errno
import os
import sys
import warnings
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NoReturn

# The disk is full or broken, memory has run out, or too many files are open.
RESOURCE_ERRNOS = (
    errno.ENOSPC,
    errno.EDQUOT,
    errno.EFBIG,
    errno.EIO,
    errno.ESTALE,
    errno.EMFILE,
    errno.ENFILE,
    errno.ENOMEM,
)


class ExpectedError(Exception):
    """An expected error: a `UserError` or a `RunError`."""

    exit_code: int


class RunError(ExpectedError, RuntimeError):
    """A failure that is not the user's mistake, such as a full disk. Exit code 1."""

    exit_code = 1


class UserError(ExpectedError, ValueError):
    """The user made a mistake or must do something first. Exit code 2.

    The one-line message starts with the setting or argument, such as `data.path` or
    `workdir`, and contains its value and the allowed values.
    """

    exit_code = 2


class MissingDataError(UserError):
    """A run's data set is not on this machine."""


class DataWarning(UserWarning):
    """The user's data may have a problem. They are used unchanged."""


class StoppedError(RunError):
    """A signal stopped a run. Exit code 128 + signal number."""

    # `pickle` calls this with the message only, and then restores the exit code.
    def __init__(self, message: str, signal_number: int = 0) -> None:
        super().__init__(message)
        self.exit_code = 128 + signal_number


def warn_about_data(message: str) -> None:
    """Issues a `DataWarning`. Python shows identical warnings only once."""
    warnings.warn(message, DataWarning, stacklevel=2)


def to_expected_error(error: BaseException) -> ExpectedError | None:
    """Converts an `OSError` to an expected error that contains the path and reason.

    Returns a `RunError` for `RESOURCE_ERRNOS`, a `UserError` for other errors with a
    path, and None for any other exception. An expected error is returned unchanged.
    """
    if isinstance(error, ExpectedError):
        return error
    if not isinstance(error, OSError):
        return None
    path = error.filename
    reason = error.strerror or str(error)
    if error.errno in RESOURCE_ERRNOS:
        return RunError(f"{path}: {reason}" if path else reason)
    return UserError(f"{path}: {reason}") if path else None


@contextlib.contextmanager
def convert_errors() -> Iterator[None]:
    """Converts errors in the block with `to_expected_error`, for public functions."""
    try:
        yield
    except Exception as error:
        expected = to_expected_error(error)
        if expected is None or expected is error:
            raise
        raise expected from error


@contextlib.contextmanager
def set_missing_filename(path: Path) -> Iterator[None]:
    """Adds the path to an `OSError` without a path, for example from `write`.

    NumPy's error for a full disk also lacks an error number. It is converted to a
    `RunError`.
    """
    try:
        yield
    except OSError as error:
        if error.errno is None:
            raise RunError(f"{path}: {error}") from error
        if error.filename is None:
            error.filename = str(path)
        raise


@contextlib.contextmanager
def prefix_errors(
    subject: str | Path, remedy: str = "", kind: type[ExpectedError] = UserError
) -> Iterator[None]:
    """Prefixes this package's error messages with the name of a file or an array.

    If `remedy` is not empty, errors that other libraries raise for a bad file are
    converted to `kind`.
    """
    try:
        yield
    except ExpectedError as error:
        error.args = (f"{subject}: {error}",)
        raise
    except (
        Exception
    ) as error:  # NumPy, zipfile, pyarrow and TFDS raise many exception types
        if not remedy or to_expected_error(error):
            raise
        message = f"{subject}: cannot be read ({summarize_error(error)}); {remedy}"
        raise kind(message) from error


def format_value(value: object) -> str:
    """Formats a value for a message: one line, at most 60 characters."""
    text = " ".join(repr(value).split())
    return text if len(text) <= 60 else text[:57] + "..."


def suggest_name(name: str, names: Iterable[str], remedy: str) -> str:
    """Adds "did you mean" to a remedy if one of `names` is similar to `name`.

    Only the parts after the last dot are compared: `optimizer` in `train.optimizer`.
    """
    names_by_key = {known.rpartition(".")[2]: known for known in names}
    matches = difflib.get_close_matches(name.rpartition(".")[2], names_by_key, n=1)
    if not matches:
        return remedy
    return f"did you mean {format_value(names_by_key[matches[0]])}? {remedy}"


def summarize_error(error: BaseException) -> str:
    """Formats an error's type and first line, in at most 300 printable characters."""
    lines = str(error).strip().splitlines()
    return escape_unprintable(": ".join([type(error).__name__, *lines[:1]])[:300])


def escape_unprintable(text: str) -> str:
    """Escapes unprintable characters, including line breaks."""
    return "".join(
        char if char.isprintable() else char.encode("unicode_escape").decode()
        for char in text
    )


def discard_output() -> None:
    """Discards standard output, including the output of compiled code."""
    with Path(os.devnull).open("wb") as null:
        os.dup2(null.fileno(), 1)


def exit_immediately(text: str, exit_code: int) -> NoReturn:
    """Prints a message to standard error and ends this process immediately.

    A normal exit would wait for the run's other processes, and background threads could
    print after the error.
    """
    try:
        # Flushing fails if standard output is closed, its disk is full, its reader has
        # exited, or a signal has interrupted another write.
        with contextlib.suppress(OSError, ValueError, RuntimeError):
            sys.stdout.flush()
        print(text, file=sys.stderr, flush=True)
    finally:  # even if standard error is closed
        os._exit(exit_code)
