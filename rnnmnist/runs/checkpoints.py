"""Saves and restores checkpoints with orbax.

A workdir holds one folder for each kept step, with these items:

- `params`: the evaluated parameters;
- `state`: what resuming needs besides them (the optimizer's state and the step);
- `header`: configuration, task, validation metrics, and the SHA-256 of every array.

Everything that is read is compared with the checksums, because orbax alone does not
detect a flipped byte. Reading does not use orbax's manager, which can create and delete
folders, and does not synchronize processes. Writing does, on all processes together.
Results and exports have such checksums, too.
"""

import contextlib
import functools
import hashlib
import itertools
import json
import logging
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import jax
import msgspec
import numpy as np
import orbax.checkpoint as ocp  # noqa: TID251

from rnnmnist.config.schema import Config
from rnnmnist.config.tasks import Task
from rnnmnist.errors import RunError, UserError, first_line
from rnnmnist.runs.logs import Metrics, best_step
from rnnmnist.runs.workdir import describe_last_checkpoint, list_steps
from rnnmnist.runs.writing import sync
from rnnmnist.runtime.mesh import local_sharding
from rnnmnist.runtime.signals import deferred_interrupts

# Raised if a setting or a field of a record below is renamed or removed; then rewrite
# the headers of the shipped models, too. What is added has the default of runs before.
FORMAT = 3
# orbax numbers the saves of a process, and while a save starts, its parts take the
# number of one that another thread starts. Its writes and reads need no lock.
SAVE_LOCK = threading.Lock()

_warn_once = functools.cache(logging.getLogger(__name__).warning)


class Header(msgspec.Struct, frozen=True, kw_only=True):
    """The content of the item `header`, which the file has with its SHA-256."""

    format: int = FORMAT
    config: Config
    task: Task
    metrics: Metrics | None  # on the validation split
    arrays: dict[str, dict[str, str]]  # SHA-256 of every array, by item and path


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

    def __init__(self, workdir: Path, config: Config, task: Task) -> None:
        """Opens the workdir of a run and removes unfinished saves from it."""
        self._workdir = workdir
        self._config = config
        self._task = task
        steps = list_steps(workdir)
        self._metrics = {step: read_header(workdir, step).metrics for step in steps}
        unfinished = "*.orbax-checkpoint-tmp"  # in which orbax syncs arrays only
        options = ocp.CheckpointManagerOptions(
            cleanup_tmp_directories=True,
            preservation_policy=self,
            async_options=ocp.AsyncOptions(
                post_finalization_callback=lambda: sync(
                    *workdir.glob(unfinished), *workdir.glob(f"{unfinished}/**/*")
                )
            ),
        )
        with _without_logs():
            self._manager = ocp.CheckpointManager(workdir, options=options)

    def __exit__(self, kind: object, error: object, traceback: object) -> None:
        try:
            with self._run_errors():
                self._manager.close()
        except RunError:  # a save failed in the background
            if error is None:
                raise

    def should_preserve(
        self, checkpoints: Sequence[Any], *, context: Any
    ) -> list[bool]:
        """Tells orbax which steps it keeps: the newest ones and the best one."""
        steps = [checkpoint.step for checkpoint in checkpoints]
        best = best_step({step: self._metrics[step] for step in steps})
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
        checksums = {item: array_checksums(tree) for item, tree in arrays.items()}
        header = Header(
            config=self._config, task=self._task, metrics=metrics, arrays=checksums
        )
        content = msgspec.to_builtins(header)
        content["sha256"] = json_checksum(content)
        items = {item: ocp.args.StandardSave(tree) for item, tree in arrays.items()}
        items["header"] = ocp.args.JsonSave(content)
        self._metrics[step] = metrics
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
                "free disk space and run the command again"
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


def array_checksums(tree: Any) -> dict[str, str]:
    """Returns the SHA-256 of every array of a tree, by its path.

    Type and shape are part of the hashed data.
    """
    checksums = {}
    for name, leaf in named_leaves(tree):
        array = np.asarray(leaf)
        digest = hashlib.sha256(f"{array.dtype} {array.shape} ".encode())
        digest.update(np.ascontiguousarray(array).data)
        checksums[name] = digest.hexdigest()
    return checksums


