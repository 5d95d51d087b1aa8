"""Saves and restores the arrays of checkpoints with orbax.

All arrays but the step have a leading ensemble axis, of length 1 for a single seed.
`checkpoint_files.py` says which files a checkpoint has.

The arrays of a checkpoint are small, and on the host when they are saved, so that a
save takes some 60 ms and needs no background. Of several processes, the first one
saves, and each of them reads.
"""

import contextlib
import hashlib
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import msgspec
import numpy as np
import orbax.checkpoint as ocp  # noqa: TID251

from rnnmnist.errors import Failure, RunError, summarize_error
from rnnmnist.models.classifier import Params
from rnnmnist.runs.checkpoint_files import Header, read_errors, read_header, seal
from rnnmnist.runs.selection import best_header
from rnnmnist.runs.workdir import (
    UNFINISHED,
    describe_last_checkpoint,
    list_steps,
    remove_unfinished,
)
from rnnmnist.runs.writing import sync
from rnnmnist.runtime.distributed import is_process_0

# orbax numbers the saves of a process, and mixes up two that run at the same time.
SAVE_LOCK = threading.Lock()

Tree = Any  # a tree of arrays or of their shapes, which mypy cannot describe


def save(workdir: Path, header: Header, arrays: Mapping[str, Tree]) -> None:
    """Saves a checkpoint, and deletes those that are no longer kept.

    There is a tree of arrays for each of the items `params` and `state`. The step is
    written in another folder, so that none is found incomplete if the process is
    killed.
    """
    if not is_process_0():
        return
    items = {
        item: ocp.args.StandardSave(tree)
        for item, tree in jax.device_get(dict(arrays)).items()
    }
    items["header"] = ocp.args.JsonSave(msgspec.to_builtins(header))
    options = _one_process()
    handler = ocp.CompositeCheckpointHandler(
        composite_options=ocp.CompositeOptions(multiprocessing_options=options)
    )
    folder = workdir / UNFINISHED / str(header.step)
    try:
        with (
            SAVE_LOCK,
            ocp.Checkpointer(handler, multiprocessing_options=options) as checkpointer,
        ):
            checkpointer.save(folder, args=ocp.args.Composite(**items))
        seal(folder)
        sync(folder, *folder.rglob("*"))  # orbax syncs the files of arrays only
        folder.rename(workdir / folder.name)
        sync(workdir)
    except Exception as error:  # orbax and tensorstore raise many types
        raise RunError(
            f"a checkpoint could not be written in {workdir} "
            f"({summarize_error(error)}); {describe_last_checkpoint(workdir)}; free "
            "disk space, memory, threads or open files, whichever is short, and run "
            "the command again"
        ) from error
    finally:
        remove_unfinished(workdir)
    _delete_outdated(workdir, header.config.train.keep_checkpoints)


def _delete_outdated(workdir: Path, keep: int) -> None:
    """Deletes all steps but the best one and the newest ones, of which it keeps some.

    They are renamed first, so that none is found half deleted.
    """
    steps = list_steps(workdir)
    headers = []
    for step in steps:
        # A step that has been damaged meanwhile is kept; the next start moves it aside.
        with contextlib.suppress(Failure):
            headers.append(read_header(workdir, step))
    best = best_header(headers)
    for header in headers:
        step = header.step
        if step != best.step and step not in steps[-keep:]:
            (workdir / UNFINISHED).mkdir(exist_ok=True)
            (workdir / str(step)).rename(workdir / UNFINISHED / str(step))
    remove_unfinished(workdir)


def read_arrays(workdir: Path, step: int, item: str, like: Tree | None = None) -> Tree:
    """Restores an item of a checkpoint, `params` or `state`, as NumPy arrays.

    `read_header` has compared the files of the step with their checksums. The arrays
    must have the names, shapes and types of `like`. None restores what was saved, with
    dictionaries and lists in place of named tuples.

    Raises:
        RunError: if the item cannot be read, or has other arrays.
    """
    folder = workdir / str(step)
    with (
        read_errors(folder),
        ocp.StandardCheckpointer(
            multiprocessing_options=_one_process()
        ) as checkpointer,
    ):
        saved = checkpointer.restore(folder / item)
    if like is None:
        return saved
    found = dict(leaves_by_path(saved))
    expected = leaves_by_path(like)
    for name, leaf in expected:
        actual = _describe(found[name]) if name in found else "missing"
        if actual != _describe(leaf):
            raise RunError(
                f"checkpoint {folder}: {name} in {item} is {actual}, not "
                f"{_describe(leaf)}: it is of another version of rnnmnist, or of other "
                "settings; name another workdir"
            )
    leaves = [found[name] for name, _ in expected]
    return jax.tree.unflatten(jax.tree.structure(like), leaves)


def _describe(leaf: Any) -> str:
    return f"{np.dtype(leaf.dtype)} {tuple(leaf.shape)}"


def _one_process() -> ocp.options.MultiprocessingOptions:
    """Returns the options with which orbax waits for no other process."""
    process = jax.process_index()
    return ocp.options.MultiprocessingOptions(
        primary_host=process,
        active_processes={process},
        barrier_sync_key_prefix=f"process_{process}",
    )


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
