"""The parts that the commands' parsers share.

Nothing here imports jax, so `--help` and a mistyped flag are answered at once.
"""

import argparse
import dataclasses
import difflib
import re
from pathlib import Path
from typing import Any, NoReturn

from rnnmnist.config import fields, schema
from rnnmnist.config.files import REFERENCES, find_config, load_config, shipped_folder
from rnnmnist.config.schema import DATA_PATHS, FIELDS, Config
from rnnmnist.errors import UserError

DEFAULT_CONFIG = "embedded"


class Parser(argparse.ArgumentParser):
    """argparse with exact flag names and errors of one line."""

    def __init__(self, command: str, description: str | None, **kwargs: Any) -> None:
        super().__init__(
            prog=f"python -m rnnmnist.{command}",
            description=description,
            allow_abbrev=False,
            formatter_class=argparse.RawDescriptionHelpFormatter,
            **kwargs,
        )

    def add_workdir(self, **kwargs: Any) -> None:
        """Adds `--workdir`, of a run to read."""
        options: dict[str, Any] = {"required": True, "help": "of the run"}
        options |= {"metavar": "DIR", "type": workdir_of_run} | kwargs
        self.add_argument("--workdir", **options)

    def add_step(self) -> None:
        """Adds `--step`."""
        self.add_argument(
            "--step",
            default="best",
            metavar="N",
            help="best, latest or a number (best)",
        )

    def add_data_paths(self) -> None:
        """Adds the settings that say where the data are on this machine."""
        for name in DATA_PATHS:
            self.add_argument(
                f"--config.{name}",
                dest=name,
                metavar="DIR",
                help="another folder of the data set than the trainer's",
            )

    def error(self, message: str) -> NoReturn:
        """Raises an error instead of printing the usage first.

        Raises:
            UserError: always.
        """
        raise UserError(f"{message}; {self.prog} --help lists the flags")

    def parse(self, argv: list[str]) -> argparse.Namespace:
        """Parses a whole command line.

        Raises:
            UserError: for a flag that does not exist, or a wrong value.
        """
        args, rest = self.parse_known_args(_join_overrides(argv))
        for word in rest:
            self.refuse(word)
        return args

    def refuse(self, word: str) -> NoReturn:
        """Reports a word that no flag takes.

        Raises:
            UserError: always, with the nearest flag if one is near.
        """
        if not word.startswith("-"):
            raise UserError(f"stray argument {word!r}; flags are --NAME=VALUE")
        known = [flag for action in self._actions for flag in action.option_strings]
        name = word.split("=")[0]
        near = difflib.get_close_matches(name, known, n=1)
        hint = f"did you mean {near[0]}?" if near else f"{self.prog} --help lists them"
        raise UserError(f"{name}: no such flag; {hint}")


def _join_overrides(argv: list[str]) -> list[str]:
    """`--config.KEY VALUE` as `--config.KEY=VALUE`."""
    words: list[str] = []
    for word in argv:
        if words and re.fullmatch(r"--config\.[^=]+", words[-1]) and word[:2] != "--":
            words[-1] += f"={word}"
        else:
            words.append(word)
    return words


def data_paths(args: argparse.Namespace) -> dict[str, str | None]:
    """The settings of `Parser.add_data_paths` that were given, as absolute paths."""
    given = {name: getattr(args, name) for name in DATA_PATHS}
    return {
        name: _absolute(fields.parse(f"--config.{name}", text, FIELDS[name]))
        for name, text in given.items()
        if text is not None
    }


@dataclasses.dataclass(frozen=True)
class ProcessSpec:
    """Which process of a run this is; all None if jax finds out by itself."""

    coordinator_address: str | None = None  # "HOST:PORT" of process 0
    num_processes: int | None = None
    process_id: int | None = None

    def __post_init__(self) -> None:
        given = (self.coordinator_address, self.num_processes, self.process_id)
        if given in ((None, None, None), (None, 1, None), (None, 1, 0)):
            return
        if self.num_processes is None or self.num_processes < 1:
            raise UserError(
                "--num_processes: must be at least 1, beside --coordinator_address "
                f"and --process_id, not {self.num_processes}"
            )
        if self.process_id is None or not 0 <= self.process_id < self.num_processes:
            raise UserError(
                f"--process_id: must be from 0 to {self.num_processes - 1}, below "
                f"--num_processes, not {self.process_id}"
            )
        host, _, port = (self.coordinator_address or "").rpartition(":")
        bracketed = host.startswith("["), host.endswith("]")
        if not (host and port.isdecimal() and 0 < int(port) < 2**16) or (
            len(set(bracketed)) > 1 or (":" in host and not all(bracketed))
        ):
            raise UserError(
                "--coordinator_address: must be HOST:PORT, where process 0 runs, "
                f"not {self.coordinator_address}"
            )


