"""Checkpoints: the only room that knows orbax.

A workdir holds one folder for each kept step. In it lie `params` (what is
evaluated), `state` (the optimizer's memory and the step, which a resume needs
besides), `config` (the whole configuration) and, where the step was validated,
`metrics`: each an item of its own. Reading never goes through orbax's manager,
which can create and delete; writing always does.
"""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import jax
import numpy as np
import orbax.checkpoint as ocp
from flax.training.train_state import TrainState
from orbax.checkpoint import checkpoint_managers as policies

from rnnmnist.config import Config
from rnnmnist.errors import RunError, UserError

Params = Mapping[str, Any]  # of arrays, by Flax's names


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

    def save(
        self, state: TrainState, config: Config, metrics: dict[str, Any] | None
    ) -> None:
        """Starts to save a state, which may be donated as soon as this returns.

        Args:
            state: its `step` names the checkpoint.
            config: of the whole run.
            metrics: of the validation at this step, with `accuracy` and `step`;
                None where there was none.

        Raises:
            RunError: if this save or the one before it could not be written.
        """
        items = ocp.args.Composite(
            params=ocp.args.StandardSave(state.params),
            state=ocp.args.StandardSave(memory(state)),
            config=ocp.args.JsonSave(config.to_dict()),
        )
        try:
            self._manager.save(int(state.step), args=items, metrics=metrics)
        except (OSError, ValueError) as error:
            raise self._failed(error) from error

    def wait(self) -> None:
        """Returns when the last save is on the disk.

        Raises:
            RunError: if it could not be written.
        """
        try:
            self._manager.wait_until_finished()
        except (OSError, ValueError) as error:
            raise self._failed(error) from error

    def _failed(self, error: Exception) -> RunError:
        steps = list_steps(self._workdir)
        last = f"step {steps[-1]}" if steps else "none"
        return RunError(
            f"a checkpoint could not be written in {self._workdir} ({error}); the "
            f"last finished one is {last}; make room and run the command again"
        )


def list_steps(workdir: Path) -> list[int]:
    """The steps with a finished checkpoint, ascending; nothing is created."""
    if not workdir.is_dir():
        return []
    names = [folder.name for folder in workdir.iterdir() if folder.is_dir()]
    return sorted(int(name) for name in names if name.isdecimal())


def find_step(workdir: Path, wanted: str) -> int:
    """The checkpoint that a user means.

    Args:
        workdir: of a run; nothing is created in it.
        wanted: `best` (highest validation accuracy, the earlier on a tie),
            `latest`, or a number.

    Raises:
        UserError: when there is no such workdir or step, with those that exist.
    """
    steps = list_steps(workdir)
    if not steps:
        raise UserError(f"--workdir: {workdir} {_what_is_there(workdir)}")
    if wanted == "latest":
        return steps[-1]
    if wanted == "best":
        ranked = [(rank(metrics), step) for step, metrics in _validated(workdir, steps)]
        if not ranked:
            raise UserError(
                f"--step: no checkpoint in {workdir} was validated yet; name one of "
                f"{', '.join(map(str, steps))}, or latest"
            )
        return max(ranked)[1]
    if wanted.isdecimal() and int(wanted) in steps:
        return int(wanted)
    raise UserError(
        f"--step: there is no step {wanted} in {workdir}; there are best, latest, "
        f"{', '.join(map(str, steps))}"
    )


def rank(metrics: dict[str, Any]) -> tuple[float, int]:
    """What the best checkpoint has most of: accuracy, and earliness on a tie."""
    return metrics["accuracy"], -metrics["step"]


def read_config(workdir: Path, step: int) -> Config:
    """The configuration that a checkpoint carries."""
    return Config.from_dict(_read_json(workdir / str(step) / "config" / "metadata"))


def read_metrics(workdir: Path, step: int) -> dict[str, Any] | None:
    """The validation of a checkpoint; None where it was not validated."""
    folder = workdir / str(step) / "metrics"
    return _read_json(folder / "metrics") if folder.is_dir() else None


def read_params(workdir: Path, step: int, like: Params) -> Params:
    """The parameters of a checkpoint, and nothing else of it.

    Args:
        workdir: of the run.
        step: of the checkpoint.
        like: arrays, or `jax.ShapeDtypeStruct`s with shardings, in the shapes and
            types that are expected.

    Raises:
        RunError: when the checkpoint holds other shapes or types, naming the
            leaf, or cannot be read.
    """
    return _read_arrays(workdir / str(step) / "params", like)


