"""Saves and restores checkpoints with orbax.

A workdir holds one folder for each kept step, with these items:

- `params`: the evaluated parameters;
- `state`: what resuming needs besides them (the optimizer's state and the step);
- `header`: configuration, task, and validation metrics.

All arrays but the step have a leading ensemble axis, of length 1 for a single seed.
`SHA256SUMS` has the SHA-256 of each file of the items. A read compares the files of its
item before it parses them, because orbax alone does not detect a flipped byte. Only a
difference is damage: a lack of memory, threads or open files is not.

Reading does not use orbax's manager, which can create and delete folders, and does not
synchronize processes. Writing does, on all processes together.
"""

import contextlib
import functools
import hashlib
import itertools
import json
import logging
import re
import shutil
import threading
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import jax
import msgspec
import numpy as np
import orbax.checkpoint as ocp  # noqa: TID251

from rnnmnist.config.resolving import RunConfig, fill_defaults
from rnnmnist.config.schema import Config
from rnnmnist.config.tasks import Task
from rnnmnist.errors import RunError, UserError, first_line
from rnnmnist.runs.logs import Metrics
from rnnmnist.runs.scores import best_step
from rnnmnist.runs.workdir import (
    HEADER_FILE,
    SUMS_FILE,
    describe_last_checkpoint,
    list_steps,
)
from rnnmnist.runs.writing import sync
from rnnmnist.runtime.distributed import is_process_0
from rnnmnist.runtime.mesh import local_sharding
from rnnmnist.runtime.signals import deferred_interrupts

# Raised if a setting or a field of a record below is renamed or removed; then rewrite
# and seal the shipped models, too. What is added has the default of runs before.
FORMAT = 4
# The header comes last in `SHA256SUMS`, so that it is missing in a truncated one.
ITEMS = ("params", "state", "header")
SHORTAGE = "free disk space, memory, threads or open files, whichever is short,"
# Steps that are no longer kept are moved there, so that none is found half deleted.
DELETED_FOLDER = ".deleted"
# orbax numbers the saves of a process, and while a save starts, its parts take the
# number of one that another thread starts. Its writes and reads need no lock.
SAVE_LOCK = threading.Lock()

_warn_once = functools.cache(logging.getLogger(__name__).warning)


class Header(msgspec.Struct, frozen=True, kw_only=True):
    """The content of the item `header`."""

    format: int = FORMAT
    step: int
    config: RunConfig
    task: Task
    metrics: Metrics | None  # on the validation split


class DamagedError(RunError):
    """A checkpoint differs from what was saved."""

    def __init__(self, folder: Path, reason: str) -> None:
        super().__init__(
            f"checkpoint {folder} is damaged: {reason}; choose another step, or, if it "
            "is the newest, repeat the training command to write it again"
        )
        self.folder = folder
        self.reason = reason


