"""Saves and restores checkpoints with orbax.

A workdir holds one folder for each kept step, with these items:

- `params`: the evaluated parameters;
- `state`: what resuming needs besides them (the optimizer's state and the step);
- `config`: the whole configuration;
- `task`: the data set and its normalization;
- `metrics`: the validation metrics, or null;
- `sha256`: checksums of every array and of the other JSON items.

Everything that is read is compared with the checksums, because orbax alone does not
detect a flipped byte. Reading does not use orbax's manager, which can create and delete
folders, and does not synchronize processes. Writing does, on all processes together.
"""

import contextlib
import itertools
import json
import logging
import math
import re
import shutil
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import jax
import msgspec
import numpy as np
import orbax.checkpoint as ocp  # noqa: TID251
from orbax.checkpoint import checkpoint_managers as policies  # noqa: TID251

from rnnmnist.checkpoints.checksums import array_checksums, json_checksum, named_leaves
from rnnmnist.config.schema import DATA_PATHS, Config
from rnnmnist.config.tasks import MIN_VALIDATION_EXAMPLES, Task
from rnnmnist.errors import RunError, UserError, first_line
from rnnmnist.runtime.distributed import is_process_0
from rnnmnist.runtime.files import write_errors
from rnnmnist.runtime.interrupts import deferred_interrupts
from rnnmnist.runtime.mesh import local_sharding

Params = Mapping[str, Any]  # nested dictionaries of arrays, with Flax's names
MAX_JSON_BYTES = 1 << 24  # valid JSON items have a few thousand
MAX_COMPRESSION = 1000  # of trained parameters, whose files are hardly compressed


class DamagedError(RunError):
    """A checkpoint differs from what was saved."""

    def __init__(self, folder: Path, reason: str) -> None:
        super().__init__(
            f"checkpoint {folder} is damaged: {reason}; choose another step, or "
            "repeat the training command to write it again"
        )
        self.folder, self.reason = folder, reason


class Checkpoints(contextlib.AbstractContextManager["Checkpoints"]):
    """Writes the checkpoints of a run; leaving the context completes the last save."""

    def __init__(self, workdir: Path, keep: int) -> None:
        """Opens a workdir for writing and removes unfinished saves from it.

        Args:
            workdir: an absolute path.
            keep: how many of the newest steps are kept, besides the best one.
        """
        best = policies.BestN(
            get_metric_fn=selection_key, n=1, keep_checkpoints_without_metrics=False
        )
        options = ocp.CheckpointManagerOptions(
            cleanup_tmp_directories=True,
            preservation_policy=policies.AnyPreservationPolicy(
                [policies.LatestN(keep), best]
            ),
            best_fn=selection_key,  # without it the manager writes no metrics
        )
        self._workdir = workdir
        with _without_logs():
            self._manager = ocp.CheckpointManager(workdir, options=options)

    def __exit__(self, kind: object, error: object, traceback: object) -> None:
        try:
            with self._run_errors():
                self._manager.close()
        except RunError:  # a save failed in the background
            if error is None:
                raise
        finally:
            if is_process_0():
                self._remove_unfinished()

    def save(
        self,
        step: int,
        arrays: Mapping[str, Any],
        config: Config,
        task: Task,
        metrics: dict[str, Any] | None,
    ) -> None:
        """Starts saving a checkpoint. The arrays may be donated after the call.

        Args:
            step: number of finished updates, which names the checkpoint.
            arrays: a tree of arrays for each of the items `params` and `state`.
            config: of the run.
            task: of the run.
            metrics: the validation metrics at this step, as JSON with `accuracy`,
                `examples` and `step`; None if there are none.

        Raises:
            RunError: if this save or the one before it could not be written.
        """
        items = _make_items(config, task, metrics, arrays)
        with self._run_errors():
            self._manager.save(step, args=items, metrics=metrics)

    def wait(self) -> None:
        """Waits until the last save is on disk.

        Raises:
            RunError: if it could not be written.
        """
        with self._run_errors():
            self._manager.wait_until_finished()

    @contextlib.contextmanager
    def _run_errors(self) -> Iterator[None]:
        """Turns the errors of orbax and tensorstore, of many types, into RunError.

        An interrupt is handled at the end: within orbax, it would leave threads behind
        that still write.
        """
        try:
            # Processes exchange small numbers.
            with (
                deferred_interrupts(),
                _without_logs(),
                jax.transfer_guard("allow"),
            ):
                yield
        except Exception as error:
            steps = list_steps(self._workdir)
            last = f"step {steps[-1]}" if steps else "none"
            raise RunError(
                f"a checkpoint could not be written in {self._workdir} "
                f"({first_line(error)}); the last finished one is {last}; free disk "
                "space and run the command again"
            ) from error

    def _remove_unfinished(self) -> None:
        # After a failed save, threads of its other arrays can still write for a while.
        for _ in range(10):
            unfinished = list(self._workdir.glob("*.orbax-checkpoint-tmp*/"))
            if not unfinished:
                return
            for folder in unfinished:
                shutil.rmtree(folder, ignore_errors=True)
            time.sleep(0.2)


