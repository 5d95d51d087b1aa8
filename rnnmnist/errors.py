"""The two ways in which a command can fail on purpose, and their exit codes.

Everything else that escapes an entry point is an internal fault: it keeps its
traceback and exits 1.
"""

import contextlib
import logging
import os
import sys
import traceback
import warnings
from collections.abc import Callable
from types import TracebackType
from typing import NoReturn

import absl.logging


class RunError(Exception):
    """The work could not be done, or the answer is no. Exit code 1."""

    exit_code = 1


class UserError(RunError):
    """The user's mistake, or something for the user to do first. Exit code 2.

    The message is one line that names the setting or file, the value, and what
    is allowed.
    """

    exit_code = 2


class StoppedError(RunError):
    """A signal stopped the run after it had saved. Exit code 128 + the signal."""

    def __init__(self, message: str, signal_number: int) -> None:
        super().__init__(message)
        self.exit_code = 128 + signal_number


def first_line(error: Exception) -> str:
    """The kind of an error and the first line of its message, cut at 300 letters."""
    lines = str(error).strip().splitlines()
    return ": ".join([type(error).__name__, *lines[:1]])[:300]


class _Formatter(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        return f"{record.levelname.lower()}: {record.getMessage()}"


def _show_exception(
    kind: type[BaseException], error: BaseException, frames: TracebackType | None
) -> None:
    if str(error) != "Event loop is closed":
        sys.__excepthook__(kind, error, frames)


def _show_warning(message: Warning | str, *_: object, **__: object) -> None:
    print(f"warning: {message}", file=sys.stderr)


def _configure_logging() -> None:
    handler = logging.StreamHandler()
    handler.setFormatter(_Formatter())
    logger = logging.getLogger("rnnmnist")
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    logger.propagate = False
    # orbax and TFDS warn of what is as it should be, such as a folder to be made; and
    # what is not, they raise besides.
    absl.logging.set_verbosity(absl.logging.FATAL)
    warnings.showwarning = _show_warning
    # When one of orbax's arrays cannot be read or written, its other threads and
    # tasks go on, and complain of their closed loop beside the error that counts.
    logging.getLogger("asyncio").setLevel(logging.CRITICAL)
    # That it looks for fonts the first time, or has no place to keep what it found.
    logging.getLogger("matplotlib").setLevel(logging.ERROR)
    sys.excepthook = _show_exception
    sys.unraisablehook = lambda _: None


def run(main: Callable[[list[str]], None]) -> NoReturn:
    """Calls an entry point with the command line and turns errors into exit codes.

    Args:
        main: takes the words after the program's name.
    """
    _configure_logging()
    try:
        main(sys.argv[1:])
    except StoppedError as error:
        leave(f"stopped: {error}", error.exit_code)
    except RunError as error:
        leave(f"error: {' '.join(str(error).split())}", error.exit_code)
    except KeyboardInterrupt:  # before training, or again while it was stopping
        leave("stopped", 130)
    except BrokenPipeError:  # the predictor of our output left, as `| head` does
        os._exit(1)
    except Exception:  # an internal fault
        leave(traceback.format_exc().rstrip(), 1)
    # A plain return tears down jax, which takes 0.3 s, and waits for orbax's threads.
    leave("", 0)


def leave(text: str, exit_code: int) -> NoReturn:
    """Says why on standard error, if there is a why, and ends this process at once.

    A plain exit would wait for a compiled call that is running, and for the other
    processes of the run; and it would let the threads that a failed read or write
    has left behind have the last word.
    """
    with contextlib.suppress(BrokenPipeError):
        sys.stdout.flush()
        print(text, end="\n" if text else "", file=sys.stderr, flush=True)
    os._exit(exit_code)
