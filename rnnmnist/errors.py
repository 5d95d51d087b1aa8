"""Deliberate failures of commands and functions, and their exit codes.

Every deliberate failure is a `UserError` or a `RunError` with a one-line message.
Docstrings list errors in the public API, and elsewhere if a caller handles them. An
`OSError` for a user's path is not caught where it occurs: `as_failure` converts it. Any
other exception that leaves an entry point is an internal fault: it keeps its traceback,
and the exit code is 1. Problems in the data cause a `DataWarning`; warnings about a run
or the machine are logged.
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

# Errors caused by a full or broken disk, or by a lack of memory or open files.
MACHINE_ERRORS = (
    errno.ENOSPC,
    errno.EDQUOT,
    errno.EFBIG,
    errno.EIO,
    errno.ESTALE,
    errno.EMFILE,
    errno.ENFILE,
    errno.ENOMEM,
)


class Failure(Exception):  # noqa: N818
    """A deliberate failure: a `UserError` or a `RunError`."""

    exit_code: int


class RunError(Failure, RuntimeError):
    """The work could not be done, or a check failed. Exit code 1."""

    exit_code = 1


class UserError(Failure, ValueError):
    """A mistake of the user, or an action that the user must take first. Exit code 2.

    The one-line message contains the setting or file, the value, and the allowed
    values. It begins with the setting or argument, such as `data.path` or `workdir`.
    """

    exit_code = 2


class MissingDataError(UserError):
    """The data set of a run is not on this machine."""


class DataWarning(UserWarning):
    """A possible problem in the user's data, which are used unchanged."""


class StoppedError(RunError):
    """A signal stopped the run after a last save. Exit code 128 + signal number."""

    # Unpickling passes only the message, and then restores the exit code.
    def __init__(self, message: str, signal_number: int = 0) -> None:
        super().__init__(message)
        self.exit_code = 128 + signal_number


def warn_about_data(message: str) -> None:
    """Issues a `DataWarning`. Python shows equal warnings once."""
    warnings.warn(message, DataWarning, stacklevel=2)


def as_failure(error: BaseException) -> Failure | None:
    """Converts an `OSError` into a deliberate failure with its path and reason.

    The result is a `RunError` for the `MACHINE_ERRORS`, and a `UserError` for other
    errors with a path. A deliberate failure is returned unchanged. For any other
    exception, the result is None.
    """
    if isinstance(error, Failure):
        return error
    if not isinstance(error, OSError):
        return None
    path = error.filename
    reason = error.strerror or str(error)
    if error.errno in MACHINE_ERRORS:
        return RunError(f"{path}: {reason}" if path else reason)
    return UserError(f"{path}: {reason}") if path else None


@contextlib.contextmanager
def errors_as_failures() -> Iterator[None]:
    """Converts errors in the block with `as_failure`, for functions that users call."""
    try:
        yield
    except Exception as error:
        failure = as_failure(error)
        if failure is None or failure is error:
            raise
        raise failure from error


@contextlib.contextmanager
def set_missing_filename(path: Path) -> Iterator[None]:
    """Adds the path to an `OSError` without a path, such as an error of `write`.

    NumPy's error for a full disk also lacks an error number, and becomes a `RunError`.
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
    subject: str | Path, remedy: str = "", kind: type[Failure] = UserError
) -> Iterator[None]:
    """Prefixes this package's error messages with a file, a folder or an array.

    With a remedy, errors that other libraries raise for a bad file are converted to
    `kind`.
    """
    try:
        yield
    except Failure as error:
        error.args = (f"{subject}: {error}",)
        raise
    except Exception as error:  # NumPy, zipfile, pyarrow and TFDS raise many types
        if not remedy or as_failure(error):
            raise
        message = f"{subject}: cannot be read ({summarize_error(error)}); {remedy}"
        raise kind(message) from error


def format_value(value: object) -> str:
    """Formats a value for a message: one line, at most 60 characters."""
    text = " ".join(repr(value).split())
    return text if len(text) <= 60 else text[:57] + "..."


def suggest_name(name: str, names: Iterable[str], remedy: str) -> str:
    """Adds the most similar name, if any, to a remedy.

    The part after the last dot must be similar, too: `optimizer` in `train.optimizer`.
    """
    key = name.rpartition(".")[2]
    similar = [
        candidate
        for candidate in names
        if difflib.get_close_matches(key, [candidate.rpartition(".")[2]])
    ]
    near = difflib.get_close_matches(name, similar, n=1)
    return f"did you mean {format_value(near[0])}? {remedy}" if near else remedy


def summarize_error(error: BaseException) -> str:
    """Formats an error's type and first line, in at most 300 printable characters."""
    lines = str(error).strip().splitlines()
    return escape_unprintable(": ".join([type(error).__name__, *lines[:1]])[:300])


def escape_unprintable(text: str) -> str:
    """Escapes unprintable characters, including line breaks."""
    return "".join(
        letter if letter.isprintable() else letter.encode("unicode_escape").decode()
        for letter in text
    )


def discard_output() -> None:
    """Discards standard output, including the output of compiled code."""
    with Path(os.devnull).open("wb") as null:
        os.dup2(null.fileno(), 1)


def exit_immediately(text: str, exit_code: int) -> NoReturn:
    """Prints a text to standard error and ends this process at once.

    A normal exit would wait for the other processes of the run, and background threads
    could still print after the error.
    """
    try:
        # Standard output can be closed, full or without a reader, and a signal can
        # interrupt another write.
        with contextlib.suppress(OSError, ValueError, RuntimeError):
            sys.stdout.flush()
        print(text, file=sys.stderr, flush=True)
    finally:  # a closed stream must not prevent the exit
        os._exit(exit_code)
