"""Where a run begins and ends: who may write its folder, which steps and settings."""

import contextlib
import logging
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jax
import numpy as np

from rnnmnist.config.recipes import Given, choose_config
from rnnmnist.config.resolving import (
    RunConfig,
    RunTrainConfig,
    fill_defaults,
    resolve,
)
from rnnmnist.config.schema import DATA_PATHS, SETTINGS, Config
from rnnmnist.config.tasks import Task
from rnnmnist.data.image_sets import image_task
from rnnmnist.errors import BY_CALLBACK, RunError, UserError, as_failure
from rnnmnist.models.user_cells import import_cell
from rnnmnist.runs import checkpoints
from rnnmnist.runs.checkpoint_files import (
    Header,
    find_fault,
    has_state,
    newest_readable,
    quarantine,
)
from rnnmnist.runs.logs import Metrics, completion
from rnnmnist.runs.workdir import (
    check_folders,
    check_free,
    describe_last_checkpoint,
    list_steps,
    lock,
)
from rnnmnist.runtime.distributed import broadcast, process_0_first
from rnnmnist.runtime.jax_internals import process_count, process_index
from rnnmnist.runtime.mesh import (
    device_put,
    replicated_sharding,
    seeds_sharding,
)
from rnnmnist.training.state import (
    Program,
    TrainState,
    abstract_state,
    from_items,
    to_items,
)

# Takes the metrics of a validation. True ends the run, which can be resumed.
Callback = Callable[[Metrics], bool | None]

_logger = logging.getLogger(__name__)


@contextlib.contextmanager
def hold_workdir(workdir: Path) -> Iterator[None]:
    """Locks a workdir for a run.

    Within the context, the error of a failed read or write also names the last
    checkpoint in the workdir. The error of a callback stays as it is.
    """
    with lock(workdir):
        try:
            yield
        except OSError as error:
            failure = as_failure(error)
            if failure is None:
                raise
            raise RunError(f"{failure}; {describe_last_checkpoint(workdir)}") from error


def check_processes(config: RunConfig, task: Task) -> None:
    """Checks that the processes can train together.

    Their data and settings must be those of process 0, but for the paths of the data
    and of a user's cell. A head in closed form is fitted by one process.
    """
    if config.model.fitting == "closed_form" and process_count() > 1:
        raise UserError(
            f"num_processes: one process fits model.cell={config.model.cell} in closed "
            f"form, not {process_count()}; start one, or train a network by "
            "--config=trained"
        )
    settings = config.flat()
    for path in DATA_PATHS:
        del settings[path]
    settings["model.cell"] = config.model.cell_name
    settings["num_processes"] = process_count()
    settings["data"] = task.sha256
    values = {name: str(value) for name, value in settings.items()}
    expected = broadcast(lambda: values)
    differing = [
        f"{name}={value} on process {process_index()} (process 0: {expected[name]})"
        for name, value in values.items()
        if value != expected[name]
    ]
    with process_0_first():  # all refuse to start if one of them differs
        if differing:
            listed = ", ".join(differing)
            raise UserError(f"{listed}: start all processes with the same settings")


def find_start(config: RunConfig, task: Task, workdir: Path) -> tuple[int, str | None]:
    """Returns the step from which a run resumes, and why it is complete if it is.

    The step is 0 if there is no checkpoint. Damaged checkpoints are renamed, so that
    their steps can be saved again.
    """
    for step in list_steps(workdir):
        if (fault := find_fault(workdir, step)) is not None:
            renamed = quarantine(workdir, step)
            _logger.warning(
                f"checkpoint {step} is damaged and not used ({fault}); it is now "
                f"{renamed}"
            )
    return step_to_resume(config, workdir, task)


def decide_end(
    metrics: Metrics, config: RunTrainConfig, workdir: Path, callback: Callback | None
) -> bool:
    """Returns whether a run ends at a validation, by its patience or its callback.

    The callback, if there is one, is called with the metrics of the validation.
    """

    def decide() -> bool:
        answer = None
        if callback is not None:
            try:
                answer = callback(metrics)
            except OSError as error:
                # `hold_workdir` takes other errors of this type for those of a file of
                # the run.
                error.add_note(BY_CALLBACK)
                raise
        ends_by_callback = isinstance(answer, bool | np.bool_) and bool(answer)
        return ends_by_callback or completion(workdir, metrics.step, config) is not None

    with jax.transfer_guard("allow"):  # the callback may copy arrays to the host
        return broadcast(decide)


