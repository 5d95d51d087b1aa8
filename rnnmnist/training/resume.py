"""Resuming a run: who may write its folder, from which step, with which settings."""

import contextlib
import functools
import logging
from collections.abc import Iterator
from pathlib import Path

import jax

from rnnmnist.config.schema import DATA_PATHS, SETTINGS, Config
from rnnmnist.config.tasks import Task, fit_to_examples
from rnnmnist.errors import RunError, UserError, as_run_error
from rnnmnist.models.classifier import flatten_params
from rnnmnist.runs import checkpoints
from rnnmnist.runs.checkpoints import DamagedError, read_header
from rnnmnist.runs.workdir import check_free, list_steps, lock
from rnnmnist.runtime.distributed import all_gather, broadcast, process_count
from rnnmnist.runtime.ensemble import put_ensemble
from rnnmnist.runtime.mesh import device_put, over_seeds, replicated
from rnnmnist.training.console import describe_last_checkpoint
from rnnmnist.training.state import Program, TrainState, abstract_state, saved_arrays

_logger = logging.getLogger(__name__)


def check_agreement(config: Config, task: Task) -> None:
    """Checks that all processes have the same data and, paths aside, settings."""
    settings = {"num_processes": process_count(), "data": task.sha256} | {
        name: value for name, value in config.flat().items() if name not in DATA_PATHS
    }
    first, *others = all_gather(settings)
    differing = [
        f"{name}={other[name]} on process {index} (process 0: {first[name]})"
        for index, other in enumerate(others, 1)
        for name in first
        if other[name] != first[name]
    ]
    if differing:
        raise UserError(
            f"{', '.join(differing)}: start all processes with the same settings"
        )


@contextlib.contextmanager
def hold_workdir(workdir: Path) -> Iterator[None]:
    """Locks a workdir. A failed read or write names the last checkpoint in it."""
    with lock(workdir):
        try:
            yield
        except OSError as error:
            failure = as_run_error(error)
            if failure is None:  # such as a closed standard output
                raise
            last = describe_last_checkpoint(workdir)
            raise RunError(f"{failure}; {last}") from error


def resume(config: Config, task: Task, workdir: Path) -> int:
    """Returns the step from which a run resumes, 0 if there is no checkpoint.

    Damaged checkpoints are renamed, so that their steps can be saved again.
    """
    broadcast(lambda: _quarantine_damaged(workdir))
    step = broadcast(lambda: step_to_resume(config, workdir))
    if step:
        check_same_data(task, workdir, step)
        warn_of_changes(config, workdir, step)
    return step


def check_workdir(config: Config, workdir: Path) -> None:
    """Checks before the data are read that a run may train in a workdir."""
    check_free(workdir)
    step_to_resume(config, workdir)


def step_to_resume(config: Config, workdir: Path) -> int:
    """Returns the newest checkpoint's step, 0 if there is none."""
    step = _newest_readable_step(workdir)
    if not step:
        return 0
    header = read_header(workdir, step)
    # Before the data are read, their number is that of the checkpoint.
    config = fit_to_examples(config, header.task.examples.train)
    if not header.has_training_state:
        raise UserError(
            f"workdir: {workdir} holds parameters only, which cannot be trained on; "
            "name another workdir"
        )
    refused = [
        f"{name}={new} (checkpoint: {old})"
        for name, (old, new) in _changes(header.config, config).items()
        if SETTINGS[name].resume == "refused"
    ]
    if refused:
        raise UserError(
            f"workdir: step {step} in {workdir} belongs to another run: "
            f"{', '.join(refused)}; name another workdir, or use the checkpoint's "
            "settings"
        )
    if step > config.train.total_steps:
        raise UserError(
            f"train.num_steps: must be at least {step}, the newest checkpoint in "
            f"{workdir}, not {config.train.total_steps}; make the run longer, or name "
            "another workdir"
        )
    return step


def check_same_data(task: Task, workdir: Path, step: int) -> None:
    """Checks that the data of a run are those of the checkpoint that it resumes."""
    saved = read_header(workdir, step).task
    if task.sha256 != saved.sha256:
        raise UserError(
            f"workdir: step {step} in {workdir} was trained on other data than "
            f"{task.name} (SHA-256 {saved.sha256}, not {task.sha256}); name another "
            "workdir, or the same data"
        )


def restore_state(
    workdir: Path, step: int, config: Config, program: Program
) -> TrainState:
    """Restores the state of a step of a run with this configuration.

    Raises:
        DamagedError: if an array differs from the saved one.
    """
    like = abstract_state(config, program)
    expected = jax.eval_shape(functools.partial(saved_arrays, program=program), like)
    params = checkpoints.read_params(workdir, step, expected["params"])
    rest = checkpoints.read_state(workdir, step, expected["state"])
    trained = rest.get("trained_params")
    sharding = over_seeds(program.mesh)
    flatten = jax.jit(jax.vmap(flatten_params), out_shardings=sharding)

    def put(abstract: jax.Array, saved: object) -> jax.Array:
        array = put_ensemble(saved, config.num_seeds, sharding)
        return flatten(array) if abstract.ndim > 1 else array

    return TrainState(
        step=device_put(rest["step"], replicated(program.mesh)),
        params=put(like.params, params if trained is None else trained),
        ema_params=None if trained is None else put(like.params, params),
        opt_state=jax.tree.map(put, like.opt_state, rest["opt_state"]),
    )


def warn_of_changes(config: Config, workdir: Path, step: int) -> None:
    """Warns of each changed setting that affects the result."""
    saved = read_header(workdir, step).config
    for name, (old, new) in _changes(saved, config).items():
        if SETTINGS[name].resume == "warned":
            _logger.warning(
                "%s was %s and is now %s: the result will differ from that of an "
                "uninterrupted run",
                name,
                old,
                new,
            )


def _newest_readable_step(workdir: Path) -> int:
    for step in reversed(list_steps(workdir)):
        with contextlib.suppress(DamagedError):
            read_header(workdir, step)
            return step
    return 0


def _changes(saved: Config, config: Config) -> dict[str, tuple[object, object]]:
    """Returns the checkpoint's and the new value of each setting that differs."""
    old = saved.flat()
    new = config.flat()
    return {name: (old[name], new[name]) for name in new if new[name] != old[name]}


def _quarantine_damaged(workdir: Path) -> None:
    for step in list_steps(workdir):
        if (fault := checkpoints.find_fault(workdir, step)) is not None:
            _logger.warning(
                "checkpoint %d is damaged and not used (%s); it is now %s",
                step,
                fault,
                checkpoints.quarantine(workdir, step),
            )
