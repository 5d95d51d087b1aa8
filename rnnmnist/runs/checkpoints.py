"""Saves and restores the arrays of checkpoints with orbax.

All arrays except the step have a leading ensemble axis, of length 1 for a single seed.
`checkpoint_files.py` describes the files.

Saves are synchronous: the arrays are small and already on the host, and a save takes
about 0.15 s on a CPU. With several processes, process 0 saves and all processes read.
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

# orbax numbers the saves of a process and confuses concurrent saves.
SAVE_LOCK = threading.Lock()


@jax_defaults()
def save(
    workdir: Path,
    header: Header,
    arrays: Mapping[str, Tree],
    outdated: Iterable[int] = (),
) -> None:
    """Saves a checkpoint, and deletes the outdated steps.

    `arrays` contains a tree of NumPy arrays for each item, `params` and `state`. The
    checkpoint is written to a temporary folder and then renamed, so that a killed
    process does not leave an incomplete step.
    """
    folder = workdir / UNFINISHED_FOLDER / str(header.step)
    try:
        with SAVE_LOCK, _open_checkpointer() as checkpointer:
            for item, tree in arrays.items():
                content = ocp.args.StandardSave(tree)
                checkpointer.save(folder / item, args=content)
        write_json(folder / HEADER_FILE, header)
        write_checksums(folder)
        sync(folder, *folder.rglob("*"))  # orbax syncs only array files
        folder.rename(workdir / folder.name)
        sync(workdir)
        for step in outdated:
            # Rename before deleting, so that no half-deleted step remains.
            (workdir / str(step)).rename(workdir / UNFINISHED_FOLDER / str(step))
    except Exception as error:  # orbax and tensorstore raise many types
        raise RunError(
            f"step {header.step} cannot be saved in {workdir} "
            f"({summarize_error(error)}); free disk space, memory, threads or open "
            "files, whichever has run out, and run the command again"
        ) from error
    finally:
        remove_unfinished(workdir)


@jax_defaults()
def read_arrays(workdir: Path, step: int, item: str, like: Tree | None = None) -> Tree:
    """Restores an item of a checkpoint, `params` or `state`, as NumPy arrays.

    `read_header` has verified the checksums of the files. The arrays must have the
    names and shapes of `like`. If `like` is None, all saved arrays are restored, with
    dictionaries and lists instead of named tuples.

    Raises:
        RunError: if the item cannot be read, or if names or shapes differ.
    """
    folder = workdir / str(step)
    with _open_checkpointer() as checkpointer:
        with wrap_read_errors(folder):
            saved = _shapes_by_path(
                checkpointer.metadata(folder / item).item_metadata.tree
            )
        expected = saved if like is None else _shapes_by_path(like)
        differing = sorted(saved.items() ^ expected.items())
        if differing:
            name, _ = differing[0]
            raise RunError(
                f"checkpoint {folder}: in {item}, {name} has the shape "
                f"{saved.get(name)}, not {expected.get(name)} as the settings imply; "
                "the code of a function or the version of rnnmnist has changed since"
            )
        with wrap_read_errors(folder):
            args = ocp.args.StandardRestore(like)
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
