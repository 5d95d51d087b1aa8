"""The files of a checkpoint: its header, its checksums, and what is damaged.

A workdir holds one folder for each kept step, with these items:

- `params`: the evaluated parameters;
- `state`: what resuming needs besides them (the optimizer's state and the step);
- `header`: configuration, task, validation metrics, and the multiplier of the logits.

`SHA256SUMS` has the SHA-256 of each file of the items. A read compares the files of its
item before it parses them, because orbax alone does not detect a flipped byte. Only a
difference is damage: a lack of memory, threads or open files is not.
"""

import contextlib
import hashlib
import itertools
import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated

import msgspec

from rnnmnist.config.resolving import RunConfig, fill_defaults
from rnnmnist.config.schema import Config
from rnnmnist.config.tasks import Task
from rnnmnist.errors import Failure, RunError, UserError, summarize_error
from rnnmnist.runs.logs import Metrics
from rnnmnist.runs.workdir import HEADER_FILE, SUMS_FILE, list_steps

# The format is raised if a setting or a field of the header is renamed or removed, and
# its older values would be misread; then the shipped models must be rewritten and
# sealed, too. A setting that is added has the default with which earlier runs trained.
FORMAT = 6
# The header comes last in `SHA256SUMS`, so that it is missing in a truncated one.
ITEMS = ("params", "state", "header")


class Header(msgspec.Struct, frozen=True, kw_only=True):
    """The content of the item `header`."""

    format: int = FORMAT
    step: int
    config: RunConfig
    task: Task
    # Of the validation split, or leave-one-out predictions; None if there are neither.
    metrics: Metrics | None
    # By which the logits are multiplied for the probabilities. The metrics, which
    # select the checkpoint, are those without it.
    multiplier: Annotated[float, msgspec.Meta(gt=0)] = 1.0


class DamagedError(RunError):
    """A checkpoint differs from what was saved."""

    def __init__(self, folder: Path, reason: str) -> None:
        super().__init__(
            f"checkpoint {folder} is damaged: {reason}; choose another step, or, if it "
            "is the newest, repeat the training command to write it again"
        )
        self.folder = folder
        self.reason = reason


def read_header(workdir: Path, step: int) -> Header:
    """Returns the header of a checkpoint.

    Raises:
        DamagedError: if it differs from what was saved.
        UserError: if the checkpoint is of another version of rnnmnist.
        RunError: if it cannot be read.
    """
    folder = workdir / str(step)
    with read_errors(folder):
        check_files(folder, "header")
        content = json.loads((folder / HEADER_FILE).read_bytes())
    try:
        if content["format"] != FORMAT:
            raise ValueError(f"its format is {content['format']}, not {FORMAT}")
        # Unlike `msgspec.convert`, `from_dict` refuses a setting that this version does
        # not have. Earlier versions left some defaults to the readers of a header.
        given = Config.from_dict(content["config"])
        config = fill_defaults(given, msgspec.convert(content["task"], Task))
        header = msgspec.convert(content | {"config": config}, Header)
    except Exception as error:
        raise _error_of_another_version(folder, summarize_error(error)) from error
    if header.step != step:
        raise DamagedError(folder, f"it is step {header.step}")
    return header


def newest_readable(workdir: Path) -> tuple[int, Header | None]:
    """Returns the newest step whose header is undamaged, and the header.

    They are 0 and None if there is no such step.
    """
    for step in reversed(list_steps(workdir)):
        with contextlib.suppress(DamagedError):
            return step, read_header(workdir, step)
    return 0, None


def has_state(workdir: Path, step: int) -> bool:
    """Whether a checkpoint has a training state, from which a run can resume.

    A checkpoint that is only evaluated, such as a shipped model, has none.
    """
    folder = workdir / str(step)
    with read_errors(folder):
        names = _read_sums(folder)
    return any(_item_of(name) == "state" for name in names)


def network_files(folder: Path) -> dict[str, bytes]:
    """Returns the files of a step without its training state, by their paths in it.

    Written to another folder of the same name, they are a checkpoint that can be
    evaluated.
    """
    with read_errors(folder):
        sums = _read_sums(folder)
        kept = {name: sums[name] for name in sums if _item_of(name) != "state"}
        files = {name: (folder / name).read_bytes() for name in kept}
    return files | {SUMS_FILE: _format_sums(kept).encode()}


def find_fault(workdir: Path, step: int) -> str | None:
    """Compares a checkpoint with its checksums.

    Returns what differs from what was saved, or None.
    """
    folder = workdir / str(step)
    try:
        read_header(workdir, step)
        with read_errors(folder):
            check_files(folder, *ITEMS)
    except DamagedError as error:
        return error.reason
    return None


