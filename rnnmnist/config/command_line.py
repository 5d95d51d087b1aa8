"""The parts that the commands' parsers share.

This module does not import jax, so that `--help` and errors in flags are immediate.
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


class Parser(argparse.ArgumentParser):
    """An `ArgumentParser` with exact flag names and one-line errors."""

    def __init__(
        self, command: str, description: str | None, epilog: str | None = None
    ) -> None:
        super().__init__(
            prog=f"python -m rnnmnist.{command}",
            description=description,
            epilog=epilog,
            allow_abbrev=False,
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )

    def add_workdir(
        self, help: str = "folder of the run", required: bool = True, **kwargs: Any
    ) -> None:
        """Adds `--workdir`, the folder of an existing run."""
        kwargs |= {"metavar": "DIR", "type": resolve_workdir}
        self.add_argument("--workdir", help=help, required=required, **kwargs)

    def add_step(self) -> None:
        """Adds `--step`."""
        self.add_argument(
            "--step",
            default="best",
            metavar="N",
            help="best, latest or a number (default: best)",
        )

    def add_data_paths(self) -> None:
        """Adds the settings of `DATA_PATHS`."""
        for name in DATA_PATHS:
            self.add_argument(
                f"--config.{name}",
                dest=name,
                metavar="DIR",
                help=f"{FIELDS[name].metadata['help']}; if it differs from training",
            )

    def error(self, message: str) -> NoReturn:
        """Raises a `UserError` instead of printing the usage."""
        raise UserError(f"{message}; {self.prog} --help lists the flags")

    def parse(self, argv: list[str]) -> argparse.Namespace:
        """Parses a command line.

        Raises:
            UserError: if a flag does not exist or has a wrong value.
        """
        args, unknown = self.parse_known_args(argv)
        for arg in unknown:
            self.reject(arg)
        return args

    def reject(self, arg: str) -> NoReturn:
        """Raises a `UserError` for an unknown argument, with the nearest flag."""
        if not arg.startswith("-"):
            raise UserError(f"stray argument {arg!r}; flags are --NAME=VALUE")
        known = [flag for action in self._actions for flag in action.option_strings]
        name = arg.split("=")[0]
        near = difflib.get_close_matches(name, known, n=1)
        hint = f"did you mean {near[0]}?" if near else f"{self.prog} --help lists them"
        raise UserError(f"{name}: no such flag; {hint}")


def data_paths(args: argparse.Namespace) -> dict[str, str | None]:
    """Returns the given settings of `Parser.add_data_paths`, as absolute paths."""
    return {
        name: _absolute(fields.parse(f"--config.{name}", text, FIELDS[name]))
        for name in DATA_PATHS
        if (text := getattr(args, name)) is not None
    }


@dataclasses.dataclass(frozen=True)
class ProcessSpec:
    """The coordinates of this process in a run; all None if jax detects them."""

    coordinator_address: str | None = None  # "HOST:PORT" of process 0
    num_processes: int | None = None
    process_id: int | None = None

    def __post_init__(self) -> None:
        given = (self.coordinator_address, self.num_processes, self.process_id)
        if given in ((None, None, None), (None, 1, None), (None, 1, 0)):
            return
        if self.num_processes is None or self.num_processes < 1:
            raise UserError(
                "--num_processes: must be at least 1, together with "
                f"--coordinator_address and --process_id, not {self.num_processes}"
            )
        if self.process_id is None or not 0 <= self.process_id < self.num_processes:
            raise UserError(
                f"--process_id: must be from 0 to {self.num_processes - 1}, below "
                f"--num_processes, not {self.process_id}"
            )
        if not _is_host_and_port(self.coordinator_address or ""):
            raise UserError(
                "--coordinator_address: must be HOST:PORT of process 0, not "
                f"{self.coordinator_address}"
            )


def _is_host_and_port(address: str) -> bool:
    """Whether an address is `HOST:PORT`, with brackets around an IPv6 host."""
    host, _, port = address.rpartition(":")
    valid_host = re.fullmatch(r"\[[^\[\]]+\]|[^:\[\]]+", host)
    return bool(valid_host) and port.isdecimal() and 0 < int(port) < 2**16


@dataclasses.dataclass(frozen=True)
class TrainingArgs:
    """The parsed command line of a training run."""

    name: str  # of the configuration file, without its suffix
    config: Config
    workdir: Path
    processes: ProcessSpec


def training_parser(command: str, description: str | None) -> Parser:
    """Returns a parser of `[--config=FILE] [--workdir=DIR] [--config.KEY=VALUE …]`."""
    parser = Parser(
        command,
        description,
        epilog="settings and their defaults, which the configuration file can change:"
        "\n\n" + schema.describe().replace("%", "%%"),
    )
    parser.add_argument(
        "--config",
        metavar="FILE",
        default="embedded",
        help="path, or name of a shipped configuration (default: %(default)s)",
    )
    parser.add_argument(
        "--workdir",
        metavar="DIR",
        type=parse_workdir,
        help="folder of the run (default: checkpoints/NAME for NAME.py)",
    )
    group = parser.add_argument_group(
        "several processes", "all three are required where jax does not detect them"
    )
    group.add_argument(
        "--coordinator_address", metavar="HOST:PORT", help="address of process 0"
    )
    group.add_argument(
        "--num_processes",
        metavar="N",
        type=int,
        help="number of processes; 1 disables the detection of a cluster",
    )
    group.add_argument(
        "--process_id", metavar="I", type=int, help="index of this process, from 0"
    )
    return parser


def parse_training(
    parser: Parser, argv: list[str]
) -> tuple[TrainingArgs, argparse.Namespace]:
    """Parses the command line of a training command.

    Returns:
        The run, and the values of all flags, which include those added to the parser.

    Raises:
        UserError: if a flag, file, setting or value is wrong.
    """
    args, unknown = parser.parse_known_args(_join_overrides(argv))
    overrides: dict[str, object] = {}
    for arg in unknown:
        if not arg.startswith("--config."):
            parser.reject(arg)
        flag, equals, text = arg.partition("=")
        name = flag.removeprefix("--config.")
        field = fields.find(name, FIELDS, flag)
        if not equals:
            raise UserError(f"{flag}: needs a value, as in {flag}=VALUE")
        value = fields.parse(flag, text, field)
        overrides[name] = _absolute(value) if name in DATA_PATHS else value
    path = find_config(args.config)
    config = load_config(path).replace(overrides)
    workdir = args.workdir or parse_workdir(f"checkpoints/{path.stem}")
    processes = ProcessSpec(
        args.coordinator_address, args.num_processes, args.process_id
    )
    return TrainingArgs(path.stem, config, workdir, processes), args


def _join_overrides(argv: list[str]) -> list[str]:
    """Rewrites `--config.KEY VALUE` as `--config.KEY=VALUE`."""
    joined: list[str] = []
    for arg in argv:
        needs_value = joined and re.fullmatch(r"--config\.[^=]+", joined[-1])
        if needs_value and not arg.startswith("--"):
            joined[-1] += f"={arg}"
        else:
            joined.append(arg)
    return joined


def _absolute(folder: str | None) -> str | None:
    """Returns a folder's absolute path, which checkpoints store.

    Raises:
        UserError: if its home directory does not exist.
    """
    try:
        return None if folder is None else str(Path(folder).expanduser().absolute())
    except RuntimeError as error:
        raise UserError(f"{folder} cannot be used: {error}") from None


def parse_folder(flag: str, text: str) -> Path:
    """Returns the absolute path of a folder, which need not exist.

    Raises:
        UserError: if the text is empty or the path cannot be a directory.
    """
    if not text.strip():
        raise UserError(f"{flag}: must name a directory, not ''")
    try:
        path = Path(text).expanduser().absolute()
        str(path).encode()  # orbax requires valid UTF-8
        for folder in (path, *path.parents):
            if folder.exists() and not folder.is_dir():
                raise UserError(f"{flag}: {folder} is a file; name a directory")
    except (OSError, RuntimeError, ValueError) as error:
        raise UserError(f"{flag}: {text[:80]!r} cannot be used: {error}") from None
    return path


def parse_workdir(text: str) -> Path:
    """Returns the absolute path of a workdir, as `parse_folder` does."""
    return parse_folder("--workdir", text)


def resolve_workdir(text: str) -> Path:
    """Returns the workdir of an existing run, or of a shipped model.

    Raises:
        UserError: as `parse_workdir` does.
    """
    workdir, name = parse_workdir(text), text.rstrip("/")
    if name in REFERENCES and not workdir.exists():
        return shipped_folder(name)
    return workdir


def output_file(flag: str, text: str, suffix: str) -> Path:
    """Returns the path of a file to write, whose folder must exist.

    Raises:
        UserError: if the suffix is another one or the folder does not exist.
    """
    try:
        path = Path(text).expanduser()
        if path.suffix == suffix and path.parent.is_dir() and not path.is_dir():
            return path
    except (OSError, RuntimeError, ValueError):
        pass
    raise UserError(
        f"{flag}: must name a {suffix} file in an existing folder, not {text[:200]!r}"
    )


def write_output(flag: str, file: Path, content: bytes) -> None:
    """Writes the file that a flag names.

    Raises:
        UserError: if it cannot be written.
    """
    try:
        file.write_bytes(content)
    except OSError as error:
        raise UserError(
            f"{flag}: {file} cannot be written: {error.strerror or error}"
        ) from error