@contextlib.contextmanager
def _without_logs() -> Iterator[None]:
    """Drops the log records of orbax and of its event loops.

    It warns in normal use, for example that a save without validation has no metrics.
    On a real problem it raises.
    """

    def is_of_others(record: logging.LogRecord) -> bool:
        return record.name != "asyncio" and "orbax" not in record.pathname

    loggers = [logging.getLogger("absl"), logging.getLogger("asyncio")]
    for logger in loggers:
        logger.addFilter(is_of_others)
    try:
        yield
    finally:
        for logger in loggers:
            logger.removeFilter(is_of_others)


def list_steps(workdir: Path) -> list[int]:
    """Returns the steps of the finished checkpoints, ascending."""
    if not workdir.is_dir():
        return []
    names = [folder.name for folder in workdir.iterdir() if folder.is_dir()]
    # ASCII digits without leading zeros, as this program writes them.
    return sorted(
        int(name) for name in names if re.fullmatch("0|[1-9][0-9]{0,9}", name)
    )


def selection_key(metrics: dict[str, Any]) -> tuple[float, int]:
    """Returns a sort key; the best checkpoint has the largest one.

    It is the last one if there are too few validation examples to compare accuracies.
    """
    if metrics["examples"] < MIN_VALIDATION_EXAMPLES:
        return 0.0, metrics["step"]
    return metrics["accuracy"], -metrics["step"]


def read_config(workdir: Path, step: int) -> Config:
    """Returns the configuration in a checkpoint.

    Raises:
        DamagedError: if it differs from what was saved.
        RunError: if it was saved by an incompatible version.
    """
    folder = workdir / str(step)
    settings = _read_checked_json(folder, "config")
    try:
        return Config.from_dict(settings)
    except UserError as error:
        raise RunError(
            f"checkpoint {folder} is of another version of rnnmnist: {error}"
        ) from error


def read_task(workdir: Path, step: int) -> Task:
    """Returns the task in a checkpoint.

    Raises:
        DamagedError: if it differs from what was saved.
    """
    folder = workdir / str(step)
    try:
        return Task.from_dict(_read_checked_json(folder, "task"))
    except ValueError as error:
        raise DamagedError(folder, str(error)) from error


def read_metrics(workdir: Path, step: int) -> dict[str, Any] | None:
    """Returns the validation metrics in a checkpoint; None if it has none.

    Raises:
        DamagedError: if they differ from what was saved.
    """
    folder = workdir / str(step)
    if _read_checksums(folder)["metrics"] == json_checksum(None):
        return None
    return _read_checked_json(folder, "metrics")


def has_training_state(workdir: Path, step: int) -> bool:
    """Returns whether training can resume from a checkpoint.

    Raises:
        DamagedError: if the checksums cannot be read.
    """
    return "state" in _read_checksums(workdir / str(step))


def read_params(workdir: Path, step: int, like: Params | None = None) -> Params:
    """Restores the parameters of a checkpoint.

    Args:
        workdir: of the run.
        step: of the checkpoint.
        like: the expected tree of arrays, or of their shapes and types. None restores
            what was saved.

    Returns:
        NumPy arrays.

    Raises:
        RunError: if an array has another shape or type; the message names it.
        DamagedError: if an array differs from what was saved.
    """
    return _read_arrays(workdir / str(step), "params", like)


def read_state(workdir: Path, step: int, like: Any = None) -> Any:
    """Restores the item `state` of a checkpoint.

    Args and errors are those of `read_params`. Without `like`, named tuples are
    restored as dictionaries and lists.
    """
    folder = workdir / str(step)
    restored = _read_arrays(folder, "state", like)
    if int(restored["step"]) != step:
        raise DamagedError(folder, f"it holds step {int(restored['step'])}")
    return restored


def quarantine(workdir: Path, step: int) -> Path:
    """Renames a damaged checkpoint, so that its step can be saved again.

    Returns:
        Its new path, `damaged-STEP`, or `damaged-STEP-2` and so on if that exists.
    """
    suffixes = itertools.chain([""], (f"-{number}" for number in itertools.count(2)))
    paths = (workdir / f"damaged-{step}{suffix}" for suffix in suffixes)
    with write_errors():
        return (workdir / str(step)).rename(next(p for p in paths if not p.exists()))


def save_params(
    workdir: Path,
    step: int,
    params: Params,
    config: Config,
    task: Task,
    metrics: dict[str, Any] | None,
) -> None:
    """Saves a checkpoint without training state in a folder without checkpoints.

    The paths of the data, which are those of the machine that trained, are removed from
    the configuration. The other arguments are those of `Checkpoints.save`.
    """
    config = config.replace(dict.fromkeys(DATA_PATHS))
    items = _make_items(config, task, metrics, {"params": params})
    options = ocp.CheckpointManagerOptions(best_fn=selection_key)
    with ocp.CheckpointManager(workdir, options=options) as manager:
        manager.save(step, args=items, metrics=metrics)
    for path in workdir.rglob("commit_success.txt"):
        path.unlink()  # its only content is the path at which it was written