def quarantine(workdir: Path, step: int) -> Path:
    """Renames a damaged checkpoint, so that its step can be saved again.

    Returns its new path, `damaged-STEP`, or `damaged-STEP-2` and so on.
    """
    target = workdir / f"damaged-{step}"
    for number in itertools.count(2):
        if not target.exists():
            break
        target = workdir / f"damaged-{step}-{number}"
    return (workdir / str(step)).rename(target)


def seal(folder: Path) -> None:
    """Writes `SHA256SUMS`, which lists the files of a step that are restored.

    `sha256sum --check SHA256SUMS` in the folder compares them, too.
    """
    names = [name for item in ITEMS for name in _files_of(folder, item)]
    sums = {name: _sha256(folder / name) for name in names}
    (folder / SUMS_FILE).write_text(_format_sums(sums))


def check_files(folder: Path, *items: str) -> None:
    """Compares the files of items with their SHA-256.

    Raises:
        DamagedError: if one is missing, differs, or has no SHA-256.
    """
    sums = _read_sums(folder)
    for item in items:
        for path in _files_of(folder, item):
            if path not in sums:
                raise DamagedError(folder, f"{path} is not in {SUMS_FILE}")
    for name, sha256 in sums.items():
        if _item_of(name) not in items:
            continue
        try:
            differs = _sha256(folder / name) != sha256
        except (FileNotFoundError, NotADirectoryError, IsADirectoryError) as error:
            raise DamagedError(folder, f"{name} is missing") from error
        if differs:
            raise DamagedError(folder, f"{name} differs from its SHA-256")


@contextlib.contextmanager
def read_errors(folder: Path) -> Iterator[None]:
    """Turns the errors of a read, which prove no damage, into RunError."""
    try:
        yield
    except Failure:
        raise
    except Exception as error:  # orbax and tensorstore raise errors of any type
        raise RunError(
            f"checkpoint {folder} cannot be read ({summarize_error(error)}), which "
            "does not mean that it is damaged; check that its files may be read, free "
            "memory, threads or open files if they are short, and run the command again"
        ) from error


def _files_of(folder: Path, item: str) -> list[str]:
    """Returns the files of an item, by their paths in the folder of the step.

    File systems and copying programs add files whose names begin with a dot.
    """
    files = [path for path in (folder / item).rglob("*") if path.is_file()]
    names = sorted(path.relative_to(folder).as_posix() for path in files)
    return [name for name in names if "/." not in name]


def _item_of(name: str) -> str:
    """Returns the item to which a file of a step belongs."""
    return name.partition("/")[0]


def _format_sums(sums: Mapping[str, str]) -> str:
    """Returns the content of `SHA256SUMS` from the SHA-256 of each file."""
    lines = [f"{sha256}  {name}\n" for name, sha256 in sums.items()]
    return "".join(lines)


def _read_sums(folder: Path) -> dict[str, str]:
    """Returns the SHA-256 of each file that is restored, by its path in the folder."""
    try:
        text = (folder / SUMS_FILE).read_bytes().decode(errors="replace")
    except FileNotFoundError as error:
        _refuse_earlier_version(folder)
        raise DamagedError(folder, f"{SUMS_FILE} is missing") from error
    # No part of a path begins with a dot, so that none leads out of the folder.
    path = f"(?:{'|'.join(ITEMS)})(?:/[a-zA-Z0-9_-][a-zA-Z0-9_.-]*)+"
    line = f"([0-9a-f]{{64}})  ({path})\n"
    has_only_lines = re.fullmatch(f"(?:{line})*", text) is not None
    sums = {name: sha256 for sha256, name in re.findall(line, text)}
    if not has_only_lines or HEADER_FILE not in sums:
        raise DamagedError(folder, f"{SUMS_FILE} is damaged")
    return sums


def _refuse_earlier_version(folder: Path) -> None:
    """Raises a `UserError` if a header is of a version without `SHA256SUMS`."""
    try:
        content = json.loads((folder / HEADER_FILE).read_bytes())
    except (FileNotFoundError, ValueError, RecursionError):
        return  # the header is damaged, too
    version = content.get("format") if isinstance(content, dict) else None
    if version != FORMAT:
        reason = f"its format is {version}, not {FORMAT}"
        raise _error_of_another_version(folder, reason)


def _error_of_another_version(folder: Path, reason: str) -> UserError:
    return UserError(
        f"workdir: the checkpoint {folder} is of another version of rnnmnist "
        f"({reason}); use that version, or name another workdir"
    )


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
