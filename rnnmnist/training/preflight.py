"""Preflight checks of a run: its devices, data and workdir, and a few training steps.

Each function `describe_…` raises the error that the run would raise.
"""

import logging
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TypeVar

import jax
import numpy as np

from rnnmnist.config.schema import Config, DataConfig
from rnnmnist.config.tasks import Task, fit_to_task
from rnnmnist.data import datasets
from rnnmnist.data.batches import open_batches
from rnnmnist.data.examples import Dataset, Examples
from rnnmnist.data.images import host_of, make_builder, missing_urls
from rnnmnist.errors import RunError, UserError, as_run_error, first_line
from rnnmnist.runs.checkpoints import find_fault
from rnnmnist.runs.workdir import check_free, list_steps
from rnnmnist.runtime.compilation import compile_seconds, running_seconds
from rnnmnist.runtime.distributed import process_count
from rnnmnist.runtime.mesh import devices, make_mesh, set_cpu_devices
from rnnmnist.training import console
from rnnmnist.training.resume import step_to_resume
from rnnmnist.training.state import Program, create_state
from rnnmnist.training.step import train_range

TIMED_STEPS = 5

T = TypeVar("T")


def check_run(
    config: Config, workdir: Path, platform: str | None
) -> Iterator[tuple[str, str | RunError]]:
    """Yields the label of each check with a description, or with the problem.

    `platform` is the required one, `tpu` or `gpu`.
    """
    dataset = None
    if config.data.name == "files":
        found = attempt(datasets.load, config.data)
        if isinstance(found, RunError):
            yield "data", found  # on which the other checks depend
            return
        dataset = found
    task = dataset.task if dataset else datasets.image_task(config.data)
    config = fit_to_task(config, task)
    mesh_args = config.train.batch_size, config.execution.num_devices, config.num_seeds
    set_cpu_devices(*mesh_args, process_count())
    yield "devices", (text := attempt(describe_devices, *mesh_args, platform))
    yield "data", attempt(describe_data, config.data, dataset)
    yield "workdir", attempt(describe_workdir, config, workdir, task)
    if isinstance(text, str):
        yield "step", attempt(describe_step, config, task, dataset)


def attempt(function: Callable[..., T], *args: object) -> T | RunError:
    """Returns the result of a function, or its deliberate failure."""
    try:
        return function(*args)
    except Exception as error:
        if failure := as_run_error(error):
            return failure
        raise


def describe_devices(
    batch_size: int, num_devices: int | None, num_seeds: int, platform: str | None
) -> str:
    """Describes the devices of `make_mesh`, which must be of the platform if given."""
    found, reasons = find_devices()
    name = found[0].platform if found else None
    if platform not in (None, name):
        if found:
            reasons.insert(0, f"the devices here are {len(found)} x {name}")
        raise RunError(
            f"require: jax uses no {platform}: {'; '.join(reasons)}; install "
            f"jax[{'cuda12' if platform == 'gpu' else platform}] on a machine with one "
            "(in Colab: Runtime, Change runtime type)"
        )
    if not found:
        raise RunError("; ".join(reasons))
    mesh = make_mesh(batch_size, num_devices, num_seeds)
    text = f"{mesh.size} of {len(found)} x {found[0].device_kind}"
    if mesh.size < len(found) and num_devices is None:
        seeds = f"{num_seeds} seeds and " if num_seeds > 1 else ""
        text += f", the most that can split {seeds}a batch of {batch_size}"
    return "; ".join([text, *reasons])


def find_devices() -> tuple[list[jax.Device], list[str]]:
    """Returns jax's devices, and why it uses no others, in its own words."""
    reasons: list[str] = []

    def keep(record: logging.LogRecord) -> bool:
        error = record.exc_info[1] if record.exc_info else None
        reason = f": {first_line(error)}" if error else ""
        reasons.append(record.getMessage() + reason)
        return False

    logger = logging.getLogger("jax._src.xla_bridge")
    logger.addFilter(keep)
    found = []
    try:
        found = devices()
        if platforms := os.environ.get("JAX_PLATFORMS"):
            reasons.append(f"JAX_PLATFORMS={platforms} excludes others")
        if not reasons and found[0].platform == "cpu":
            reasons.append("jax found no accelerator")
    except UserError as error:
        reasons.append(str(error))
    finally:
        logger.removeFilter(keep)
    return found, reasons


