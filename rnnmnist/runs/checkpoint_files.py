"""Checkpoint files: the header, and the checksums that detect damage.

A workdir contains one folder per saved step, with these items:

- `params`: the evaluated parameters;
- `state`: all arrays from which training resumes, including the parameters;
- `header`: the `Header`.

`SHA256SUMS` lists the SHA-256 of each file in the items. `read_header` verifies all
checksums before it parses a file, because Orbax does not detect a flipped byte. A
checkpoint is damaged only if a file does not match its checksum. If a read fails for
lack of memory, threads or file descriptors, the checkpoint is not damaged.
"""

import contextlib
import hashlib
import json
import logging
import os
import shutil
from collections.abc import Iterator
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
from rnnmnist.runs.workdir import CHECKSUMS_FILE, HEADER_FILE

# Increase this number if older checkpoints would be misread: after renaming or removing
# a setting, a header field or an array, or drawing splits differently. Then also
# rewrite the shipped models and their checksums. A new setting does not need a new
# format if its default is the value with which earlier runs were trained.
FORMAT_VERSION = 12
ITEMS = ("params", "state", "header")

Tree = Any  # a pytree of arrays or shapes

_logger = logging.getLogger(__name__)


class Header(msgspec.Struct, frozen=True, kw_only=True):
    """The metadata of a checkpoint."""

    format: int = FORMAT_VERSION
    step: int
    config: RunConfig
    task: Task
    # Validation or leave-one-out metrics, computed with temperature 1. They select the
    # best checkpoint. None if the step was not validated.
    metrics: StepMetrics | None
    # probabilities = softmax(logits / temperature)
    temperature: float = 1.0
    # Why `choose_config` chose the cell; None if the user chose it.
    reason: str | None = None
    # The SHA-256 of each custom function's file. The keys have the form
    # `SETTING=NAME`, where NAME is the result of `short_name`.
    files: dict[str, str] = {}
    # One hash per training sequence; empty for images.
    trained_on: tuple[str, ...] = ()


def replace_functions(header: Header) -> Header:
    """Replaces functions with their specifications, to save or pickle the header.

    Raises:
        UserError: if another process could not import the cell or the network. Both are
            needed for predictions.
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


def warn_about_changed_files(header: Header, config: RunConfig) -> None:
    """Warns about custom functions whose files have changed since the save."""
    for function in imported_functions(config):
        sha256 = header.files.get(f"{function.setting}={short_name(function)}")
        if sha256 not in (None, function.sha256):
            _logger.warning(
                f"{function.setting}: the file that defines {function} has changed "
                f"since step {header.step} was saved (its SHA-256 is different)"
            )


def read_header(folder: Path) -> Header | None:
    """Verifies a checkpoint and returns its header, or None if it is damaged.

    Raises:
        UserError: if the checkpoint was saved by an incompatible version of rnnmnist,
            or if its folder was renamed.
        RunError: if a file cannot be read.
    """
    if not is_intact(folder):
        return None
    with wrap_read_errors(folder):
        text = (folder / HEADER_FILE).read_bytes()
    try:
        content = json.loads(text)
        if content["format"] != FORMAT_VERSION:
            raise ValueError(
                f"its format version is {content['format']}, not {FORMAT_VERSION}"
            )
        # `from_dict` rejects unknown settings, which `msgspec.convert` would ignore.
        saved_config = Config.from_dict(content["config"])
        config = fill_defaults(saved_config, msgspec.convert(content["task"], Task))
        header = msgspec.convert(content | {"config": config}, Header)
    except Exception as error:
        raise UserError(
            f"workdir: the checkpoint {folder} was saved by another version of "
            f"rnnmnist ({summarize_error(error)}); use that version, or choose another "
            "workdir"
        ) from error
    if folder.name != str(header.step):
        raise UserError(
            f"workdir: the folder {folder} contains the checkpoint of step "
            f"{header.step}; rename the folder to {header.step}"
        )
    return header


def is_intact(folder: Path) -> bool:
    """Returns True if the files of a checkpoint match `SHA256SUMS`.

    Raises:
        RunError: if a file cannot be read.
    """
    with wrap_read_errors(folder):
        actual = compute_checksums(folder)
        saved = b""
        with contextlib.suppress(FileNotFoundError):
            saved = (folder / CHECKSUMS_FILE).read_bytes()
        folder.stat()  # fails if a training process has deleted the checkpoint
        return saved == actual.encode() and (folder / HEADER_FILE).exists()


def compute_checksums(folder: Path) -> str:
    """Computes the content of `SHA256SUMS`: one line per file of a checkpoint.

    Hidden files are skipped, because file systems and copying programs add them.
    """

    def raise_error(error: OSError) -> None:
        raise error  # by default, `os.walk` skips folders that it cannot list

    checksums = {}
    for parent, _, names in os.walk(folder, onerror=raise_error):
        for name in names:
            path = Path(parent, name)
            relative = path.relative_to(folder)
            is_hidden = any(part.startswith(".") for part in relative.parts)
            if relative.parts[0] in ITEMS and not is_hidden and path.is_file():
                with path.open("rb") as file:
                    digest = hashlib.file_digest(file, "sha256")
                checksums[relative.as_posix()] = digest.hexdigest()
    return "".join(f"{checksums[name]}  {name}\n" for name in sorted(checksums))


def write_checksums(folder: Path) -> None:
    """Writes the checksums of a checkpoint's files to `SHA256SUMS`.

    To verify them, run `sha256sum --check SHA256SUMS` in the checkpoint's folder.
    """
    (folder / CHECKSUMS_FILE).write_text(compute_checksums(folder))


def move_aside(folder: Path) -> None:
    """Renames a damaged checkpoint to `damaged-STEP`, so that it can be replaced."""
    target = folder.with_name(f"damaged-{folder.name}")
    shutil.rmtree(target, ignore_errors=True)
    folder.rename(target)
    _logger.warning(
        f"checkpoint {folder.name} is damaged and was not used; it was renamed to "
        f"{target}"
    )


@contextlib.contextmanager
def wrap_read_errors(folder: Path) -> Iterator[None]:
    """Converts any error while reading a checkpoint to a `RunError`.

    A read error does not prove that the checkpoint is damaged.
    """
    try:
        yield
    except Exception as error:  # Orbax raises many exception types
        raise RunError(
            f"checkpoint {folder} cannot be read ({summarize_error(error)}); it may "
            "not be damaged: a training process may have deleted it, or this process "
            "may have run out of memory, threads or file descriptors; run the command "
            "again"
        ) from error
