"""The files of a checkpoint: header and checksums, which detect damage.

A workdir contains a folder for each kept step, with these items:

- `params`: the evaluated parameters;
- `state`: all training arrays, including the parameters, from which a run resumes;
- `header`: the `Header`.

`SHA256SUMS` lists the SHA-256 of each file in the items. `read_header` verifies all
checksums before it parses a file, because orbax does not detect a flipped byte. A
checkpoint is damaged only if a file does not match its checksum. A read that fails for
lack of memory, threads or open files is not damage.
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

from rnnmnist.config.functions import short_name
from rnnmnist.config.resolving import (
    RunConfig,
    fill_defaults,
    functions_to_specs,
    imported_functions,
)
from rnnmnist.config.schema import Config
from rnnmnist.config.tasks import Task
from rnnmnist.errors import RunError, UserError, summarize_error
from rnnmnist.runs.logs import StepMetrics
from rnnmnist.runs.workdir import HEADER_FILE, SUMS_FILE

# Increase this number if older checkpoints would be misread: after renaming or removing
# a setting, a header field or an array, or drawing splits differently. Then also
# rewrite and seal the shipped models. New settings do not need a new format: their
# defaults must be the values with which earlier runs were trained.
FORMAT = 12
ITEMS = ("params", "state", "header")

Tree = Any  # a tree of arrays or shapes, for which Python has no type

_logger = logging.getLogger(__name__)


class Header(msgspec.Struct, frozen=True, kw_only=True):
    """The metadata of a checkpoint, in addition to its arrays."""

    format: int = FORMAT
    step: int
    config: RunConfig
    task: Task
    # Validation or leave-one-out metrics; None if the step was not validated.
    metrics: StepMetrics | None
    # probabilities = softmax(logits / temperature). The metrics, which select the
    # checkpoint, are computed with temperature 1.
    temperature: float = 1.0
    # Why `choose_config` chose the cell; None if the user chose it.
    reason: str | None = None
    # The SHA-256 of each file with a user-defined function, by `SETTING=LABEL`.
    files: dict[str, str] = {}
    # One hash per training sequence; empty for images.
    trained_on: tuple[str, ...] = ()


def without_functions(header: Header) -> Header:
    """Replaces functions in a header by the texts that name them, for a file or pickle.

    Raises:
        UserError: if other processes cannot import the cell or the network, which
            predictions require.
    """
    functions = imported_functions(header.config)
    for function in functions:
        if function.setting in ("model.cell", "model.network"):
            function.check_importable()
    files = {
        f"{function.setting}={short_name(function)}": function.sha256
        for function in functions
        if function.sha256 is not None
    }
    config = functions_to_specs(header.config)
    return replace(header, config=config, files=header.files | files)


def warn_of_changed_files(header: Header, config: RunConfig) -> None:
    """Warns about user-defined functions whose file has changed since a checkpoint."""
    for function in imported_functions(config):
        sha256 = header.files.get(f"{function.setting}={short_name(function)}")
        if sha256 not in (None, function.sha256):
            _logger.warning(
                f"{function.setting}: the file of {function} has changed since step "
                f"{header.step} was saved (its SHA-256 differs)"
            )


def read_header(folder: Path) -> Header | None:
    """Verifies a checkpoint and returns its header; None if the checkpoint is damaged.

    Raises:
        UserError: if another version of rnnmnist saved the checkpoint, or if its folder
            was renamed.
        RunError: if a file cannot be read.
    """
    files = read_undamaged(folder)
    if files is None:
        return None
    try:
        content = json.loads(files[HEADER_FILE])
        if content["format"] != FORMAT:
            raise ValueError(f"its format is {content['format']}, not {FORMAT}")
        # `from_dict` refuses unknown settings, which `msgspec.convert` would ignore.
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
    """Reads the files of a step; returns None if they do not match `SHA256SUMS`.

    Raises:
        RunError: if a file cannot be read.
    """
    with read_errors(folder):
        files = read_files(folder)
        saved = b""
        with contextlib.suppress(FileNotFoundError):
            saved = (folder / SUMS_FILE).read_bytes()
        folder.stat()  # fails if a training process has deleted the step
    has_saved_files = saved == format_sums(files).encode()
    return files if has_saved_files and HEADER_FILE in files else None


def read_files(folder: Path) -> dict[str, bytes]:
    """Reads the files of a step's items, by relative path.

    Skips names that begin with a dot: file systems and copying programs add such files.
    """

    def fail(error: OSError) -> None:
        raise error  # by default, `os.walk` skips folders that it cannot list

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
    """Formats the content of `SHA256SUMS`, one line per file."""
    lines = [
        f"{hashlib.sha256(files[name]).hexdigest()}  {name}\n" for name in sorted(files)
    ]
    return "".join(lines)


def seal(folder: Path) -> None:
    """Writes the checksums of a step's files to `SHA256SUMS`.

    `sha256sum --check SHA256SUMS` verifies them in the step's folder.
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
    """Turns read errors, which do not prove damage, into a `RunError`."""
    try:
        yield
    except Exception as error:  # orbax and tensorstore raise many types
        raise RunError(
            f"checkpoint {folder} cannot be read ({summarize_error(error)}), but need "
            "not be damaged: a training process may have deleted it, or memory, "
            "threads or open files may have run out; run the command again"
        ) from error
