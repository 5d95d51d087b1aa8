"""Saves and restores the arrays of checkpoints with orbax.

All arrays but the step have a leading ensemble axis, of length 1 for a single seed.
`checkpoint_files.py` says which files a checkpoint has.

Reading does not use orbax's manager, which can create and delete folders, and does not
synchronize processes. Writing does, on all processes together.
"""

import contextlib
import hashlib
import shutil
import threading
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

import jax
import msgspec
import numpy as np

from rnnmnist.config.resolving import RunConfig
from rnnmnist.config.tasks import Task
from rnnmnist.errors import RunError, summarize_error
from rnnmnist.models.classifier import Params
from rnnmnist.runs.checkpoint_files import (
    Header,
    check_files,
    read_errors,
    read_header,
    seal,
)
from rnnmnist.runs.logs import Metrics
from rnnmnist.runs.selection import best_step
from rnnmnist.runs.workdir import describe_last_checkpoint, list_steps
from rnnmnist.runs.writing import sync
from rnnmnist.runtime.distributed import is_process_0
from rnnmnist.runtime.library_logs import filter_records, without_library_logs
from rnnmnist.runtime.mesh import local_sharding
from rnnmnist.runtime.signals import defer_interrupts

with without_library_logs():  # the import logs
    import orbax.checkpoint as ocp  # noqa: TID251

SHORTAGE = "free disk space, memory, threads or open files, whichever is short,"
# Steps that are no longer kept are moved there, so that none is found half deleted.
DELETED_FOLDER = ".deleted"
# orbax numbers the saves of a process, and while a save starts, its parts take the
# number of one that another thread starts. Its writes and reads need no lock.
SAVE_LOCK = threading.Lock()

Tree = Any  # a tree of arrays or of their shapes, which mypy cannot describe


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

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
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
            sync(folder, *folder.rglob("*"))  # orbax syncs the files of arrays only

    def _delete(self) -> None:
        """Deletes the steps that are no longer kept."""
        if is_process_0():
            shutil.rmtree(self._workdir / DELETED_FOLDER, ignore_errors=True)

    # The types are orbax's, of which mypy sees none.
    def should_preserve(
        self, checkpoints: Sequence[Any], *, context: Any
    ) -> list[bool]:
        """Tells orbax which steps it keeps: the newest ones and the best one."""
        train = self._config.train
        steps = [checkpoint.step for checkpoint in checkpoints]
        best = best_step(
            {step: self._metrics[step] for step in steps},
            has_class_weights=train.has_class_weights,
        )
        kept = {best, *steps[-train.keep_checkpoints :]}
        return [step in kept for step in steps]

    def save(
        self,
        step: int,
        arrays: Mapping[str, Tree],
        metrics: Metrics | None,
        multiplier: float = 1.0,
    ) -> None:
        """Starts saving a checkpoint. The arrays may be donated after the call.

        There is a tree of arrays for each of the items `params` and `state`. The
        metrics are those of the validation split, None if it is not evaluated, and the
        multiplier is that of the logits.
        """
        # orbax would compile a program for each shape of arrays on several devices.
        arrays = jax.device_get(dict(arrays))
        header = Header(
            step=step,
            config=self._config,
            task=self._task,
            metrics=metrics,
            multiplier=multiplier,
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
            # The transfer is that of small numbers, which processes exchange.
            with defer_interrupts(), _without_logs(), jax.transfer_guard("allow"):
                yield
        except Exception as error:
            raise RunError(
                f"a checkpoint could not be written in {self._workdir} "
                f"({summarize_error(error)}); "
                f"{describe_last_checkpoint(self._workdir)}; {SHORTAGE} and run the "
                "command again"
            ) from error


def read_arrays(workdir: Path, step: int, item: str, like: Tree | None = None) -> Tree:
    """Restores an item of a checkpoint, `params` or `state`, as NumPy arrays.

    They must have the names, shapes and types of `like`. None restores what was saved,
    with dictionaries and lists in place of named tuples.

    Raises:
        DamagedError: if a file of the item differs from what was saved.
        RunError: if it cannot be read, or has other arrays.
    """
    folder = workdir / str(step)
    with read_errors(folder):
        check_files(folder, item)
        return jax.tree.map(np.asarray, _restore(folder, item, like))


def leaves_by_path(tree: Tree) -> list[tuple[str, Any]]:
    """Returns the leaves of a tree, each with its path as `cell/hf/bias`."""
    # A path does not say of which type its nodes are, since orbax restores named tuples
    # as dictionaries.
    return [
        (jax.tree_util.keystr(path, simple=True, separator="/"), leaf)
        for path, leaf in jax.tree_util.tree_leaves_with_path(tree)
    ]


def params_sha256(params: Params) -> str:
    """Returns the SHA-256 over the bytes of all arrays in tree order."""
    digest = hashlib.sha256()
    for leaf in jax.tree.leaves(jax.device_get(params)):
        digest.update(np.ascontiguousarray(leaf).data)
    return digest.hexdigest()


def _restore(folder: Path, item: str, like: Tree | None) -> Tree:
    """Restores a tree of arrays on one device, without the other processes."""
    process = jax.process_index()
    options = ocp.options.MultiprocessingOptions(
        primary_host=process,
        active_processes={process},
        barrier_sync_key_prefix=f"process_{process}",
    )
    sharding = local_sharding()
    with (
        defer_interrupts(),
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
                leaf.shape, leaf.dtype, sharding=sharding
            ),
            saved.tree if like is None else like,
        )
        return checkpointer.restore(folder / item, target)


def _check_leaves(folder: Path, item: str, saved: Tree, expected: Tree | None) -> None:
    """Checks that a saved item has all expected arrays, with their shapes and types."""

    def describe(leaf: Any) -> str:
        return f"{np.dtype(leaf.dtype)} {tuple(leaf.shape)}"

    found = {name: describe(leaf) for name, leaf in leaves_by_path(saved)}
    for name, leaf in leaves_by_path(expected):
        actual = found.get(name, "missing")
        if actual != describe(leaf):
            raise RunError(
                f"checkpoint {folder}: {name} in {item} is {actual}, not "
                f"{describe(leaf)}: it is of another version of rnnmnist, or of other "
                "settings; name another workdir"
            )


@contextlib.contextmanager
def _without_logs() -> Iterator[None]:
    """Drops the log records of orbax and of its event loops.

    It warns in normal use, for example that a save without validation has no metrics.
    On a real problem it raises.
    """
    with without_library_logs(), filter_records("asyncio", lambda _: False):
        yield
