"""From the words of a command line to a configuration and a workdir."""

import argparse
import dataclasses
import difflib
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NoReturn

from rnnmnist.config import fields
from rnnmnist.config import schema as config_lib
from rnnmnist.config.schema import PLACES, Config
from rnnmnist.errors import UserError

DEFAULT_CONFIG = "embedded"
# The models that are shipped: by the loss after the last row, and after every row.
REFERENCES = ("checkpoints/reference", "checkpoints/reference_every_row")


class Flags(argparse.ArgumentParser):
    """argparse, with exact names and errors of one line."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(
            allow_abbrev=False,
            formatter_class=argparse.RawDescriptionHelpFormatter,
            **kwargs,
        )

    def error(self, message: str) -> NoReturn:
        """Raises instead of printing the usage before the message.

        Raises:
            UserError: always.
        """
        raise UserError(f"{message}; {self.prog} --help lists the flags")

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


def repository_or_package(folder: str) -> Path:
    """A folder that a clone has at its top level and a wheel inside the package."""
    package = Path(__file__).resolve().parent.parent
    inside = package / "shipped" / folder
    return inside if inside.is_dir() else package.parent / folder


def config_path(file_or_name: str) -> Path:
    """The file behind `--config`: a path, or a shipped configuration's bare name.

    Raises:
        UserError: when there is neither, with the names that are shipped.
    """
    try:
        path = Path(file_or_name).expanduser()
        if path.is_file():
            return path
    except (OSError, RuntimeError, ValueError) as error:
        raise UserError(
            f"--config: {file_or_name[:80]!r} is no path: {error}"
        ) from None
    shipped = repository_or_package("configs")
    names = sorted(file.stem for file in shipped.glob("*.py"))
    for name in names:
        if file_or_name in (name, f"{name}.py", f"configs/{name}.py"):
            return shipped / f"{name}.py"
    near = difflib.get_close_matches(path.stem, names, n=1)
    hint = f"did you mean {near[0]}? " if near else ""
    raise UserError(
        f"--config: there is no file {file_or_name}; {hint}"
        f"shipped configurations: {', '.join(names)}"
    )


@dataclasses.dataclass(frozen=True)
class Place:
    """Where a process stands among those of its run; all None: jax looks itself."""

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
class Training:
    """What a training command is asked for."""

    config: Config
    workdir: Path
    place: Place


def parse_training(
    arguments: list[str],
    description: str,
    prog: str = "python -m rnnmnist.main",
    parents: Sequence[Flags] = (),
) -> Training:
    """Parses `[--config=FILE] [--workdir=DIR] [--config.KEY=VALUE …]` and the place.

    Args:
        arguments: the words of the command line.
        description: for `--help`.
        prog: the command, in `--help` and in errors.
        parents: of which `--help` and guesses know the flags too.

    Returns:
        The checked configuration; the workdir, `checkpoints/NAME` for a
        configuration file `NAME.py` unless the command line names another; and
        which of how many processes this is.

    Raises:
        UserError: for a wrong flag, file, setting or value.
    """
    flags = Flags(
        prog=prog,
        parents=parents,
        description=description,
        epilog="settings, with their defaults before the configuration file:\n\n"
        + config_lib.describe().replace("%", "%%"),
    )
    flags.add_argument(
        "--config",
        metavar="FILE",
        default=DEFAULT_CONFIG,
        help="a path, or the bare name of a shipped configuration (%(default)s)",
    )
    flags.add_argument(
        "--workdir",
        metavar="DIR",
        help="where the run lives (checkpoints/NAME for a configuration NAME.py)",
    )
    add_place(flags)
    known, rest = flags.parse_known_args(arguments)
    overrides: dict[str, Any] = {}
    for word in rest:
        if not word.startswith("--config."):
            flags.refuse(word)
        shown_as, equals, text = word.partition("=")
        name = shown_as.removeprefix("--config.")
        field = fields.find(name, config_lib.FIELDS, shown_as)
        if not equals:
            raise UserError(f"{shown_as}: needs a value, as in {shown_as}=VALUE")
        value = fields.parse(shown_as, text, field)
        overrides[name] = absolute(value) if name in PLACES else value
    path = config_path(known.config)
    config = config_lib.load(path).replace(overrides)
    workdir = known.workdir if known.workdir is not None else f"checkpoints/{path.stem}"
    place = Place(known.coordinator_address, known.num_processes, known.process_id)
    return Training(config, checked_workdir(workdir), place)


def add_place(flags: Flags) -> None:
    """Adds the flags that say which of a run's processes this is."""
    group = flags.add_argument_group(
        "several processes", "where jax does not find them by itself, give all three"
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


@dataclasses.dataclass(frozen=True)
class Checkup:
    """The run that a machine is examined for, and what it is required to have."""

    name: str  # of the configuration
    training: Training
    required: str | None  # tpu or gpu


def parse_checkup(arguments: list[str], description: str) -> Checkup:
    """Parses `[--require=tpu|gpu]`, and the flags of the training that is meant.

    Raises:
        UserError: for a wrong flag, file, setting or value.
    """
    prog = "python -m rnnmnist.doctor"
    own = Flags(prog=prog, add_help=False)
    own.add_argument(
        "--require", choices=["tpu", "gpu"], help="exit 1 if there is none to use"
    )
    required = own.parse_known_args(arguments)[0].require
    training = parse_training(arguments, description, prog, [own])
    naming = Flags(prog=prog, add_help=False)
    naming.add_argument("--config", default=DEFAULT_CONFIG)
    file_or_name = naming.parse_known_args(arguments)[0].config
    return Checkup(config_path(file_or_name).stem, training, required)


def absolute(folder: str | None) -> str | None:
    """A folder's absolute path, so that a checkpoint finds it from anywhere.

    Raises:
        UserError: when its home directory does not exist.
    """
    try:
        return None if folder is None else str(Path(folder).expanduser().absolute())
    except RuntimeError as error:
        raise UserError(f"{folder} cannot be used: {error}") from None


def checked_workdir(text: str) -> Path:
    """An absolute workdir, with `~` expanded.

    Raises:
        UserError: when the text is empty or the path is not a directory.
    """
    if not text.strip():
        raise UserError("--workdir: must name a directory, not ''")
    try:
        path = Path(text).expanduser().absolute()
        str(path).encode()  # orbax takes no other paths
        for place in (path, *path.parents):
            if place.exists() and not place.is_dir():
                raise UserError(f"--workdir: {place} is a file; name a directory")
    except (OSError, RuntimeError, ValueError) as error:
        raise UserError(f"--workdir: {text[:80]!r} cannot be used: {error}") from None
    return path


@dataclasses.dataclass(frozen=True)
class Evaluation:
    """What an evaluation is asked for."""

    workdir: Path
    step: str
    split: str
    places: dict[str, Any]  # where the data are here, if not where the trainer's were


def parse_evaluation(arguments: list[str], description: str) -> Evaluation:
    """Parses `--workdir=DIR [--step=…] [--split=…] [--config.data.…_dir=DIR]`.

    Raises:
        UserError: for a wrong flag or value.
    """
    flags = Flags(prog="python -m rnnmnist.evaluate", description=description)
    flags.add_argument("--workdir", metavar="DIR", required=True, help="of the run")
    flags.add_argument(
        "--split", default="test", choices=["train", "validation", "test"]
    )
    known, places = _parse_with_step_and_places(flags, arguments)
    workdir = workdir_of_a_run(known.workdir)
    return Evaluation(workdir, known.step, known.split, places)


@dataclasses.dataclass(frozen=True)
class Report:
    """What a report is asked for."""

    workdirs: list[Path]
    step: str
    places: dict[str, Any]  # where the data are here, if not where the trainers' were


def parse_report(arguments: list[str], description: str) -> Report:
    """Parses `--workdir=DIR … [--step=…] [--config.data.…_dir=DIR]`.

    Raises:
        UserError: for a wrong flag or value.
    """
    flags = Flags(prog="python -m rnnmnist.report", description=description)
    flags.add_argument(
        "--workdir",
        metavar="DIR",
        required=True,
        action="append",
        help="of the run; given again, runs are compared",
    )
    known, places = _parse_with_step_and_places(flags, arguments)
    workdirs = [workdir_of_a_run(text) for text in known.workdir]
    for workdir in workdirs:
        if workdirs.count(workdir) > 1:
            raise UserError(f"--workdir: {workdir} is given more than once")
    return Report(workdirs, known.step, places)


def _parse_with_step_and_places(
    flags: Flags, arguments: list[str]
) -> tuple[argparse.Namespace, dict[str, Any]]:
    """Adds `--step` and the data set's places to other flags, and parses all."""
    flags.add_argument(
        "--step", default="best", metavar="N", help="best, latest or a number (best)"
    )
    for place in PLACES:
        flags.add_argument(
            f"--config.{place}",
            dest=place,
            metavar="DIR",
            help="another place for the data set than the trainer's",
        )
    known, rest = flags.parse_known_args(arguments)
    for word in rest:
        flags.refuse(word)
    given = {place: getattr(known, place) for place in PLACES}
    return known, {
        place: absolute(fields.parse(place, text, config_lib.FIELDS[place]))
        for place, text in given.items()
        if text is not None
    }


def parse_verification(arguments: list[str], description: str) -> Path:
    """Parses `--workdir=DIR`.

    Raises:
        UserError: for a wrong flag.
    """
    flags = Flags(prog="python -m rnnmnist.verify", description=description)
    flags.add_argument("--workdir", metavar="DIR", required=True, help="of the run")
    known, rest = flags.parse_known_args(arguments)
    for word in rest:
        flags.refuse(word)
    return workdir_of_a_run(known.workdir)


@dataclasses.dataclass(frozen=True)
class Prediction:
    """What a prediction is asked for."""

    images: list[str]  # files, folders, or - for standard input
    workdir: str
    step: str
    json: bool
    show: Path | None


def parse_prediction(arguments: list[str], description: str) -> Prediction:
    """Parses `[--workdir=DIR] [--step=…] [--json] [--show=FILE.png] IMAGE …`.

    Raises:
        UserError: for a wrong flag or value.
    """
    flags = Flags(prog="python -m rnnmnist.predict", description=description)
    flags.add_argument(
        "images", metavar="IMAGE", nargs="*", help="a file, a folder, or -"
    )
    flags.add_argument(
        "--workdir",
        metavar="DIR",
        default=REFERENCES[0],
        help="of a run (%(default)s, the model that is shipped)",
    )
    flags.add_argument(
        "--step", default="best", metavar="N", help="best, latest or a number (best)"
    )
    flags.add_argument("--json", action="store_true", help="a JSON object a file")
    flags.add_argument(
        "--show", metavar="FILE.png", help="draw how one image was prepared and read"
    )
    known, rest = flags.parse_known_args(arguments)
    for word in rest:
        flags.refuse(word)
    if not known.images:
        raise UserError(f"IMAGE: name an image of a digit; {flags.prog} --help")
    if "" in known.images:
        raise UserError("IMAGE: must name a file, a folder or -, not ''")
    show = None if known.show is None else file_to_write("--show", known.show, ".png")
    return Prediction(known.images, known.workdir, known.step, known.json, show)


@dataclasses.dataclass(frozen=True)
class Film:
    """What a page to draw on is asked for."""

    output: Path
    workdirs: list[Path]  # one or two


def parse_page(arguments: list[str], description: str) -> Film:
    """Parses `--output=FILE.html [--workdir=DIR …]`.

    Raises:
        UserError: for a wrong flag or value.
    """
    flags = Flags(prog="python -m rnnmnist.page", description=description)
    flags.add_argument(
        "--output", metavar="FILE.html", required=True, help="where the page goes"
    )
    flags.add_argument(
        "--workdir",
        metavar="DIR",
        action="append",
        help="of a run; given again, two are shown side by side "
        f"({' and '.join(REFERENCES)}, the models that are shipped)",
    )
    known, rest = flags.parse_known_args(arguments)
    for word in rest:
        flags.refuse(word)
    output = file_to_write("--output", known.output, ".html")
    workdirs = [workdir_of_a_run(text) for text in known.workdir or REFERENCES]
    if len(workdirs) > 2:
        raise UserError(f"--workdir: the page shows one or two, not {len(workdirs)}")
    if len(set(workdirs)) < len(workdirs):
        raise UserError(f"--workdir: {workdirs[0]} is given more than once")
    return Film(output, workdirs)


def file_to_write(flag: str, text: str, suffix: str) -> Path:
    """A file that a flag names, in a folder that exists.

    Raises:
        UserError: for another suffix, or where there is no such folder.
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


def workdir_of_a_run(text: str) -> Path:
    """A workdir to read: one of the user's, or a shipped reference model's.

    Raises:
        UserError: as `checked_workdir` does.
    """
    workdir, shipped = checked_workdir(text), text.rstrip("/")
    if shipped in REFERENCES and not workdir.exists():
        return repository_or_package(shipped)
    return workdir
