"""Saves and restores the arrays of checkpoints with Orbax.

All arrays except the step have a leading ensemble axis, whose length is 1 for a single
seed. For the files, see `checkpoint_files.py`.

Saves are synchronous: the arrays are small and already on the host, and a save takes
about 0.15 s on a CPU. In a multi-process run, process 0 saves checkpoints, and all
processes read them.
"""

import threading
from collections.abc import Iterable, Mapping
from pathlib import Path

import jax
import orbax.checkpoint as ocp  # noqa: TID251

from rnnmnist.errors import RunError, summarize_error
from rnnmnist.runs.checkpoint_files import (
    Header,
    Tree,
    wrap_read_errors,
    write_checksums,
)
from rnnmnist.runs.workdir import HEADER_FILE, UNFINISHED_FOLDER, remove_unfinished
from rnnmnist.runs.writing import sync, write_json
from rnnmnist.runtime.jax_defaults import jax_defaults

# Concurrent saves in one process would interfere, because Orbax identifies saves by a
# counter.
SAVE_LOCK = threading.Lock()


@jax_defaults()
def save(
    workdir: Path,
    header: Header,
    arrays: Mapping[str, Tree],
    outdated: Iterable[int] = (),
) -> None:
    """Saves a checkpoint and deletes outdated checkpoints.

    `arrays` maps the items `params` and `state` to pytrees of NumPy arrays. `outdated`
    contains the steps of the checkpoints to delete.

    The checkpoint is written to a temporary folder, which is then renamed, so that a
    killed process does not leave an incomplete checkpoint.
    """
    folder = workdir / UNFINISHED_FOLDER / str(header.step)
    try:
        with SAVE_LOCK, _open_checkpointer() as checkpointer:
            for item, tree in arrays.items():
                content = ocp.args.StandardSave(tree)
                checkpointer.save(folder / item, args=content)
        write_json(folder / HEADER_FILE, header)
        write_checksums(folder)
        sync(folder, *folder.rglob("*"))  # Orbax syncs only array files
        folder.rename(workdir / folder.name)
        sync(workdir)
        for step in outdated:
            # Rename before deleting, so that no partially deleted checkpoint remains.
            (workdir / str(step)).rename(workdir / UNFINISHED_FOLDER / str(step))
    except Exception as error:  # Orbax raises many exception types
        raise RunError(
            f"step {header.step} cannot be saved in {workdir} "
            f"({summarize_error(error)}); make sure that there is enough disk space, "
            "memory, threads and file descriptors, and run the command again"
        ) from error
    finally:
        remove_unfinished(workdir)


@jax_defaults()
def read_arrays(
    workdir: Path, step: int, item: str, target: Tree | None = None
) -> Tree:
    """Restores an item of a checkpoint, `params` or `state`, as NumPy arrays.

    `target` is a pytree with the expected names and shapes. If `target` is None, all
    saved arrays are restored, and named tuples become dictionaries or lists. Checksums
    are not verified again after `read_header`.

    Raises:
        RunError: if the item cannot be read, or does not have the names and shapes of
            `target`.
    """
    folder = workdir / str(step)
    with _open_checkpointer() as checkpointer:
        with wrap_read_errors(folder):
            saved = _shapes_by_path(
                checkpointer.metadata(folder / item).item_metadata.tree
            )
        expected = saved if target is None else _shapes_by_path(target)
        mismatches = sorted(saved.items() ^ expected.items())
        if mismatches:
            name, _ = mismatches[0]
            raise RunError(
                f"checkpoint {folder}: in {item}, {name} has the shape "
                f"{saved.get(name)}, but the settings imply {expected.get(name)}; "
                "restore the code of your functions and the version of rnnmnist with "
                "which the checkpoint was saved"
            )
        with wrap_read_errors(folder):
            args = ocp.args.StandardRestore(target)
            return checkpointer.restore(folder / item, args=args)


def _shapes_by_path(tree: Tree) -> dict[str, tuple[int, ...]]:
    return {
        jax.tree_util.keystr(path, simple=True, separator="/"): leaf.shape
        for path, leaf in jax.tree.leaves_with_path(tree)
    }


def _open_checkpointer() -> ocp.Checkpointer:
    """Returns a checkpointer that does not wait for other processes."""
    process = jax.process_index()
    options = ocp.options.MultiprocessingOptions(
        primary_host=process,
        active_processes={process},
        barrier_sync_key_prefix=f"process_{process}",
    )
    handler = ocp.StandardCheckpointHandler(multiprocessing_options=options)
    return ocp.Checkpointer(handler, multiprocessing_options=options)
