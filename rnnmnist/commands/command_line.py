"""Parsers, logging, errors and exit codes, which all commands share.

This module does not import jax, so that `--help` and errors in flags appear at once.
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
from typing import TYPE_CHECKING, Any, NoReturn, TextIO

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
    """An `ArgumentParser` with exact flag names and one-line errors."""

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
        """Adds `--workdir`; the options are passed to `add_argument`."""
        self.add_argument("--workdir", metavar="DIR", help=help, **options)

    def add_run_arguments(self, **options: Any) -> None:
        """Adds the flags for `open_model`: `--workdir`, `--step` and settings."""
        self.add_workdir_argument(**options)
        help = "best, latest or a number (default: best)"
        self.add_argument("--step", default="best", metavar="N", help=help)
        for name in LOAD_SETTINGS:
            help = f"{SETTINGS[name].help}; if it differs from training"
            if name in ("model.cell", "model.network"):
                help = (
                    "your own class, as in training; its code runs only if you name it "
                    "here"
                )
            self.add_argument(f"--config.{name}", dest=name, metavar="VALUE", help=help)

    def error(self, message: str) -> NoReturn:
        """Raises a `UserError` instead of printing the usage."""
        raise errors.UserError(f"{message}; {self.prog} --help lists the flags")

    def parse(self, argv: list[str]) -> argparse.Namespace:
        """Parses a command line; `--quiet` discards standard output."""
        args, unknown = self.parse_known_args(argv)
        if unknown:
            flag = unknown[0].partition("=")[0]
            known = [name for action in self._actions for name in action.option_strings]
            remedy = errors.suggest_name(flag, known, f"{self.prog} --help lists them")
            raise errors.UserError(f"{flag}: no such flag; {remedy}")
        if args.quiet:
            sys.stdout = _open_null()
        return args


def _open_null() -> TextIO:

    return Path(os.devnull).open("w", encoding="utf-8")


def open_model(args: argparse.Namespace) -> "Model":
    """Opens the model that the flags of `add_run_arguments` select."""
    from rnnmnist.model import Model  # imports jax
    from rnnmnist.runs.records import Record

    workdir = files.resolve_workdir(args.workdir)
    return Model(Record(workdir), args.step, parse_settings(args))


def parse_settings(args: argparse.Namespace) -> dict[str, Any]:
    """Parses the settings on the command line and returns their values by full name."""
    return {
        name: SETTINGS[name].parse(text)
        for name, text in vars(args).items()
        if name in SETTINGS and text is not None
    }


def make_training_parser(command: str, description: str | None) -> Parser:
    """Returns the parser of a command that trains, with a flag for every setting."""
    parser = Parser(command, description)
    parser.usage = "%(prog)s [--config FILE] [--workdir DIR] [--config.KEY VALUE ...]"
    parser.add_argument(
        "--config",
        metavar="FILE",
        default="embedded",
        help="shipped configuration, or a path that contains / or ends in .py "
        "(default: %(default)s)",
    )
    parser.add_workdir_argument(
        "folder of the run (default: checkpoints/NAME for NAME.py)"
    )
    group = parser.add_argument_group(
        "multiple processes",
        "if jax does not detect the processes, all three flags are required",
    )
    for flag, kind, help in (
        ("--coordinator_address", str, "HOST:PORT of process 0"),
        ("--num_processes", int, "number of processes; 1 disables their detection"),
        ("--process_id", int, "index of this process, from 0"),
    ):
        group.add_argument(flag, metavar="VALUE", type=kind, help=help)
    group = parser.add_argument_group(
        "settings", "the configuration file can change the defaults"
    )
    for name, known in SETTINGS.items():
        help = f"{known.help}; {known.allowed} (default: {known.default_help})"
        help = help.replace("%", "%%")
        group.add_argument(f"--config.{name}", dest=name, metavar="VALUE", help=help)
    return parser


def parse_training(parser: Parser, argv: list[str]) -> argparse.Namespace:
    """Parses the command line of a command that trains.

    In addition to the flags, the result contains:

    - `name`: the name of the configuration file, without its suffix;
    - `request`: the argument of `choose_config`;
    - `processes`: the arguments of `distributed.initialize`.
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
    # orbax and TFDS log warnings in normal use; for real problems, they raise errors.
    absl.logging.set_verbosity(absl.logging.FATAL)
    # If orbax fails to read or write an array, its other tasks fail, too. Commands
    # report only the first failure.
    logging.getLogger("asyncio").setLevel(logging.CRITICAL)
    sys.unraisablehook = lambda _: None
    # matplotlib logs when it builds its font cache or cannot store it.
    logging.getLogger("matplotlib").setLevel(logging.ERROR)
    warnings.formatwarning = lambda message, *_, **__: f"warning: {message}\n"
    warnings.filterwarnings("ignore", CACHE_WARNING)


def format_error(error: Exception | str) -> str:
    """Formats an error message on one line."""
    return errors.escape_unprintable(" ".join(str(error).split()))


def run(main: Callable[[list[str]], None]) -> None:
    """Runs an entry point on the command line, and turns errors into exit codes."""
    # If the caller has closed a stream, for example with `>&-`, the next opened file
    # would receive the output.
    sys.stdout = sys.stdout or _open_null()
    sys.stderr = sys.stderr or _open_null()
    exit_on_signals()
    _configure_logging()
    try:
        main(sys.argv[1:])
        with errors.set_missing_filename(Path("standard output")):
            sys.stdout.flush()
    except errors.StoppedError as error:
        # Exit normally, so that the processes of the run wait for each other.
        print(f"stopped: {error}", file=sys.stderr)
        sys.exit(error.exit_code)
    except BrokenPipeError:  # the reader has exited, for example in `| head`
        os._exit(1)
    except Exception as error:
        failure = errors.as_failure(error)
        if failure is None:  # an internal fault
            errors.exit_immediately(traceback.format_exc().rstrip(), 1)
        errors.exit_immediately(f"error: {format_error(failure)}", failure.exit_code)
    finally:
        # Avoid the interpreter's final garbage collection, which would take 0.2 to
        # 0.4 s for the modules of jax and orbax.
        gc.freeze()
