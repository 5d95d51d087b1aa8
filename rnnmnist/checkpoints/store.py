"""Checkpoints: the only room that knows orbax.

A workdir holds one folder for each kept step. In it lie `params` (what is
evaluated), `state` (the optimizer's memory and the step, which a resume needs
besides), `config` (the whole configuration), `metrics` (where the step was
validated) and `sha256` (of every array and of the other two), each an item of its
own. Whatever is read is compared with those sums first: orbax itself gives wrong
numbers for a flipped byte. Reading never goes through orbax's manager, which can
create and delete, and asks no other process; writing always does, on every process
together.
"""

import itertools
import json
import logging
import re
import shutil
import time
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import jax
import numpy as np
import orbax.checkpoint as ocp
from orbax.checkpoint import checkpoint_managers as policies

from rnnmnist.checkpoints.checksums import array_checksums, json_checksum, named_leaves
from rnnmnist.config.schema import DATA_PATHS, Config
from rnnmnist.errors import RunError, UserError, first_line
from rnnmnist.runtime.distributed import is_first
from rnnmnist.runtime.mesh import device_put, local_sharding

Params = Mapping[str, Any]  # of arrays, by Flax's names

UNFINISHED = ".orbax-checkpoint-tmp"  # in the name of a folder that is being saved
LARGEST_JSON = 1 << 20  # bytes; a checkpoint's own are a few thousand


class DamagedError(RunError):
    """A checkpoint is not what was saved. The message names the step and why."""

    def __init__(self, folder: Path, why: str) -> None:
        super().__init__(f"checkpoint {folder} is damaged: {why}")
        self.folder, self.why = folder, why


class Checkpoints:
    """A workdir's checkpoints, open for writing by its trainer.

    Use it as a context manager: leaving it waits for the last save, without
    which that save would not be there.
    """

    def __init__(self, workdir: Path, keep: int) -> None:
        """Opens a workdir for training and removes unfinished saves from it.

        Args:
            workdir: absolute.
            keep: how many of the newest steps stay, besides the best one.
        """
        best = policies.BestN(
            get_metric_fn=rank, n=1, keep_checkpoints_without_metrics=False
        )
        options = ocp.CheckpointManagerOptions(
            cleanup_tmp_directories=True,
            preservation_policy=policies.AnyPreservationPolicy(
                [policies.LatestN(keep), best]
            ),
            best_fn=rank,  # without it the manager writes no metrics
        )
        self._workdir = workdir
        self._manager = ocp.CheckpointManager(workdir, options=options)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        try:
            self._manager.close()
        except Exception as closing:  # a save that failed in the background
            if error is None:
                raise self._failed(closing) from closing
        finally:
            if is_first():
                self._remove_unfinished()

    def save(
        self,
        step: int,
        arrays: Mapping[str, Any],
        config: Config,
        metrics: dict[str, Any] | None,
    ) -> None:
        """Starts to save arrays, which may be donated as soon as this returns.

        Args:
            step: the updates that are finished; it names the checkpoint.
            arrays: a tree of arrays for each item: `params`, what is evaluated, and
                `state`, what a resume needs besides, with its `step`.
            config: of the whole run.
            metrics: of the validation at this step, with `accuracy` and `step`;
                None where there was none.

        Raises:
            RunError: if this save or the one before it could not be written.
        """
        items = _items(config, metrics, arrays)
        try:
            with jax.transfer_guard("allow"):  # between processes, of small numbers
                self._manager.save(step, args=items, metrics=metrics)
        except Exception as error:  # orbax and tensorstore raise many kinds
            raise self._failed(error) from error

    def wait(self) -> None:
        """Returns when the last save is on the disk.

        Raises:
            RunError: if it could not be written.
        """
        try:
            with jax.transfer_guard("allow"):
                self._manager.wait_until_finished()
        except Exception as error:
            raise self._failed(error) from error

    def _remove_unfinished(self) -> None:
        # After a failed save; the threads of its other arrays may write on a little.
        for _ in range(10):
            unfinished = list(self._workdir.glob(f"*{UNFINISHED}*/"))
            if not unfinished:
                return
            for folder in unfinished:
                shutil.rmtree(folder, ignore_errors=True)
            time.sleep(0.2)

    def _failed(self, error: Exception) -> RunError:
        steps = list_steps(self._workdir)
        last = f"step {steps[-1]}" if steps else "none"
        return RunError(
            f"a checkpoint could not be written in {self._workdir} "
            f"({first_line(error)}); the last finished one is {last}; make room and "
            "run the command again"
        )


