"""The errors with which a command fails deliberately, and their exit codes.

Any other exception that leaves an entry point is an internal fault: it keeps its
traceback, and the exit code is 1.
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
    """The work could not be done, or a check failed. Exit code 1."""

    exit_code = 1


class UserError(RunError):
    """A mistake of the user, or a step that the user must take first. Exit code 2.

    The message is one line with the setting or file, the value, and what is allowed.
    """

    exit_code = 2


class StoppedError(RunError):
    """A signal stopped the run after it had saved. Exit code 128 + signal number."""

    def __init__(self, message: str, signal_number: int) -> None:
        super().__init__(message)
        self.exit_code = 128 + signal_number


def first_line(error: BaseException) -> str:
    """Returns an error's type and first line, at most 300 characters."""
    lines = str(error).strip().splitlines()
    return ": ".join([type(error).__name__, *lines[:1]])[:300]


class _Formatter(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        return f"{record.levelname.lower()}: {record.getMessage()}"


def _show_exception(
    kind: type[BaseException], error: BaseException, frames: TracebackType | None
) -> None:
    # Callbacks of orbax's failed reads reach this hook, with only this message.
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
    # orbax and TFDS log warnings in normal use; they raise on real problems.
    absl.logging.set_verbosity(absl.logging.FATAL)
    warnings.showwarning = _show_warning
    # After a failed read or write, orbax's other tasks log that their loop is closed.
    logging.getLogger("asyncio").setLevel(logging.CRITICAL)
    # matplotlib logs that it builds its font cache, or cannot store it.
    logging.getLogger("matplotlib").setLevel(logging.ERROR)
    sys.excepthook = _show_exception
    sys.unraisablehook = lambda _: None


def run(main: Callable[[list[str]], None]) -> NoReturn:
    """Calls an entry point with the command line, and turns errors into exit codes."""
    _configure_logging()
    try:
        main(sys.argv[1:])
    except StoppedError as error:
        exit_immediately(f"stopped: {error}", error.exit_code)
    except RunError as error:
        exit_immediately(f"error: {' '.join(str(error).split())}", error.exit_code)
    except KeyboardInterrupt:  # before training, or a second time while stopping
        exit_immediately("stopped", 130)
    except BrokenPipeError:  # the reader of the output has exited, as `| head` does
        os._exit(1)
    except Exception:  # an internal fault
        exit_immediately(traceback.format_exc().rstrip(), 1)
    # A normal exit takes 0.3 s to tear down jax, and waits for orbax's threads.
    exit_immediately("", 0)


def exit_immediately(text: str, exit_code: int) -> NoReturn:
    """Prints a text to standard error, unless it is empty, and ends this process.

    A normal exit would wait for a running compiled call and for the run's other
    processes, and background threads could still print after the error.
    """
    with contextlib.suppress(BrokenPipeError):
        sys.stdout.flush()
        print(text, end="\n" if text else "", file=sys.stderr, flush=True)
    os._exit(exit_code)
