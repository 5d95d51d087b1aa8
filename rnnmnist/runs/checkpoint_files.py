"""The files of a checkpoint: its header, its checksums, and what is damaged.

A workdir holds one folder for each kept step, with these items:

- `params`: the evaluated parameters;
- `state`: all arrays of the training, for a resume; also the parameters, once more;
- `header`: the `Header`.

`SHA256SUMS` has the SHA-256 of each file of the items. `read_header` compares all of
them before anything is parsed, because orbax does not detect a flipped byte. Only a
difference is damage: a lack of memory, threads or open files is not.
"""

import contextlib
import hashlib
import json
import logging
import os
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import msgspec
from msgspec.structs import replace

from rnnmnist.config.functions import label
from rnnmnist.config.resolving import (
    RunConfig,
    fill_defaults,
    functions_of,
    name_functions,
)
from rnnmnist.config.schema import Config
from rnnmnist.config.tasks import Task
from rnnmnist.errors import RunError, UserError, summarize_error
from rnnmnist.runs.logs import StepMetrics
from rnnmnist.runs.workdir import HEADER_FILE, SUMS_FILE

# The format is raised if a setting, a field of the header or an array is renamed or
# removed, or if splits are drawn otherwise, and older checkpoints would be misread;
# then the shipped models must be rewritten and sealed, too. A setting that is added has
# the default with which earlier runs trained.
FORMAT = 12
ITEMS = ("params", "state", "header")

Tree = Any  # a tree of arrays or of their shapes, which mypy cannot describe

_logger = logging.getLogger(__name__)


class Header(msgspec.Struct, frozen=True, kw_only=True):
    """The settings, the data set and the scores of a checkpoint, beside its arrays."""

    format: int = FORMAT
    step: int
    config: RunConfig
    task: Task
    # Of the validation split, or leave-one-out predictions; None if there are neither.
    metrics: StepMetrics | None
    # The probabilities are the softmax of the logits divided by the temperature. The
    # metrics, which select the checkpoint, are computed at temperature 1.
    temperature: float = 1.0
    # Why the rule of `choose_config` chose the cell; None if the user did.
    reason: str | None = None
    # The SHA-256 of each file with a function of the user, by `SETTING=LABEL`.
    files: dict[str, str] = {}
    # A hash of each training sequence; empty for images.
    trained_on: tuple[str, ...] = ()


def without_functions(header: Header) -> Header:
    """Returns a header as a file or a pickle has it, in which texts name functions.

    Raises:
        UserError: if no other process could import the cell or the network, which
            predictions need.
    """
    functions = functions_of(header.config)
    for function in functions:
        if function.setting in ("model.cell", "model.network"):
            function.require_import()
    files = {
        f"{each.setting}={label(each)}": each.sha256
        for each in functions
        if each.sha256 is not None
    }
    config = name_functions(header.config)
    return replace(header, config=config, files=header.files | files)


def warn_of_changed_files(header: Header, config: RunConfig) -> None:
    """Warns of functions whose file has changed since a checkpoint was saved."""
    for function in functions_of(config):
        sha256 = header.files.get(f"{function.setting}={label(function)}")
        if sha256 not in (None, function.sha256):
            _logger.warning(
                f"{function.setting}: the file of {function} has changed since step "
                f"{header.step} was saved (its SHA-256 differs)"
            )


def read_header(folder: Path) -> Header | None:
    """Returns the header of a checkpoint; None if a file is not as it was saved.

    Raises:
        UserError: if the checkpoint is of another version of rnnmnist.
        RunError: if a file cannot be read.
    """
    files = read_undamaged(folder)
    if files is None:
        return None
    try:
        content = json.loads(files[HEADER_FILE])
        if content["format"] != FORMAT:
            raise ValueError(f"its format is {content['format']}, not {FORMAT}")
        # Unlike `msgspec.convert`, `from_dict` refuses a setting that this version does
        # not have.
        given = Config.from_dict(content["config"])
        config = fill_defaults(given, msgspec.convert(content["task"], Task))
        header = msgspec.convert(content | {"config": config}, Header)
    except Exception as error:
        raise UserError(
            f"workdir: another version of rnnmnist saved the checkpoint {folder} "
            f"({summarize_error(error)}); use that version, or name another workdir"
        ) from error
    if folder.name != str(header.step):
        raise UserError(
            f"workdir: the folder {folder} contains the checkpoint of step "
            f"{header.step}; rename it to {header.step}"
        )
    return header


def read_undamaged(folder: Path) -> dict[str, bytes] | None:
    """Returns what `read_files` does, or None if `SHA256SUMS` does not list the same.

    Raises:
        RunError: if a file cannot be read.
    """
    with read_errors(folder):
        files = read_files(folder)
        saved = b""
        with contextlib.suppress(FileNotFoundError):
            saved = (folder / SUMS_FILE).read_bytes()
        folder.stat()  # raises an error if a training process has deleted the step
    has_saved_files = saved == format_sums(files).encode()
    return files if has_saved_files and HEADER_FILE in files else None


def read_files(folder: Path) -> dict[str, bytes]:
    """Returns the files of the items of a step, by their paths in its folder.

    File systems and copying programs add files whose names begin with a dot.
    """

    def fail(error: OSError) -> None:
        raise error  # `os.walk` would leave out a folder that it cannot list

    files = {}
    for parent, _, names in os.walk(folder, onerror=fail):
        for name in names:
            path = Path(parent, name)
            relative = path.relative_to(folder)
            is_hidden = any(part.startswith(".") for part in relative.parts)
            if relative.parts[0] in ITEMS and not is_hidden and path.is_file():
                files[relative.as_posix()] = path.read_bytes()
    return files


def format_sums(files: Mapping[str, bytes]) -> str:
    """Returns the content of `SHA256SUMS`, with a line for each file."""
    lines = [
        f"{hashlib.sha256(files[name]).hexdigest()}  {name}\n" for name in sorted(files)
    ]
    return "".join(lines)


def seal(folder: Path) -> None:
    """Writes `SHA256SUMS`, which lists the files of a step that are restored.

    `sha256sum --check SHA256SUMS` in the folder compares them, too.
    """
    (folder / SUMS_FILE).write_text(format_sums(read_files(folder)))


def move_aside(folder: Path) -> None:
    """Renames a damaged checkpoint to `damaged-STEP`, so that it can be saved again."""
    target = folder.with_name(f"damaged-{folder.name}")
    shutil.rmtree(target, ignore_errors=True)
    folder.rename(target)
    _logger.warning(
        f"checkpoint {folder.name} is damaged and not used; it was renamed to {target}"
    )


@contextlib.contextmanager
def read_errors(folder: Path) -> Iterator[None]:
    """Turns the errors of a read, which prove no damage, into RunError."""
    try:
        yield
    except Exception as error:  # orbax and tensorstore raise errors of any type
        raise RunError(
            f"checkpoint {folder} cannot be read ({summarize_error(error)}), but need "
            "not be damaged: a training process may have deleted it, or memory, "
            "threads or open files may have run out; run the command again"
        ) from error
