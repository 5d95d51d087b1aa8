"""Opens a run: validates its record, settings, data and devices."""

import contextlib
import logging
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import jax
from jax.sharding import Mesh

from rnnmnist.config.functions import spec_without_path
from rnnmnist.config.recipes import Request, choose_config
from rnnmnist.config.resolving import (
    RunConfig,
    fill_defaults,
    import_functions,
    imported_functions,
    resolve,
)
from rnnmnist.config.schema import DATA_PATHS, SETTINGS, DataConfig
from rnnmnist.config.settings import ResumePolicy
from rnnmnist.config.tasks import Task
from rnnmnist.data.datasets import DataSource
from rnnmnist.data.examples import Dataset
from rnnmnist.data.image_datasets import image_task
from rnnmnist.errors import UserError
from rnnmnist.runs.checkpoint_files import Header, warn_about_changed_files
from rnnmnist.runs.logs import describe_completion
from rnnmnist.runs.records import Record, open_record
from rnnmnist.runtime.devices import make_mesh
from rnnmnist.runtime.distributed import (
    broadcast,
    is_process_0,
    wait_for_process_0,
)
from rnnmnist.runtime.jax_defaults import jax_defaults
from rnnmnist.runtime.jax_internals import distributed_state, process_count
from rnnmnist.runtime.mesh import ensemble_sharding, put_global
from rnnmnist.training.custom_functions import check_functions
from rnnmnist.training.state import Program, TrainState, abstract_state

_logger = logging.getLogger(__name__)


class Run(NamedTuple):
    """A validated run, ready to train.

    Attributes:
        record: the record of the run, including earlier checkpoints.
        config: the configuration, with defaults resolved for the task.
        dataset: the data, identical on all processes.
        mesh: the device mesh.
        completion: why the run is complete. None if the run is incomplete.
        reason: why this network was chosen. None if the user chose the network.
    """

    record: Record
    config: RunConfig
    dataset: Dataset
    mesh: Mesh
    completion: str | None = None
    reason: str | None = None


@contextlib.contextmanager
def open_run(
    request: Request,
    workdir: Path | None,
    open_data_source: Callable[[DataConfig], DataSource],
) -> Iterator[Run]:
    """Opens the record, loads the data, and validates that the run can start or resume.

    Writes nothing. If `workdir` is None, the record is in memory. For images, settings
    are validated before the download. For sequences, settings are validated after
    reading, since the default network depends on the number of sequences. A resumed run
    uses the defaults for the data of its checkpoint.
    """
    with open_record(workdir) as record:
        header = record.headers.get(record.step)
        source = open_data_source(request.data)
        saved_config = None if header is None else header.config
        user_config, reason = choose_config(
            request,
            saved_config,
            source.num_training_examples,
            source.has_binary_features,
        )
        # Importing custom functions is safe: the caller specified the functions.
        user_config = import_functions(user_config)
        if user_config.data.name != "files":  # the task is known without the images
            image_config = resolve(user_config, image_task(user_config.data))
            # Creating a mesh waits for all processes. Several processes must therefore
            # pass `check_processes` first.
            if process_count() == 1:
                create_mesh(image_config)
        completion = None
        if header is not None:
            config = fill_defaults(user_config, header.task)
            completion = check_resume(config, header, record)
            reason = header.reason
            warn_about_changed_files(header, config)
        if not is_process_0():
            wait_for_process_0()  # process 0 prepares the data
        dataset = source.load(user_config)
        if is_process_0():
            wait_for_process_0()
        config = resolve(user_config, dataset.task)
        if header is not None:
            check_data(dataset.task, header, record.workdir)
        check_processes(config, dataset.task, record.step)
        with jax_defaults():
            mesh = create_mesh(config)
        run = Run(record, config, dataset, mesh, completion, reason)
        if completion is None:
            _check_training(run, saved_config)
        yield run


def _check_training(run: Run, saved_config: RunConfig | None) -> None:
    """Validates custom functions or the fit, and warns about changed settings."""
    if run.record.workdir is not None:
        for function in imported_functions(run.config):
            function.check_importable()
    if run.config.model.is_closed_form:
        from rnnmnist.training.ridge import check_fit

        check_fit(run.config, run.dataset)
    else:
        check_functions(run.config, run.dataset, run.mesh)
    if saved_config is not None:
        for name, old, new in changed_settings(saved_config, run.config, "warn"):
            _logger.warning(
                f"{name} was {old} and is now {new}, so an uninterrupted run would "
                "give a different result"
            )