class Checkpoints(contextlib.AbstractContextManager["Checkpoints"]):
    """Writes the checkpoints of a run; leaving the context completes the last save."""

    def __init__(self, workdir: Path, config: RunConfig, task: Task) -> None:
        """Opens the workdir of a run and removes unfinished saves from it."""
        self._workdir = workdir
        self._config = config
        self._task = task
        steps = list_steps(workdir)
        self._metrics = {step: read_header(workdir, step).metrics for step in steps}
        options = ocp.CheckpointManagerOptions(
            cleanup_tmp_directories=True,
            todelete_subdir=DELETED_FOLDER,
            preservation_policy=self,
            async_options=ocp.AsyncOptions(post_finalization_callback=self._finish),
        )
        with self._run_errors():
            self._manager = ocp.CheckpointManager(workdir, options=options)

    def __exit__(self, kind: object, error: object, traceback: object) -> None:
        try:
            with self._run_errors():
                self._manager.close()
        except RunError:  # a save failed in the background
            if error is None:
                raise
        self._delete()

    def _finish(self) -> None:
        """Seals the step that process 0 renames next, and writes it to the disk."""
        for folder in self._workdir.glob("*.orbax-checkpoint-tmp/"):
            seal(folder)
            sync(folder, *folder.rglob("*"))  # orbax syncs arrays only

    def _delete(self) -> None:
        """Deletes the steps that are no longer kept."""
        if is_process_0():
            shutil.rmtree(self._workdir / DELETED_FOLDER, ignore_errors=True)

    def should_preserve(
        self, checkpoints: Sequence[Any], *, context: Any
    ) -> list[bool]:
        """Tells orbax which steps it keeps: the newest ones and the best one."""
        steps = [checkpoint.step for checkpoint in checkpoints]
        best = best_step(
            {step: self._metrics[step] for step in steps},
            has_class_weights=self._config.train.has_class_weights,
        )
        kept = {best, *steps[-self._config.train.keep_checkpoints :]}
        return [step in kept for step in steps]

    def save(
        self, step: int, arrays: Mapping[str, Any], metrics: Metrics | None
    ) -> None:
        """Starts saving a checkpoint. The arrays may be donated after the call.

        There is a tree of arrays for each of the items `params` and `state`. The
        metrics are those of the validation split, None if it is not evaluated.
        """
        # orbax would compile a program for each shape of arrays on several devices.
        arrays = jax.device_get(dict(arrays))
        header = Header(
            step=step, config=self._config, task=self._task, metrics=metrics
        )
        items = {item: ocp.args.StandardSave(tree) for item, tree in arrays.items()}
        items["header"] = ocp.args.JsonSave(msgspec.to_builtins(header))
        self._metrics[step] = metrics
        self.wait()
        self._delete()
        with self._run_errors(), SAVE_LOCK:
            self._manager.save(step, args=ocp.args.Composite(**items))

    def wait(self) -> None:
        """Waits until the last save is on disk."""
        with self._run_errors():
            self._manager.wait_until_finished()

    @contextlib.contextmanager
    def _run_errors(self) -> Iterator[None]:
        """Turns the errors of orbax and tensorstore, of many types, into RunError.

        An interrupt is handled at the end: within orbax, threads would go on writing.
        """
        try:
            # Processes exchange small numbers.
            with deferred_interrupts(), _without_logs(), jax.transfer_guard("allow"):
                yield
        except Exception as error:
            raise RunError(
                f"a checkpoint could not be written in {self._workdir} "
                f"({first_line(error)}); {describe_last_checkpoint(self._workdir)}; "
                f"{SHORTAGE} and run the command again"
            ) from error


@contextlib.contextmanager
def _without_logs() -> Iterator[None]:
    """Drops the log records of orbax and of its event loops.

    It warns in normal use, for example that a save without validation has no metrics.
    On a real problem it raises.
    """

    def is_of_others(record: logging.LogRecord) -> bool:
        return record.name != "asyncio" and "orbax" not in record.pathname

    with contextlib.ExitStack() as stack:
        for name in ("absl", "asyncio"):
            logging.getLogger(name).addFilter(is_of_others)
            stack.callback(logging.getLogger(name).removeFilter, is_of_others)
        yield


def named_leaves(tree: Any) -> list[tuple[str, Any]]:
    """Returns the leaves of a tree, each with its path as `cell/hf/bias`."""
    # Names without the entry's type: orbax restores named tuples as dictionaries.
    return [
        (jax.tree_util.keystr(path, simple=True, separator="/"), leaf)
        for path, leaf in jax.tree_util.tree_leaves_with_path(tree)
    ]


def params_sha256(params: Mapping[str, Any]) -> str:
    """Returns the SHA-256 over the bytes of all arrays in tree order."""
    digest = hashlib.sha256()
    for leaf in jax.tree.leaves(jax.device_get(params)):
        digest.update(np.ascontiguousarray(leaf).data)
    return digest.hexdigest()


def seal(folder: Path) -> None:
    """Writes `SHA256SUMS` of the files of a step that are restored.

    `sha256sum --check SHA256SUMS` in the folder compares them, too.
    """
    files = [
        path
        for item in ITEMS
        for path in sorted((folder / item).rglob("*"))
        if path.is_file()
    ]
    sums = {str(path.relative_to(folder)): _sha256(path) for path in files}
    (folder / SUMS_FILE).write_text(_format_sums(sums))


def network_files(folder: Path) -> dict[str, bytes]:
    """Returns the files of a step without its training state, by their paths in it.

    In another folder of the same name, they are a checkpoint with parameters only.
    """
    with _reading(folder):
        sums = _read_sums(folder)
        sums = {name: sums[name] for name in sums if not name.startswith("state/")}
        files = {name: (folder / name).read_bytes() for name in sums}
    return files | {SUMS_FILE: _format_sums(sums).encode()}