def list_steps(workdir: Path) -> list[int]:
    """The steps with a finished checkpoint, ascending; nothing is created."""
    if not workdir.is_dir():
        return []
    names = [folder.name for folder in workdir.iterdir() if folder.is_dir()]
    # As this program writes them: no leading zeros, no other scripts' digits.
    return sorted(
        int(name) for name in names if re.fullmatch("0|[1-9][0-9]{0,9}", name)
    )


def rank(metrics: dict[str, Any]) -> tuple[float, int]:
    """What the best checkpoint has most of: accuracy, and earliness on a tie."""
    return metrics["accuracy"], -metrics["step"]


def read_config(workdir: Path, step: int) -> Config:
    """The configuration that a checkpoint carries.

    Raises:
        DamagedError: when it is not the one that was saved.
    """
    folder = workdir / str(step)
    tree = _read_checked(folder, "config", "metadata")
    try:
        return Config.from_dict(tree)
    except UserError as error:  # of another version of this program
        raise RunError(f"checkpoint {folder} is not readable here: {error}") from error


def read_metrics(workdir: Path, step: int) -> dict[str, Any] | None:
    """The validation of a checkpoint; None where it was not validated.

    Raises:
        DamagedError: when it is not the one that was saved.
    """
    folder = workdir / str(step)
    if _checksums(folder)["metrics"] == json_checksum(None):
        return None
    return _read_checked(folder, "metrics", "metrics")


def has_state(workdir: Path, step: int) -> bool:
    """Whether a checkpoint can be trained on, or holds parameters alone."""
    return "state" in _checksums(workdir / str(step))


def read_params(workdir: Path, step: int, like: Params | None = None) -> Params:
    """The parameters of a checkpoint, and nothing else of it.

    Args:
        workdir: of the run.
        step: of the checkpoint.
        like: arrays, or `jax.ShapeDtypeStruct`s with shardings, in the shapes and
            types that are expected; None takes what was saved, on one device.

    Raises:
        RunError: when the checkpoint holds other shapes or types, naming the leaf.
        DamagedError: when an array is not the one that was saved.
    """
    return _read_arrays(workdir / str(step), "params", like)


def read_state(workdir: Path, step: int, like: Any = None) -> Any:
    """What a resume needs besides the parameters: the tree of the item `state`.

    Args:
        workdir: of the run.
        step: of the checkpoint.
        like: as for `read_params`; None takes the tree that was saved, in which
            dictionaries and lists stand for named tuples.

    Raises:
        RunError: as `read_params` does.
    """
    folder = workdir / str(step)
    restored = _read_arrays(folder, "state", like)
    if int(restored["step"]) != step:
        raise DamagedError(folder, f"it holds step {int(restored['step'])}")
    return restored


def quarantine(workdir: Path, step: int) -> Path:
    """Renames a damaged checkpoint, so that its step can be saved again.

    Returns:
        Its new place, which nothing here reads.
    """
    target = workdir / f"damaged-{step}"
    for number in itertools.count(2):
        if not target.exists():
            break
        target = workdir / f"damaged-{step}-{number}"
    return (workdir / str(step)).rename(target)


def save_params(
    workdir: Path,
    step: int,
    params: Params,
    config: Config,
    metrics: dict[str, Any] | None,
) -> None:
    """Saves a checkpoint of parameters alone, which cannot be trained on.

    The paths of the data are left out of the configuration: they are those of the
    machine that trained.

    Args:
        workdir: a folder that holds no checkpoints yet.
        step: the updates that are finished.
        params: what is evaluated.
        config: of the run.
        metrics: of the validation at this step.
    """
    config = config.replace(dict.fromkeys(DATA_PATHS))
    items = _items(config, metrics, {"params": params})
    options = ocp.CheckpointManagerOptions(best_fn=rank)
    with ocp.CheckpointManager(workdir, options=options) as manager:
        manager.save(step, args=items, metrics=metrics)
    for path in workdir.rglob("commit_success.txt"):
        path.unlink()  # it holds only the path at which it was written