def check_data(task: Task, header: Header, workdir: Path | None) -> None:
    """Raises a `UserError` if the data differ from the checkpoint's data."""
    if header.task.sha256 != task.sha256:
        raise UserError(
            f"workdir: step {header.step} in {workdir} was trained on data other than "
            f"{task.name} (SHA-256 {header.task.sha256}, not {task.sha256}); use "
            "another workdir, or the same data"
        )
    if header.task.feature_names != task.feature_names:
        raise UserError(
            f"feature_names: must be {', '.join(header.task.feature_names)}, as at "
            f"step {header.step} in {workdir}, not {', '.join(task.feature_names)}; "
            "use the same names, or another workdir"
        )


def create_mesh(config: RunConfig) -> Mesh:
    """Creates the device mesh over which the batches of a run are sharded."""
    return make_mesh(
        config.sharded_batch_size, config.execution.num_devices, config.num_seeds
    )


def check_resume(config: RunConfig, header: Header, record: Record) -> str | None:
    """Returns why the run is complete, or None if the run is incomplete.

    For a complete run, all settings that affect the result must equal the checkpoint's
    settings.

    Raises:
        UserError: if the run cannot resume with these settings.
    """
    mismatches = changed_settings(header.config, config, "error")
    completion = describe_completion(record.lines, header.step, config.train)
    if completion is not None:
        # No later update would use the new values. Only `train.num_steps` may differ,
        # since it only determines whether the run is complete.
        changes = changed_settings(header.config, config, "warn")
        mismatches += [change for change in changes if change[0] != "train.num_steps"]
    if mismatches:
        values = [f"{name}={new} (checkpoint: {old})" for name, old, new in mismatches]
        raise UserError(
            f"workdir: step {header.step} in {record.workdir} belongs to another run: "
            f"{', '.join(values)}; use another workdir, or the checkpoint's settings"
        )
    return completion


def changed_settings(
    old: RunConfig, new: RunConfig, policy: ResumePolicy
) -> list[tuple[str, str, str]]:
    """Returns (name, old value, new value) of each changed setting with this policy."""
    old_values = _settings(old)
    return [
        (name, old_values[name], value)
        for name, value in _settings(new).items()
        if value != old_values[name] and SETTINGS[name].on_resume == policy
    ]


def check_processes(config: RunConfig, task: Task, step: int) -> None:
    """Raises a `UserError` if the processes cannot train together.

    All processes must have the same data, settings and resume point. Fitting in closed
    form requires a single process.
    """
    if config.model.is_closed_form and process_count() > 1:
        raise UserError(
            f"num_processes: must be 1 for model.cell={config.model.cell}, not "
            f"{process_count()}, since the head is fitted in closed form; use one "
            "process, or train a network with --config=trained"
        )
    values = _settings(config) | {"data": str(task.sha256), "step": str(step)}
    process = distributed_state().process_id
    expected = broadcast(lambda: values)
    mismatches = [
        f"{name}={value} on process {process} (process 0: {expected[name]})"
        for name, value in values.items()
        if value != expected[name]
    ]
    if mismatches:
        raise UserError(
            f"{', '.join(mismatches)}; start all processes with the same settings and "
            "a shared workdir"
        )


def _settings(config: RunConfig) -> dict[str, str]:
    """Returns settings as strings, without the paths of data and custom functions.

    These paths may change when a run is resumed, and may differ between processes.
    """
    settings = {}
    for name, value in config.flat().items():
        if name in DATA_PATHS:
            continue
        if SETTINGS[name].functions is None:
            settings[name] = str(value)
        else:
            functions = value if isinstance(value, tuple) else (value,)
            settings[name] = "+".join(map(spec_without_path, functions))
    return settings


def restore_state(record: Record, config: RunConfig, program: Program) -> TrainState:
    """Restores the training state from the latest checkpoint."""
    arrays = record.read_state(abstract_state(config, program)._asdict())
    sharding = ensemble_sharding(program.mesh)
    return TrainState(**jax.tree.map(lambda leaf: put_global(leaf, sharding), arrays))