def describe_data(config: DataConfig, sequences: Dataset | None) -> str:
    """Describes the data set; reads all images if they are prepared."""
    if sequences is not None:
        task = sequences.task
        return (
            f"{config.path}: {task.sizes} {task.noun} of at most {task.time_steps:,} x "
            f"{task.features:,} values, {len(task.classes):,} classes"
        )
    builder = make_builder(config)
    folder = builder.data_dir
    if builder.is_prepared():
        task = datasets.load(config).task
        return f"{config.name}: prepared in {folder}, {task.sizes} {task.noun}"
    missing = missing_urls(builder, config.manual_dir)
    check_writable(Path(folder))
    source = f"{host_of(missing[0])} (reachable)" if missing else "local files"
    return f"{config.name}: not prepared; a run prepares it from {source} in {folder}"


def describe_workdir(config: Config, folder: Path, task: Task) -> str:
    """Describes a workdir and the step from which a run would start."""
    check_free(folder)
    existing = check_writable(folder)
    free = shutil.disk_usage(existing).free / 2**30
    text = f"{folder}, writable, {free:,.1f} GiB free, "
    if not step_to_resume(config, folder, task):
        return text + "no run in it yet"
    devices()  # raises if there are none to read checkpoints
    damaged = ""
    for step in reversed(list_steps(folder)):
        fault = find_fault(folder, step)
        if fault is None and step == config.train.total_steps:
            return f"{text}complete at step {step}: a run changes nothing"
        if fault is None:
            return f"{text}a run resumes from step {step}{damaged}"
        damaged += f"; step {step} is damaged and would be quarantined ({fault})"
    return f"{text}a run starts again from step 0{damaged}"


def check_writable(folder: Path) -> Path:
    """Checks that a folder, or its nearest parent, is writable; returns that one."""
    existing = next(path for path in (folder, *folder.parents) if path.exists())
    try:
        tempfile.TemporaryFile(dir=existing).close()
    except OSError as error:
        error.filename = str(folder)
        raise
    return existing


def describe_step(config: Config, task: Task, sequences: Dataset | None) -> str:
    """Compiles the training step and times a few steps, on noise instead of images.

    The run uses the same program, which is then in the compilation cache.
    """
    try:
        return _time_steps(config, task, sequences)
    except RunError:
        raise
    except Exception as error:  # compilers and drivers raise many types
        raise RunError(f"a training step fails: {first_line(error)}") from error


def _time_steps(config: Config, task: Task, sequences: Dataset | None) -> str:
    batch_size = config.train.batch_size
    mesh = make_mesh(batch_size, config.execution.num_devices, config.num_seeds)
    before = compile_seconds()
    program = Program.create(config, task, mesh)
    state = create_state(config, program)
    examples = noise(task) if sequences is None else sequences.splits["train"]
    with open_batches(examples, config, mesh) as source:
        for first, last in ((0, 1), (1, 1 + TIMED_STEPS)):
            start = running_seconds()
            state, sums, _ = train_range(state, source, first, last, program=program)
            seconds = running_seconds() - start
            if not sums.finite.all():
                reason = console.describe_rejection(config, sums, first)
                raise RunError(f"a training step{reason}; {console.REMEDY}")
    return (
        f"compiled in {compile_seconds() - before:.1f} s, then "
        f"{1000 * seconds / TIMED_STEPS:,.1f} ms a step of {batch_size} {task.noun}; "
        f"{program.execution.describe()}"
    )


def noise(task: Task) -> Examples:
    """Returns as many images of noise as a task has for training."""
    generator = np.random.default_rng(0)
    count = task.examples.train
    images = generator.integers(0, 256, (count, *(task.image_shape or ())), np.uint8)
    labels = generator.integers(0, len(task.classes), count, np.int32)
    return Examples(images, labels=labels)
