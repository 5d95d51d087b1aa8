"""Saves and restores the arrays of checkpoints with orbax.

All arrays but the step have a leading ensemble axis, of length 1 for a single seed.
`checkpoint_files.py` says which files a checkpoint has.

The arrays of a checkpoint are small, and on the host when they are saved, so that a
save, of about 0.15 s on a CPU, needs no background. Of several processes, the first one
saves, and each of them reads.
"""

import threading
from collections.abc import Iterable, Mapping
from pathlib import Path

import jax
import orbax.checkpoint as ocp  # noqa: TID251

from rnnmnist.errors import RunError, summarize_error
from rnnmnist.runs.checkpoint_files import Header, Tree, read_errors, seal
from rnnmnist.runs.workdir import HEADER_FILE, UNFINISHED, remove_unfinished
from rnnmnist.runs.writing import sync, write_json
from rnnmnist.runtime.jax_defaults import jax_defaults

# orbax numbers the saves of a process, and mixes up two that run at the same time.
SAVE_LOCK = threading.Lock()


@jax_defaults()
def save(
    workdir: Path,
    header: Header,
    arrays: Mapping[str, Tree],
    outdated: Iterable[int] = (),
) -> None:
    """Saves a checkpoint, and deletes outdated ones.

    There is a tree of NumPy arrays for each of the items `params` and `state`. The step
    is written in another folder, so that none is found incomplete if the process is
    killed.
    """
    folder = workdir / UNFINISHED / str(header.step)
    try:
        with SAVE_LOCK, _open_checkpointer() as checkpointer:
            for item, tree in arrays.items():
                content = ocp.args.StandardSave(tree)
                checkpointer.save(folder / item, args=content)
        write_json(folder / HEADER_FILE, header)
        seal(folder)
        sync(folder, *folder.rglob("*"))  # orbax syncs the files of arrays only
        folder.rename(workdir / folder.name)
        sync(workdir)
        for step in outdated:
            # Renamed first, so that no step is found half deleted.
            (workdir / str(step)).rename(workdir / UNFINISHED / str(step))
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

    `read_header` has compared the files of the step with their checksums. The arrays
    must have the names and shapes of `like`. None restores what was saved, with
    dictionaries and lists in place of named tuples.

    Raises:
        RunError: if the item cannot be read, or has other arrays.
    """
    folder = workdir / str(step)
    with _open_checkpointer() as checkpointer:
        with read_errors(folder):
            saved = _shapes(checkpointer.metadata(folder / item).item_metadata.tree)
        expected = saved if like is None else _shapes(like)
        differing = sorted(saved.items() ^ expected.items())
        if differing:
            name, _ = differing[0]
            raise RunError(
                f"checkpoint {folder}: in {item}, {name} has the shape "
                f"{saved.get(name)}, not {expected.get(name)} as the settings imply; "
                "the code of a function or the version of rnnmnist has changed since"
            )
        with read_errors(folder):
            args = ocp.args.StandardRestore(like)
            return checkpointer.restore(folder / item, args=args)


def _shapes(tree: Tree) -> dict[str, tuple[int, ...]]:
    """Returns the shape of each array, by its path."""
    return {
        jax.tree_util.keystr(path, simple=True, separator="/"): leaf.shape
        for path, leaf in jax.tree.leaves_with_path(tree)
    }


def _open_checkpointer() -> ocp.Checkpointer:
    """Returns a checkpointer that waits for no other process."""
    process = jax.process_index()
    options = ocp.options.MultiprocessingOptions(
        primary_host=process,
        active_processes={process},
        barrier_sync_key_prefix=f"process_{process}",
    )
    handler = ocp.StandardCheckpointHandler(multiprocessing_options=options)
    return ocp.Checkpointer(handler, multiprocessing_options=options)