def _items(
    config: Config, metrics: dict[str, Any] | None, arrays: Mapping[str, Any]
) -> ocp.args.Composite:
    """A checkpoint's items, the sums of all of them included."""
    document = config.to_dict()
    sums: dict[str, Any] = {
        "config": json_checksum(document),
        "metrics": json_checksum(metrics),
    }
    sums |= {item: array_checksums(tree) for item, tree in arrays.items()}
    return ocp.args.Composite(
        config=ocp.args.JsonSave(document),
        sha256=ocp.args.JsonSave(sums),
        **{item: ocp.args.StandardSave(tree) for item, tree in arrays.items()},
    )


def _read_json(folder: Path, item: str, name: str) -> Any:
    # Plain files, so that reading a configuration does not wake jax's devices.
    path = folder / item / name
    try:
        if path.stat().st_size > LARGEST_JSON:
            raise ValueError(f"it has {path.stat().st_size} bytes")
        return json.loads(path.read_bytes())
    except PermissionError as error:
        raise RunError(f"checkpoint {folder} cannot be read: {error}") from error
    except (OSError, ValueError, RecursionError) as error:
        raise DamagedError(folder, f"{item} cannot be read ({error})") from error


def _checksums(folder: Path) -> dict[str, Any]:
    sums = _read_json(folder, "sha256", "metadata")
    if (
        not isinstance(sums, dict)
        or not {"config", "metrics", "params"} <= sums.keys()
        or not all(isinstance(sums.get(item, {}), dict) for item in ("params", "state"))
    ):
        raise DamagedError(folder, "sha256 holds no checksums")
    return sums


def _read_checked(folder: Path, item: str, name: str) -> dict[str, Any]:
    value = _read_json(folder, item, name)
    if json_checksum(value) != _checksums(folder)[item]:
        raise DamagedError(folder, f"{item} has another SHA-256 than when it was saved")
    return value


def _read_arrays(folder: Path, item: str, like: Any) -> Any:
    expected = _checksums(folder).get(item, {})
    logger = logging.getLogger("absl")
    logger.addFilter(_is_worth_reading)
    try:
        with ocp.StandardCheckpointer(multiprocessing_options=_alone()) as predictor:
            saved = predictor.metadata(folder / item).item_metadata
            if saved is None:
                raise ValueError("no metadata")
            # Before memory is taken; and orbax would cast silently to another type.
            _check_leaves(folder, item, saved.tree, like)
            target = saved.tree if like is None else like
            target = jax.tree.map(_on_one_device, target)
            tree = predictor.restore(folder / item, target)
    except (RunError, MemoryError):
        raise
    except PermissionError as error:
        raise RunError(f"checkpoint {folder} cannot be read: {error}") from error
    except Exception as error:  # a damaged file can raise anything at all
        why = f"{item} cannot be read ({first_line(error)})"
        raise DamagedError(folder, why) from error
    finally:
        logger.removeFilter(_is_worth_reading)
    found = array_checksums(tree)
    names = found.keys() | expected.keys()
    wrong = sorted(name for name in names if found.get(name) != expected.get(name))
    if wrong or not expected:
        names = ", ".join(wrong[:3]) + (" and others" if len(wrong) > 3 else "")
        why = f"{names} in {item} has another SHA-256 than when it was saved"
        raise DamagedError(folder, why)
    if like is None:
        return tree
    return jax.tree.map(
        lambda array, leaf: device_put(np.asarray(array), leaf.sharding), tree, like
    )


def _is_worth_reading(record: logging.LogRecord) -> bool:
    # Of an item that is read alone, orbax warns that it is not a whole checkpoint.
    return "Metadata file does not exist" not in str(record.msg)


def _on_one_device(leaf: Any) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=local_sharding())


def _alone() -> ocp.options.MultiprocessingOptions:
    """For reading without a word to the other processes."""
    mine = jax.process_index()
    return ocp.options.MultiprocessingOptions(
        primary_host=mine,
        active_processes={mine},
        barrier_sync_key_prefix=f"process_{mine}",
    )


def _check_leaves(folder: Path, item: str, found: Any, expected: Any) -> None:
    saved = dict(named_leaves(found))
    for name, leaf in named_leaves(expected):
        if name not in saved:
            raise RunError(f"checkpoint {folder}: {item} holds no {name}")
        shape, dtype = tuple(saved[name].shape), np.dtype(saved[name].dtype)
        if (shape, dtype) != (leaf.shape, leaf.dtype):
            raise RunError(
                f"checkpoint {folder}: {name} in {item} is {dtype} {shape}, not "
                f"{leaf.dtype} {leaf.shape}"
            )