@dataclasses.dataclass(frozen=True)
class TrainingArgs:
    """The run that a command line describes."""

    name: str  # of the configuration file, without its suffix
    config: Config
    workdir: Path
    processes: ProcessSpec


def training_parser(command: str, description: str | None) -> Parser:
    """A parser of `[--config=FILE] [--workdir=DIR] [--config.KEY=VALUE …]`."""
    parser = Parser(
        command,
        description,
        epilog="settings, with their defaults before the configuration file:\n\n"
        + schema.describe().replace("%", "%%"),
    )
    parser.add_argument(
        "--config",
        metavar="FILE",
        default=DEFAULT_CONFIG,
        help="a path, or the name of a shipped configuration (%(default)s)",
    )
    parser.add_argument(
        "--workdir",
        metavar="DIR",
        type=checked_workdir,
        help="where the run lives (checkpoints/NAME for a configuration NAME.py)",
    )
    group = parser.add_argument_group(
        "several processes", "give all three where jax does not find them by itself"
    )
    group.add_argument(
        "--coordinator_address", metavar="HOST:PORT", help="where process 0 runs"
    )
    group.add_argument(
        "--num_processes",
        metavar="N",
        type=int,
        help="how many there are; 1 keeps jax from looking for others",
    )
    group.add_argument(
        "--process_id", metavar="I", type=int, help="which one this is, from 0"
    )
    return parser


def parse_training(
    parser: Parser, argv: list[str]
) -> tuple[TrainingArgs, argparse.Namespace]:
    """Parses the command line of a training command.

    Args:
        parser: from `training_parser`; a command may have added flags.
        argv: the words of the command line.

    Returns:
        The run, and the values of all flags.

    Raises:
        UserError: for a wrong flag, file, setting or value.
    """
    args, rest = parser.parse_known_args(_join_overrides(argv))
    overrides: dict[str, Any] = {}
    for word in rest:
        if not word.startswith("--config."):
            parser.refuse(word)
        flag, equals, text = word.partition("=")
        name = flag.removeprefix("--config.")
        field = fields.find(name, FIELDS, flag)
        if not equals:
            raise UserError(f"{flag}: needs a value, as in {flag}=VALUE")
        value = fields.parse(flag, text, field)
        overrides[name] = _absolute(value) if name in DATA_PATHS else value
    path = find_config(args.config)
    config = load_config(path).replace(overrides)
    workdir = args.workdir or checked_workdir(f"checkpoints/{path.stem}")
    processes = ProcessSpec(
        args.coordinator_address, args.num_processes, args.process_id
    )
    return TrainingArgs(path.stem, config, workdir, processes), args


def _absolute(folder: str | None) -> str | None:
    """A folder's absolute path, which a checkpoint can keep.

    Raises:
        UserError: if its home directory does not exist.
    """
    try:
        return None if folder is None else str(Path(folder).expanduser().absolute())
    except RuntimeError as error:
        raise UserError(f"{folder} cannot be used: {error}") from None


def checked_workdir(text: str) -> Path:
    """An absolute workdir, with `~` expanded.

    Raises:
        UserError: if the text is empty or the path is not a directory.
    """
    if not text.strip():
        raise UserError("--workdir: must name a directory, not ''")
    try:
        path = Path(text).expanduser().absolute()
        str(path).encode()  # orbax takes no other paths
        for folder in (path, *path.parents):
            if folder.exists() and not folder.is_dir():
                raise UserError(f"--workdir: {folder} is a file; name a directory")
    except (OSError, RuntimeError, ValueError) as error:
        raise UserError(f"--workdir: {text[:80]!r} cannot be used: {error}") from None
    return path


def workdir_of_run(text: str) -> Path:
    """The workdir of a run to read: a user's, or that of a shipped model.

    Raises:
        UserError: as `checked_workdir` does.
    """
    workdir, shipped = checked_workdir(text), text.rstrip("/")
    if shipped in REFERENCES and not workdir.exists():
        return shipped_folder(shipped)
    return workdir


def file_to_write(flag: str, text: str, suffix: str) -> Path:
    """A file that a flag names, in a folder that exists.

    Raises:
        UserError: for another suffix, or if there is no such folder.
    """
    try:
        path = Path(text).expanduser()
        if path.suffix == suffix and path.parent.is_dir() and not path.is_dir():
            return path
    except (OSError, RuntimeError, ValueError):
        pass
    raise UserError(
        f"{flag}: must name a {suffix} file in a folder that exists, not {text[:200]!r}"
    )
