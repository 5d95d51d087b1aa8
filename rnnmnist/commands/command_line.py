"""Parsers, logging and error handling that all commands share.

This module does not import JAX, so `--help` and flag errors appear immediately.
"""

import argparse
import gc
import logging
import os
import sys
import traceback
import warnings
from collections.abc import Callable
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NoReturn, TextIO

import absl.logging

from rnnmnist import errors
from rnnmnist.config import files
from rnnmnist.config.recipes import Request, load_config_by_name
from rnnmnist.config.schema import LOAD_SETTINGS, SETTINGS
from rnnmnist.runtime.jax_internals import CACHE_WARNING
from rnnmnist.runtime.signals import exit_on_signals

if TYPE_CHECKING:
    from rnnmnist.model import Model


class Parser(argparse.ArgumentParser):
    """An `ArgumentParser` without abbreviated flags, and with one-line errors."""

    def __init__(self, command: str, description: str | None) -> None:
        super().__init__(
            prog=f"rnnmnist {command}",
            description=description,
            allow_abbrev=False,
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        self.add_argument(
            "--version",
            action="version",
            version=metadata.version("rnnmnist"),
            help="print the version and exit",
        )
        self.add_argument(
            "--quiet", action="store_true", help="print warnings and errors only"
        )

    def add_workdir_argument(
        self, help: str = "folder of the run", **options: Any
    ) -> None:
        """Adds `--workdir`. The options are passed to `add_argument`."""
        self.add_argument("--workdir", metavar="DIR", help=help, **options)

    def add_run_arguments(self, **options: Any) -> None:
        """Adds the flags that `open_model` reads: `--workdir`, `--step`, settings."""
        self.add_workdir_argument(**options)
        help = "checkpoint: best, latest or a step number (default: best)"
        self.add_argument("--step", default="best", metavar="N", help=help)
        for name in LOAD_SETTINGS:
            help = f"{SETTINGS[name].help}; needed only if different from training"
            if name in ("model.cell", "model.network"):
                help = (
                    "the same custom class as in training; its code runs only if "
                    "you specify it here"
                )
            self.add_argument(f"--config.{name}", dest=name, metavar="VALUE", help=help)

    def error(self, message: str) -> NoReturn:
        """Raises a `UserError` instead of printing the usage."""
        raise errors.UserError(f"{message}; {self.prog} --help lists the flags")

    def parse(self, argv: list[str]) -> argparse.Namespace:
        """Parses a command line. If it contains `--quiet`, discards standard output."""
        args, unknown = self.parse_known_args(argv)
        if unknown:
            flag = unknown[0].partition("=")[0]
            flags = [name for action in self._actions for name in action.option_strings]
            hint = f"{self.prog} --help lists the flags"
            remedy = errors.suggest_name(flag, flags, hint)
            raise errors.UserError(f"{flag}: no such flag; {remedy}")
        if args.quiet:
            sys.stdout = _open_null("w")
        return args


def _open_null(mode: Literal["r", "w"]) -> TextIO:
    return Path(os.devnull).open(mode, encoding="utf-8")


def open_model(args: argparse.Namespace) -> "Model":
    """Opens the model specified by the flags of `add_run_arguments`."""
    from rnnmnist.model import Model  # imports JAX
    from rnnmnist.runs.records import Record

    workdir = files.resolve_workdir(args.workdir)
    return Model(Record(workdir), args.step, parse_settings(args))


def parse_settings(args: argparse.Namespace) -> dict[str, Any]:
    """Returns the value of each setting on the command line, by full name."""
    return {
        name: SETTINGS[name].parse(text)
        for name, text in vars(args).items()
        if name in SETTINGS and text is not None
    }


def make_training_parser(command: str, description: str | None) -> Parser:
    """Returns the parser of `train` or `doctor`, with a flag for every setting."""
    parser = Parser(command, description)
    parser.usage = "%(prog)s [--config FILE] [--workdir DIR] [--config.KEY VALUE ...]"
    parser.add_argument(
        "--config",
        metavar="FILE",
        default="embedded",
        help="name of a shipped configuration, or a path that contains / or ends in "
        ".py (default: %(default)s)",
    )
    parser.add_workdir_argument(
        "folder of the run (default: checkpoints/NAME for NAME.py)"
    )
    group = parser.add_argument_group(
        "multiple processes",
        "if JAX does not detect the processes, all three flags are required",
    )
    for flag, kind, help in (
        ("--coordinator_address", str, "HOST:PORT of process 0"),
        ("--num_processes", int, "number of processes; 1 disables detection"),
        ("--process_id", int, "index of this process, from 0"),
    ):
        group.add_argument(flag, metavar="VALUE", type=kind, help=help)
    group = parser.add_argument_group(
        "settings", "the configuration (--config) changes some of these defaults"
    )
    for name, setting in SETTINGS.items():
        help = f"{setting.help}; {setting.allowed} (default: {setting.default_help})"
        help = help.replace("%", "%%")
        group.add_argument(f"--config.{name}", dest=name, metavar="VALUE", help=help)
    return parser


def parse_training(parser: Parser, argv: list[str]) -> argparse.Namespace:
    """Parses the command line of `train` or `doctor`.

    In addition to the flags, the namespace contains:

    - `name`: the name of the configuration file, without its suffix;
    - `request`: the configuration and settings, for `choose_config`;
    - `processes`: the arguments for `distributed.initialize`.
    """
    args = parser.parse(argv)
    args.name = Path(args.config).stem
    args.request = Request(load_config_by_name(args.config), parse_settings(args))
    if args.workdir is None:
        args.workdir = f"checkpoints/{args.name}"
    args.workdir = files.parse_folder(args.workdir)
    args.processes = args.coordinator_address, args.num_processes, args.process_id
    return args


def _configure_logging() -> None:
    handler = logging.StreamHandler()
    # The package logs only warnings.
    handler.setFormatter(logging.Formatter("warning: %(message)s"))
    logger = logging.getLogger("rnnmnist")
    logger.addHandler(handler)
    logger.propagate = False
    # Orbax and TFDS log warnings in normal use, and raise errors for real problems.
    absl.logging.set_verbosity(absl.logging.FATAL)
    # If Orbax fails to read or write one array, its other tasks fail too. Commands
    # report only the first error.
    logging.getLogger("asyncio").setLevel(logging.CRITICAL)
    sys.unraisablehook = lambda _: None
    # Matplotlib logs a warning if it builds its font cache or fails to save it.
    logging.getLogger("matplotlib").setLevel(logging.ERROR)
    warnings.formatwarning = lambda message, *_, **__: f"warning: {message}\n"
    warnings.filterwarnings("ignore", CACHE_WARNING)


def format_error(error: Exception | str) -> str:
    """Formats an error message on one line."""
    return errors.escape_unprintable(" ".join(str(error).split()))


def run(main: Callable[[list[str]], None]) -> None:
    """Runs an entry point on `sys.argv`, and converts errors to exit codes."""
    # If the caller closed a stream, for example with `>&-`, the next file to be opened
    # would take its descriptor and receive the output. A closed input is read as empty.
    sys.stdin = sys.stdin or _open_null("r")
    sys.stdout = sys.stdout or _open_null("w")
    sys.stderr = sys.stderr or _open_null("w")
    exit_on_signals()
    _configure_logging()
    try:
        main(sys.argv[1:])
        with errors.set_missing_filename(Path("standard output")):
            sys.stdout.flush()
    except errors.StoppedError as error:
        # Exit normally, so the run's processes wait for each other.
        print(f"stopped: {error}", file=sys.stderr)
        sys.exit(error.exit_code)
    except BrokenPipeError:  # the reader has exited, for example in `| head`
        os._exit(1)
    except Exception as error:
        expected = errors.to_expected_error(error)
        if expected is None:  # an internal error
            errors.exit_immediately(traceback.format_exc().rstrip(), 1)
        errors.exit_immediately(f"error: {format_error(expected)}", expected.exit_code)
    finally:
        # Exclude the modules of JAX and Orbax from the interpreter's final garbage
        # collection: collecting them would take 0.2 to 0.4 s.
        gc.freeze()