def check_start(given: Given, workdir: Path) -> None:
    """Checks before the data are read that a run may train in a workdir."""
    check_free(workdir)
    check_folders(workdir)
    saved = saved_config(workdir)
    config, _ = choose_config(given, 0, saved)
    if config.data.name != "files":  # images need not be read for their task
        resolve(config, image_task(config.data))
    if config.model.is_user_cell:
        import_cell(config.model.cell)
    if saved is not None:  # and decides on the network, as the number of sequences else
        check_settings(config, workdir)


def saved_config(workdir: Path) -> RunConfig | None:
    """Returns the configuration of the run in a workdir, None if there is none."""
    _, header = newest_readable(workdir)
    return None if header is None else header.config


def check_settings(config: Config, workdir: Path) -> tuple[int, Header | None]:
    """Checks that a run may resume in a workdir with these settings.

    Defaults are those for the data of the checkpoint, since those of this run may not
    have been read yet. A complete run has no other settings that change its result.

    Returns the step and the header of the newest checkpoint; 0 and None without one.
    """
    check_folders(workdir)
    step, header = newest_readable(workdir)
    if header is None:
        return 0, None
    if not has_state(workdir, step):
        raise UserError(
            f"workdir: {workdir} holds parameters only, which cannot be trained on; "
            "name another workdir"
        )
    new_config = fill_defaults(config, header.task)
    refused = _changes(new_config, header, "refused")
    if completion(workdir, step, new_config.train) is not None:
        # No update would have them. The number of steps says whether it is complete.
        warned = _changes(new_config, header, "warned")
        refused += [change for change in warned if change[0] != "train.num_steps"]
    if refused:
        values = [f"{name}={new} (checkpoint: {old})" for name, old, new in refused]
        listed = ", ".join(values)
        raise UserError(
            f"workdir: step {step} in {workdir} belongs to another run: {listed}; name "
            "another workdir, or use the checkpoint's settings"
        )
    return step, header


def step_to_resume(
    config: RunConfig, workdir: Path, task: Task
) -> tuple[int, str | None]:
    """Returns the newest checkpoint's step, or 0, and why the run is complete if it is.

    Its run must have had these data. Changes that affect the result are warned of.
    """
    step, header = check_settings(config, workdir)
    if header is None:
        return 0, None
    if task.sha256 != header.task.sha256:
        raise UserError(
            f"workdir: step {step} in {workdir} was trained on other data than "
            f"{task.name} (SHA-256 {header.task.sha256}, not {task.sha256}); name "
            "another workdir, or the same data"
        )
    complete = completion(workdir, step, config.train)
    if complete is None:
        for name, old, new in _changes(config, header, "warned"):
            _logger.warning(
                f"{name} was {old} and is now {new}: the result will differ from that "
                "of an uninterrupted run"
            )
    return step, complete


def _changes(
    config: RunConfig, header: Header, resume: str
) -> list[tuple[str, Any, Any]]:
    """Returns the changed settings of a kind, each with its old and its new value.

    The kind is `Setting.resume`.
    """
    old, new = header.config.flat(), config.flat()
    # The file of a user's cell may have moved.
    old["model.cell"] = header.config.model.cell_name
    new["model.cell"] = config.model.cell_name
    return [
        (name, old[name], new[name])
        for name in new
        if new[name] != old[name] and SETTINGS[name].resume == resume
    ]


def restore_state(
    workdir: Path, step: int, config: RunConfig, program: Program
) -> TrainState:
    """Restores the state of a step of a run with this configuration."""
    expected = to_items(abstract_state(config, program))
    with process_0_first():  # all end if one of them cannot read the checkpoint
        items = {
            item: checkpoints.read_arrays(workdir, step, item, like)
            for item, like in expected.items()
        }
    state = from_items(items)
    shardings = jax.tree.map(lambda _: seeds_sharding(program.mesh), state)
    shardings = shardings._replace(step=replicated_sharding(program.mesh))
    restored: TrainState = jax.tree.map(device_put, state, shardings)
    return restored
