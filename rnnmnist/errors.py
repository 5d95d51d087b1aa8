"""The errors with which a command fails deliberately, and their exit codes.

Every deliberate failure is a `UserError` or a `RunError` with a message of one line.
Docstrings list errors in the public API, and where a caller handles them. An `OSError`
on a path of the user is not caught where it arises: `as_failure` gives it its line.
Any other exception that leaves an entry point is an internal fault: it keeps its
traceback, and the exit code is 1. What a user should know about the data is a
`DataWarning`; what concerns a run or the machine is logged as a warning.
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

# Errors of a full or broken disk, or of a machine that is short of something.
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
    """A mistake of the user, or something that the user must do first. Exit code 2.

    The message is one line with the setting or file, the value, and what is allowed. It
    begins with the name of the setting or argument, such as `data.path` or `workdir`.
    """

    exit_code = 2


class MissingDataError(UserError):
    """The data of a run are not on this machine."""


class DataWarning(UserWarning):
    """Something that a user should know about the data, which are used as they are."""


class StoppedError(RunError):
    """A signal stopped the run after it had saved. Exit code 128 + signal number."""

    # A pickle passes the message only, and restores the exit code.
    def __init__(self, message: str, signal_number: int = 0) -> None:
        super().__init__(message)
        self.exit_code = 128 + signal_number


def warn_of_data(message: str) -> None:
    """Warns of something in the data. Python shows equal warnings once."""
    warnings.warn(message, DataWarning, stacklevel=2)


def as_failure(error: BaseException) -> Failure | None:
    """Returns a deliberate failure, or an `OSError` on a path of the user as one.

    The message is then the path and the reason. It is a `RunError` if the machine is
    the cause, otherwise a `UserError`. For any other exception, such as an `OSError`
    without a path, the result is None.
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
    """Raises what `as_failure` returns for an error, in functions that users call."""
    try:
        yield
    except Exception as error:
        failure = as_failure(error)
        if failure is None or failure is error:
            raise
        raise failure from error


@contextlib.contextmanager
def set_missing_filename(path: Path) -> Iterator[None]:
    """Sets the path of an `OSError` that has none, as those of `read` and `write`.

    NumPy's error of a full disk has no number either, and becomes a `RunError`.
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
    """Puts a file, a folder or an array before the messages of errors of this package.

    With a remedy, what a library raises for a bad file becomes an error of this kind.
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
    """Returns a value as a message shows it: on one line, at most 60 characters."""
    text = " ".join(repr(value).split())
    return text if len(text) <= 60 else text[:57] + "..."


def suggest_name(name: str, names: Iterable[str], remedy: str) -> str:
    """Returns a remedy, after the most similar one of the names if there is one.

    Of `train.optimizer`, the part after the last dot has to be similar, too.
    """
    key = name.rpartition(".")[2]
    similar = [
        each
        for each in names
        if difflib.get_close_matches(key, [each.rpartition(".")[2]])
    ]
    near = difflib.get_close_matches(name, similar, n=1)
    return f"did you mean {format_value(near[0])}? {remedy}" if near else remedy


def summarize_error(error: BaseException) -> str:
    """Returns an error's type and first line, at most 300 printable characters."""
    lines = str(error).strip().splitlines()
    return escape_unprintable(": ".join([type(error).__name__, *lines[:1]])[:300])


def escape_unprintable(text: str) -> str:
    """Replaces characters that cannot be printed, line breaks included, by escapes."""
    return "".join(
        letter if letter.isprintable() else letter.encode("unicode_escape").decode()
        for letter in text
    )


def discard_output() -> None:
    """Redirects standard output to nowhere, also that of compiled code."""
    with Path(os.devnull).open("wb") as null:
        os.dup2(null.fileno(), 1)


def exit_immediately(text: str, exit_code: int) -> NoReturn:
    """Prints a text to standard error, and ends this process.

    A normal exit would wait for the run's other processes, and background threads could
    still print after the error.
    """
    try:
        # Standard output is closed, full or without a reader, or a signal has
        # interrupted another write.
        with contextlib.suppress(OSError, ValueError, RuntimeError):
            sys.stdout.flush()
        print(text, file=sys.stderr, flush=True)
    finally:  # a closed stream must not prevent the exit
        os._exit(exit_code)