def json_checksum(value: Any) -> str:
    """Returns the SHA-256 of a value as JSON with sorted keys."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()


def params_sha256(params: Mapping[str, Any]) -> str:
    """Returns the SHA-256 over the bytes of all arrays in tree order."""
    digest = hashlib.sha256()
    for leaf in jax.tree.leaves(jax.device_get(params)):
        digest.update(np.ascontiguousarray(leaf).data)
    return digest.hexdigest()


def read_header(workdir: Path, step: int) -> Header:
    """Returns the header of a checkpoint.

    Raises:
        DamagedError: if it differs from what was saved.
    """
    folder = workdir / str(step)
    try:
        content = json.loads((folder / "header" / "metadata").read_bytes())
        if content.pop("sha256") != json_checksum(content):
            raise ValueError("it differs from its SHA-256")
    except (MemoryError, PermissionError):
        raise
    except Exception as error:  # a damaged file can cause an error of any type
        reason = f"header cannot be read ({first_line(error)})"
        raise DamagedError(folder, reason) from error
    try:
        if content["format"] != FORMAT:
            raise ValueError(f"its format is {content['format']}, not {FORMAT}")
        # Unlike `convert`, this refuses a setting that a later version has added.
        config = Config.from_dict(content["config"])
        return msgspec.convert(content | {"config": config}, Header)
    except Exception as error:
        raise UserError(
            f"workdir: the checkpoint {folder} is of another version of rnnmnist "
            f"({first_line(error)}); use that version, or name another workdir"
        ) from error


def read_arrays(workdir: Path, step: int, item: str, like: Any = None) -> Any:
    """Restores an item of a checkpoint, `params` or `state`, as NumPy arrays.

    They must have the names, shapes and types of `like`. None restores what was saved,
    with dictionaries and lists in place of named tuples.

    Raises:
        DamagedError: if an array differs from what was saved.
    """
    folder = workdir / str(step)
    expected = read_header(workdir, step).arrays.get(item, {})
    tree = jax.tree.map(np.asarray, _restore(folder, item, like))
    actual = array_checksums(tree)
    names = sorted({name for name, _ in actual.items() ^ expected.items()})
    if names or not expected:
        text = ", ".join(names[:3]) + (" and others" if len(names) > 3 else "")
        raise DamagedError(folder, f"{text} in {item} differs from its SHA-256")
    if item == "state" and int(tree["step"]) != step:
        raise DamagedError(folder, f"it holds step {int(tree['step'])}")
    return tree


def find_fault(workdir: Path, step: int) -> str | None:
    """Compares a checkpoint with its checksums; returns what differs, or None."""
    try:
        for item in read_header(workdir, step).arrays:
            read_arrays(workdir, step, item)
    except DamagedError as error:
        return error.reason
    return None


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
    try:
        with (
            deferred_interrupts(),
            _without_logs(),
            ocp.StandardCheckpointer(multiprocessing_options=options) as checkpointer,
        ):
            saved = checkpointer.metadata(folder / item).item_metadata
            if saved is None:
                raise ValueError("no metadata")
            # orbax would cast to another type silently.
            _check_leaves(folder, item, saved.tree, like)
            target = jax.tree.map(
                lambda leaf: jax.ShapeDtypeStruct(
                    leaf.shape, leaf.dtype, sharding=local_sharding()
                ),
                saved.tree if like is None else like,
            )
            return checkpointer.restore(folder / item, target)
    except (RunError, MemoryError, PermissionError):
        raise
    except Exception as error:  # a damaged file can cause an error of any type
        reason = f"{item} cannot be read ({first_line(error)})"
        raise DamagedError(folder, reason) from error


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


def find_step(workdir: Path, selector: str) -> int:
    """Returns the step of the checkpoint `best`, `latest`, or with this number."""
    if not workdir.is_dir():
        raise UserError(f"workdir: {workdir} does not exist; name a run's folder")
    steps = list_steps(workdir)
    if not steps:
        raise UserError(
            f"workdir: {workdir} holds no checkpoint; train in it with "
            "python -m rnnmnist.main"
        )
    if selector == "latest":
        return steps[-1]
    if selector == "best":
        metrics: dict[int, Metrics | None] = dict.fromkeys(steps)
        for step in steps:
            try:
                metrics[step] = read_header(workdir, step).metrics
            except DamagedError as error:  # selected only if no step was validated
                if remains(error.folder):
                    _warn_once(f"{error.folder} is damaged: {error.reason}")
        return best_step(metrics)
    if selector in map(str, steps):
        return int(selector)
    raise UserError(
        f"step: {workdir} has no step {selector}; choose best, latest or one of "
        f"{', '.join(map(str, steps))}"
    )


def remains(folder: Path) -> bool:
    """Whether an incomplete checkpoint is not one that a running trainer deletes."""
    time.sleep(0.2)  # it is deleted file by file
    return folder.exists()


def with_step(workdir: Path, selector: str, function: Callable[[int], T]) -> T:
    """Calls a function with the selected step.

    A running trainer deletes old checkpoints, so the step can disappear while it is
    read. Then the function is called again with the step that is selected by now.
    """
    while True:
        try:
            return function(find_step(workdir, selector))
        except DamagedError as error:
            if remains(error.folder):
                raise
