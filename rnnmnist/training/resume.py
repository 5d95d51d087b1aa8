"""Where a run begins and ends: its workdir, its first step, and its settings."""

import contextlib
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from rnnmnist.config.recipes import Request, choose_config
from rnnmnist.config.resolving import RunConfig, fill_defaults, resolve
from rnnmnist.config.schema import DATA_PATHS, SETTINGS
from rnnmnist.config.tasks import Task
from rnnmnist.data.examples import Dataset
from rnnmnist.data.image_sets import image_task
from rnnmnist.errors import UserError
from rnnmnist.models.cells import resolve_cell
from rnnmnist.models.filters import THRESHOLDS
from rnnmnist.models.user_cells import import_cell
from rnnmnist.runs.checkpoint_files import Header, read_newest, repair
from rnnmnist.runs.checkpoints import read_arrays
from rnnmnist.runs.logs import completion
from rnnmnist.runs.workdir import check_folders, lock
from rnnmnist.runtime.distributed import (
    broadcast,
    is_process_0,
    wait_for_process_0,
)
from rnnmnist.runtime.jax_defaults import jax_defaults
from rnnmnist.runtime.jax_internals import process_count, process_index
from rnnmnist.runtime.machine import main_memory
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

# What a fit has in memory at a time, in float64: the hidden states and the coordinates
# of the examples, and the Gram matrix with what its decomposition needs.
COPIES_OF_STATES = 2
COPIES_OF_GRAM = 5
COPIES_OF_GROUP = 3  # of the matrix of the leverages within the largest group

_logger = logging.getLogger(__name__)


class Start(NamedTuple):
    """What a run starts from: the newest checkpoint in its workdir, if there is one.

    Attributes:
        workdir: the folder of the run.
        step: the number of finished updates.
        config: the configuration of the run so far; None without a checkpoint.
        task: the task of the run so far; None without a checkpoint.
        completion: why the run is complete, and None if it is not.
        warnings: a line for each changed setting that changes the result.
    """

    workdir: Path
    step: int = 0
    config: RunConfig | None = None
    task: Task | None = None
    completion: str | None = None
    warnings: tuple[str, ...] = ()

    @jax_defaults()
    def check(self, config: RunConfig, dataset: Dataset) -> None:
        """Checks that the run can train on its data, before anything is written."""
        task = dataset.task
        if self.task is not None and self.task.sha256 != task.sha256:
            raise UserError(
                f"workdir: step {self.step} in {self.workdir} was trained on other "
                f"data than {task.name} (SHA-256 {self.task.sha256}, not "
                f"{task.sha256}); name another workdir, or the same data"
            )
        check_processes(config, task)
        resolve_cell(config.model)
        if config.model.fitting == "closed_form" and self.completion is None:
            check_fit(config, dataset)
        for warning in self.warnings:
            _logger.warning(warning)


@contextlib.contextmanager
def open_workdir(request: Request, workdir: Path) -> Iterator[Start]:
    """Locks a workdir, and yields what a run starts from in it.

    Damaged steps are renamed once it is known that the run can start.
    """
    with lock(workdir):
        if is_process_0():
            start = find_start(request, workdir)
            repair(workdir)
        wait_for_process_0()  # which repairs the workdir
        if not is_process_0():
            start = find_start(request, workdir)
        yield start


def find_start(request: Request, workdir: Path) -> Start:
    """Returns what a run starts from, after checks that need no data.

    A run that resumes has the defaults for the data of its checkpoint.
    """
    check_folders(workdir)
    header = read_newest(workdir)
    saved = None if header is None else header.config
    config, _ = choose_config(request, saved)
    if config.data.name != "files":  # images need not be read for their task
        resolve(config, image_task(config.data))
    if config.model.is_user_cell:
        import_cell(config.model.cell)
    if header is None:
        return Start(workdir)
    if not (workdir / str(header.step) / "state").exists():
        raise UserError(
            f"workdir: {workdir} holds parameters only, which cannot be trained on; "
            "name another workdir"
        )
    return check_settings(fill_defaults(config, header.task), header, workdir)


def check_settings(config: RunConfig, header: Header, workdir: Path) -> Start:
    """Checks that a run may resume from a checkpoint with these settings.

    A complete run has no other settings that change its result.
    """
    old, new = _settings(header.config), _settings(config)
    changed = [name for name in new if new[name] != old[name]]
    refused = [name for name in changed if SETTINGS[name].resume == "refused"]
    warned = [name for name in changed if SETTINGS[name].resume == "warned"]
    complete = completion(workdir, header.step, config.train)
    if complete is not None:
        # No update would have them. The number of steps says whether it is complete.
        refused += [name for name in warned if name != "train.num_steps"]
        warned = []
    if refused:
        values = [f"{name}={new[name]} (checkpoint: {old[name]})" for name in refused]
        raise UserError(
            f"workdir: step {header.step} in {workdir} belongs to another run: "
            f"{', '.join(values)}; name another workdir, or use the checkpoint's "
            "settings"
        )
    warnings = [
        f"{name} was {old[name]} and is now {new[name]}: the result will differ from "
        "that of an uninterrupted run"
        for name in warned
    ]
    return Start(
        workdir, header.step, header.config, header.task, complete, tuple(warnings)
    )


def _settings(config: RunConfig) -> dict[str, Any]:
    """Returns all settings by their names; the file of a user's cell may have moved."""
    return config.flat() | {"model.cell": config.model.cell_name}


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
    settings = _settings(config) | {"data": task.sha256}
    values = {
        name: str(value) for name, value in settings.items() if name not in DATA_PATHS
    }
    expected = broadcast(lambda: values)
    differing = [
        f"{name}={value} on process {process_index()} (process 0: {expected[name]})"
        for name, value in values.items()
        if value != expected[name]
    ]
    if differing:
        listed = ", ".join(differing)
        raise UserError(f"{listed}: start all processes with the same settings")


def check_fit(config: RunConfig, dataset: Dataset) -> None:
    """Refuses a fit in closed form of one group, or of more than the memory holds."""
    task, splits = dataset
    train = splits["train"]
    if train.num_groups == 1:
        raise UserError(
            "groups: all training sequences are of one group, and leaving it out "
            "leaves none; add another group, or leave groups out"
        )
    count = len(train)
    features = (THRESHOLDS + 1) * config.model.hidden_size
    needed = COPIES_OF_STATES * count * features
    needed += COPIES_OF_GRAM * min(count, features) ** 2
    if train.groups is not None:
        _, sizes = np.unique(train.groups, return_counts=True)
        needed += COPIES_OF_GROUP * int(sizes.max()) ** 2
    needed *= 8
    available = main_memory().available
    if needed > available:
        raise UserError(
            f"model.cell: {config.model.cell} needs {needed / 2**30:.1f} GiB of memory "
            f"for {count:,} training {task.noun}, and {available / 2**30:.1f} GiB "
            "are available; train a network by model.cell=lru"
        )


def restore_state(
    workdir: Path, step: int, config: RunConfig, program: Program
) -> TrainState:
    """Restores the state of a step of a run with this configuration."""
    expected = to_items(abstract_state(config, program))
    items = {
        item: read_arrays(workdir, step, item, like) for item, like in expected.items()
    }
    state = from_items(items)
    shardings = jax.tree.map(lambda _: seeds_sharding(program.mesh), state)
    shardings = shardings._replace(step=replicated_sharding(program.mesh))
    restored: TrainState = jax.tree.map(device_put, state, shardings)
    return restored