def read_header(workdir: Path, step: int) -> Header:
    """Returns the header of a checkpoint.

    Raises:
        DamagedError: if it differs from what was saved.
        UserError: if the checkpoint is of another version of rnnmnist.
        RunError: if it cannot be read.
    """
    folder = workdir / str(step)
    with _reading(folder):
        _compare(folder, "header")
        content = json.loads((folder / HEADER_FILE).read_bytes())
    try:
        if content["format"] != FORMAT:
            raise ValueError(f"its format is {content['format']}, not {FORMAT}")
        # Unlike `convert`, `from_dict` refuses a setting that a later version has
        # added. An earlier version has left a default to its readers.
        given = Config.from_dict(content["config"])
        config = fill_defaults(given, msgspec.convert(content["task"], Task))
        header = msgspec.convert(content | {"config": config}, Header)
    except Exception as error:
        raise _of_another_version(folder, first_line(error)) from error
    if header.step != step:
        raise DamagedError(folder, f"it is step {header.step}")
    return header


def newest_readable(workdir: Path) -> tuple[int, Header | None]:
    """Returns the newest step whose header is undamaged, and the header."""
    for step in reversed(list_steps(workdir)):
        with contextlib.suppress(DamagedError):
            return step, read_header(workdir, step)
    return 0, None


def has_state(workdir: Path, step: int) -> bool:
    """Whether a run can resume from a checkpoint, which else has parameters only."""
    folder = workdir / str(step)
    with _reading(folder):
        return any(name.startswith("state/") for name in _read_sums(folder))


def read_arrays(workdir: Path, step: int, item: str, like: Any = None) -> Any:
    """Restores an item of a checkpoint, `params` or `state`, as NumPy arrays.

    They must have the names, shapes and types of `like`. None restores what was saved,
    with dictionaries and lists in place of named tuples.

    Raises:
        DamagedError: if a file of the item differs from what was saved.
        RunError: if it cannot be read, or has other arrays.
    """
    folder = workdir / str(step)
    with _reading(folder):
        _compare(folder, item)
        return jax.tree.map(np.asarray, _restore(folder, item, like))


def find_fault(workdir: Path, step: int) -> str | None:
    """Compares a checkpoint with its checksums; returns what differs, or None."""
    folder = workdir / str(step)
    try:
        read_header(workdir, step)
        with _reading(folder):
            _compare(folder, *ITEMS)
    except DamagedError as error:
        return error.reason
    return None


@contextlib.contextmanager
def _reading(folder: Path) -> Iterator[None]:
    """Turns the errors of a read, which prove no damage, into RunError."""
    try:
        yield
    except RunError:
        raise
    except Exception as error:  # of orbax and tensorstore, of any type
        raise RunError(
            f"checkpoint {folder} cannot be read ({first_line(error)}), which does not "
            "mean that it is damaged; check that its files may be read, free memory, "
            "threads or open files if they are short, and run the command again"
        ) from error


def _of_another_version(folder: Path, reason: str) -> UserError:
    return UserError(
        f"workdir: the checkpoint {folder} is of another version of rnnmnist "
        f"({reason}); use that version, or name another workdir"
    )


def _compare(folder: Path, *items: str) -> None:
    """Compares the files of items with their SHA-256.

    Raises:
        DamagedError: if one is missing or differs.
    """
    for name, sha256 in _read_sums(folder).items():
        if name.partition("/")[0] not in items:
            continue
        try:
            differs = _sha256(folder / name) != sha256
        except (FileNotFoundError, NotADirectoryError, IsADirectoryError) as error:
            raise DamagedError(folder, f"{name} is missing") from error
        if differs:
            raise DamagedError(folder, f"{name} differs from its SHA-256")


def _format_sums(sums: Mapping[str, str]) -> str:
    """Returns the content of `SHA256SUMS` from the SHA-256 of each file."""
    return "".join(f"{sha256}  {name}\n" for name, sha256 in sums.items())


def _read_sums(folder: Path) -> dict[str, str]:
    """Returns the SHA-256 of each file that is restored, by its path in the folder."""
    try:
        text = (folder / SUMS_FILE).read_bytes().decode(errors="replace")
    except FileNotFoundError as error:
        _refuse_earlier_version(folder)
        raise DamagedError(folder, f"{SUMS_FILE} is missing") from error
    line = f"([0-9a-f]{{64}})  ((?:{'|'.join(ITEMS)})/[a-zA-Z0-9_./-]+)\n"
    sums = {name: sha256 for sha256, name in re.findall(line, text)}
    if re.fullmatch(f"(?:{line})*", text) is None or HEADER_FILE not in sums:
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
        raise _of_another_version(folder, f"its format is {version}, not {FORMAT}")


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def quarantine(workdir: Path, step: int) -> Path:
    """Renames a damaged checkpoint, so that its step can be saved again.

    Returns its new path, `damaged-STEP`, or `damaged-STEP-2` and so on.
    """
    suffixes = itertools.chain([""], (f"-{number}" for number in itertools.count(2)))
    paths = (workdir / f"damaged-{step}{suffix}" for suffix in suffixes)
    return (workdir / str(step)).rename(next(p for p in paths if not p.exists()))