def _make_items(
    config: Config,
    task: Task,
    metrics: dict[str, Any] | None,
    arrays: Mapping[str, Any],
) -> ocp.args.Composite:
    values = {"config": msgspec.to_builtins(config), "task": task.to_dict()}
    checksums: dict[str, Any] = {
        **{item: json_checksum(value) for item, value in values.items()},
        "metrics": json_checksum(metrics),
        **{item: array_checksums(tree) for item, tree in arrays.items()},
    }
    return ocp.args.Composite(
        **{item: ocp.args.JsonSave(value) for item, value in values.items()},
        sha256=ocp.args.JsonSave(checksums),
        **{item: ocp.args.StandardSave(tree) for item, tree in arrays.items()},
    )


def _read_json(folder: Path, item: str) -> Any:
    # Without orbax, which would initialize jax's devices.
    path = folder / item / ("metrics" if item == "metrics" else "metadata")
    try:
        if path.stat().st_size > MAX_JSON_BYTES:
            raise ValueError(f"it has {path.stat().st_size} bytes")
        return json.loads(path.read_bytes())
    except PermissionError as error:
        raise RunError(f"checkpoint {folder} cannot be read: {error}") from error
    except (OSError, ValueError, RecursionError) as error:
        raise DamagedError(folder, f"{item} cannot be read ({error})") from error


def _read_checksums(folder: Path) -> dict[str, Any]:
    checksums = _read_json(folder, "sha256")
    if (
        not isinstance(checksums, dict)
        or not {"config", "task", "metrics", "params"} <= checksums.keys()
        or not all(isinstance(checksums.get(i, {}), dict) for i in ("params", "state"))
    ):
        raise DamagedError(folder, "sha256 holds no checksums")
    return checksums


def _read_checked_json(folder: Path, item: str) -> dict[str, Any]:
    value = _read_json(folder, item)
    if json_checksum(value) != _read_checksums(folder)[item]:
        raise DamagedError(folder, f"{item} differs from its SHA-256")
    return value


def _read_arrays(folder: Path, item: str, like: Any) -> Any:
    """Restores a tree of arrays and compares it with its checksums."""
    expected = _read_checksums(folder).get(item, {})
    tree = _restore(folder, item, like)
    tree = jax.tree.map(np.asarray, tree)
    found = array_checksums(tree)
    names = found.keys() | expected.keys()
    names = sorted(name for name in names if found.get(name) != expected.get(name))
    if names or not expected:
        text = ", ".join(names[:3]) + (" and others" if len(names) > 3 else "")
        raise DamagedError(folder, f"{text} in {item} differs from its SHA-256")
    return tree


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
            # Before memory is allocated; orbax would cast to another type silently.
            _check_leaves(folder, item, saved.tree, like)
            _check_size(folder, item, saved.tree)
            target = jax.tree.map(
                lambda leaf: jax.ShapeDtypeStruct(
                    leaf.shape, leaf.dtype, sharding=local_sharding()
                ),
                saved.tree if like is None else like,
            )
            return checkpointer.restore(folder / item, target)
    except (RunError, MemoryError):
        raise
    except PermissionError as error:
        raise RunError(f"checkpoint {folder} cannot be read: {error}") from error
    except Exception as error:  # a damaged file can cause an error of any type
        reason = f"{item} cannot be read ({first_line(error)})"
        raise DamagedError(folder, reason) from error


def _check_size(folder: Path, item: str, found: Any) -> None:
    """Refuses metadata that claim far more memory than their files can hold."""
    claimed = sum(
        math.prod(leaf.shape) * np.dtype(leaf.dtype).itemsize
        for _, leaf in named_leaves(found)
    )
    stored = sum(file.stat().st_size for file in (folder / item).rglob("*"))
    if claimed > MAX_COMPRESSION * stored:
        raise DamagedError(folder, f"the metadata of {item} claim {claimed} bytes")


def _check_leaves(folder: Path, item: str, found: Any, expected: Any) -> None:
    saved = dict(named_leaves(found))
    for name, leaf in named_leaves(expected):
        if name not in saved:
            raise RunError(
                f"checkpoint {folder}: {item} holds no {name}: it is of another "
                "version of rnnmnist, or of other settings; name another workdir"
            )
        shape, dtype = tuple(saved[name].shape), np.dtype(saved[name].dtype)
        if (shape, dtype) != (leaf.shape, leaf.dtype):
            raise RunError(
                f"checkpoint {folder}: {name} in {item} is {dtype} {shape}, not "
                f"{leaf.dtype} {leaf.shape}"
            )