def read_state(workdir: Path, step: int, like: TrainState) -> TrainState:
    """The whole state at a step, laid out over the devices as another state is.

    Raises:
        RunError: as `read_params` does.
    """
    folder = workdir / str(step)
    restored = _read_arrays(folder / "state", memory(like))
    return like.replace(params=read_params(workdir, step, like.params), **restored)


def export_params(workdir: Path, step: int, target: Path) -> None:
    """Copies a checkpoint without the optimizer's memory, as a workdir of its own.

    The places of the data set are left out of the configuration: they are those of
    the machine that trained.

    Args:
        workdir: of a run.
        step: of the checkpoint.
        target: a folder that holds no checkpoints yet.
    """
    places = {"data.data_dir": None, "data.manual_dir": None}
    config = read_config(workdir, step).replace(places)
    folder = workdir / str(step) / "params"
    device = jax.sharding.SingleDeviceSharding(jax.devices()[0])
    with ocp.StandardCheckpointer() as reader:
        saved = reader.metadata(folder).item_metadata.tree
    params = _read_arrays(
        folder,
        jax.tree.map(
            lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=device),
            saved,
        ),
    )
    items = ocp.args.Composite(
        params=ocp.args.StandardSave(params),
        config=ocp.args.JsonSave(config.to_dict()),
    )
    options = ocp.CheckpointManagerOptions(best_fn=rank)
    with ocp.CheckpointManager(target, options=options) as manager:
        manager.save(step, args=items, metrics=read_metrics(workdir, step))
    for path in target.rglob("commit_success.txt"):
        path.unlink()  # all that these files hold is where they were written


def memory(state: TrainState) -> dict[str, Any]:
    """What a resume needs besides the parameters."""
    return {"opt_state": state.opt_state, "step": state.step}


def params_sha256(params: Params) -> str:
    """SHA-256 over the arrays in tree order: equal for equal bits."""
    digest = hashlib.sha256()
    for leaf in jax.tree.leaves(jax.device_get(params)):
        digest.update(np.ascontiguousarray(leaf).tobytes())
    return digest.hexdigest()


def _what_is_there(workdir: Path) -> str:
    if workdir.is_dir():
        return "holds no checkpoint; train in it with python -m rnnmnist.main"
    beside = workdir.parent
    runs = (
        sorted(folder.name for folder in beside.iterdir() if list_steps(folder))
        if beside.is_dir()
        else []
    )
    there = f"in {beside} there are {', '.join(runs)}" if runs else "nor a run near it"
    return f"does not exist; {there}"


def _validated(workdir: Path, steps: list[int]) -> list[tuple[int, dict[str, Any]]]:
    found = [(step, read_metrics(workdir, step)) for step in steps]
    return [(step, metrics) for step, metrics in found if metrics is not None]


def _read_json(path: Path) -> dict[str, Any]:
    # Plain files, so that reading a configuration does not wake jax's devices.
    try:
        return json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise RunError(f"{path} cannot be read: {error}") from error


def _read_arrays(folder: Path, like: Any) -> Any:
    target = jax.tree.map(
        lambda leaf: jax.ShapeDtypeStruct(
            leaf.shape, leaf.dtype, sharding=leaf.sharding
        ),
        like,
    )
    try:
        with ocp.StandardCheckpointer() as reader:
            # orbax casts silently to the target's type, so types are compared here.
            _check_leaves(folder, reader.metadata(folder).item_metadata.tree, target)
            return reader.restore(folder, target)
    except (OSError, ValueError, KeyError) as error:
        raise RunError(f"{folder} cannot be read: {error}") from error


def _check_leaves(folder: Path, found: Any, expected: Any) -> None:
    saved = dict(_named_leaves(found))
    for name, leaf in _named_leaves(expected):
        if name not in saved:
            raise RunError(f"{folder} holds no {name}")
        shape, dtype = tuple(saved[name].shape), np.dtype(saved[name].dtype)
        if (shape, dtype) != (leaf.shape, leaf.dtype):
            raise RunError(
                f"{folder}: {name} is {dtype} {shape}, not {leaf.dtype} {leaf.shape}"
            )


def _named_leaves(tree: Any) -> list[tuple[str, Any]]:
    leaves = jax.tree_util.tree_flatten_with_path(tree)[0]
    # Keys alone, since orbax reads named tuples back as dictionaries or lists.
    return [("/".join(_key(entry) for entry in path), leaf) for path, leaf in leaves]


def _key(entry: Any) -> str:
    for attribute in ("key", "name", "idx"):
        if hasattr(entry, attribute):
            return str(getattr(entry, attribute))
    return str(entry)