def _restore(folder: Path, item: str, like: Any) -> Any:
    """Restores a tree of arrays on one device, without the other processes."""
    process = jax.process_index()
    options = ocp.options.MultiprocessingOptions(
        primary_host=process,
        active_processes={process},
        barrier_sync_key_prefix=f"process_{process}",
    )
    with (
        deferred_interrupts(),
        _without_logs(),
        ocp.StandardCheckpointer(multiprocessing_options=options) as checkpointer,
    ):
        saved = checkpointer.metadata(folder / item).item_metadata
        if saved is None:
            raise ValueError(f"{item} has no metadata")
        # orbax would cast to another type silently.
        _check_leaves(folder, item, saved.tree, like)
        target = jax.tree.map(
            lambda leaf: jax.ShapeDtypeStruct(
                leaf.shape, leaf.dtype, sharding=local_sharding()
            ),
            saved.tree if like is None else like,
        )
        return checkpointer.restore(folder / item, target)


def _check_leaves(folder: Path, item: str, saved_tree: Any, expected: Any) -> None:
    def describe(leaf: Any) -> str:
        return f"{np.dtype(leaf.dtype)} {tuple(leaf.shape)}"

    saved = {name: describe(leaf) for name, leaf in named_leaves(saved_tree)}
    for name, leaf in named_leaves(expected):
        actual = saved.get(name, "missing")
        if actual != describe(leaf):
            raise RunError(
                f"checkpoint {folder}: {name} in {item} is {actual}, not "
                f"{describe(leaf)}: it is of another version of rnnmnist, or of other "
                "settings; name another workdir"
            )


T = TypeVar("T")


def find_step(
    workdir: Path, selector: str, damaged: Collection[int] = frozenset()
) -> int:
    """Returns the step of the checkpoint `best`, `latest`, or with this number.

    Steps that are known to be damaged are left out.
    """
    if not workdir.is_dir():
        raise UserError(f"workdir: {workdir} does not exist; name a run's folder")
    steps = [step for step in list_steps(workdir) if step not in damaged]
    if not steps:
        raise UserError(
            f"workdir: {workdir} holds no checkpoint; train in it with "
            "python -m rnnmnist.main"
        )
    if selector == "latest":
        return steps[-1]
    if selector == "best":
        validations: dict[int, Metrics | None] = dict.fromkeys(steps)
        has_class_weights = False
        for step in steps:
            try:
                header = read_header(workdir, step)
            except DamagedError as error:  # selected only if no step was validated
                if error.folder.exists():
                    _warn_of(error)
                continue
            validations[step] = header.metrics
            has_class_weights = header.config.train.has_class_weights
        return best_step(validations, has_class_weights=has_class_weights)
    if selector in map(str, steps):
        return int(selector)
    raise UserError(
        f"step: {workdir} has no step {selector}; choose best, latest or one of "
        f"{', '.join(map(str, steps))}"
    )


def with_step(workdir: Path, selector: str, function: Callable[[int], T]) -> T:
    """Calls a function with the selected step.

    A running trainer deletes old checkpoints, so the step can disappear while it is
    read. Then the function is called again with the step that is selected by now. If
    the step is damaged, `best` and `latest` select another one, with a warning.
    """
    damaged = set[int]()
    while True:
        step = find_step(workdir, selector, damaged)
        try:
            return function(step)
        except UserError:
            raise
        except RunError as error:
            if not (workdir / str(step)).exists():
                continue
            damaged.add(step)
            others = set(list_steps(workdir)) - damaged
            is_by_number = selector not in ("best", "latest")
            if not isinstance(error, DamagedError) or is_by_number or not others:
                raise
            _warn_of(error)


def _warn_of(error: DamagedError) -> None:
    _warn_once(f"{error.folder} is damaged and not used: {error.reason}")
