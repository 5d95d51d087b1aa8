"""Preflight checks of a run: devices, data, workdir, and a few training steps."""

import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import jax
import numpy as np
from jax.sharding import Mesh

from rnnmnist.config.recipes import Given, choose_config
from rnnmnist.config.resolving import RunConfig, resolve
from rnnmnist.config.schema import DataConfig
from rnnmnist.config.tasks import Task
from rnnmnist.data import datasets, image_sets
from rnnmnist.data.examples import Dataset, Examples
from rnnmnist.data.images import make_builder, missing_urls
from rnnmnist.errors import RunError
from rnnmnist.runs.workdir import check_free
from rnnmnist.runtime.compilation import compile_seconds, running_seconds
from rnnmnist.runtime.jax_defaults import jax_defaults
from rnnmnist.runtime.mesh import make_batch_mesh, make_mesh, platform_of
from rnnmnist.training.closed_form import check_fit, compute_states, draw_network
from rnnmnist.training.loop import open_trainer, rejection_error
from rnnmnist.training.resume import saved_config, step_to_resume
from rnnmnist.training.state import Program, create_state

TIMED_STEPS = 5


def check_run(
    given: Given, workdir: Path, platform: str | None
) -> Iterator[tuple[str, str]]:
    """Yields the label and the result of each check; raises the error of the run.

    `platform` is the required one, `tpu` or `gpu`.
    """
    saved = saved_config(workdir)
    chosen, _ = choose_config(given, 0, saved)
    dataset = None  # images are not read
    if chosen.data.name == "files":
        chosen, _, dataset = datasets.load_for_training(given, saved)
    task = dataset.task if dataset else image_sets.image_task(chosen.data)
    config = resolve(chosen, task)
    if dataset is not None:
        check_fit(config, dataset)
    mesh = make_mesh(
        config.sharded_batch, config.execution.num_devices, config.num_seeds
    )
    present = f"{jax.device_count()} x {platform_of(mesh)}"
    if platform not in (None, platform_of(mesh)):
        raise _missing_platform_error(platform, present)
    yield "devices", f"{mesh.size} of {present}"
    yield "data", describe_data(config.data, dataset)
    check_free(workdir)
    step, complete = step_to_resume(config, workdir, task)
    free = shutil.disk_usage(check_writable(workdir)).free / 2**30
    progress = complete
    if progress is None:
        progress = f"a run resumes from step {step}" if step else "no run in it yet"
    yield "workdir", f"{workdir}, writable, {free:,.1f} GiB free, {progress}"
    yield "step", describe_step(config, task, dataset, mesh)


def _missing_platform_error(platform: str, present: str) -> RunError:
    """Returns the error that jax has devices of another platform than required."""
    extra = "cuda12" if platform == "gpu" else platform
    remedy = f"install jax[{extra}] on a machine with one"
    if os.environ.get("JAX_PLATFORMS"):
        remedy = f"unset JAX_PLATFORMS, or {remedy}"
    return RunError(
        f"require: jax uses {present}, not a {platform}; {remedy} (in Colab: Runtime, "
        "Change runtime type)"
    )


def describe_data(config: DataConfig, sequences: Dataset | None) -> str:
    """Describes the data set; reads all images if they are prepared."""
    if sequences is not None:
        return f"{config.path}: {sequences.task.sizes} sequences"
    builder = make_builder(config)
    if builder.is_prepared():
        task = datasets.load(config).task
        return f"{config.name}: prepared in {builder.data_dir}, {task.sizes} images"
    check_writable(Path(builder.data_dir))
    missing = missing_urls(builder, config.manual_dir)  # their host responds
    source = f"downloads {len(missing)} files and " if missing else ""
    return f"{config.name}: a run {source}prepares it in {builder.data_dir}"


def check_writable(folder: Path) -> Path:
    """Checks that a folder, or its nearest parent, is writable; returns that one."""
    existing = next(path for path in (folder, *folder.parents) if path.exists())
    tempfile.TemporaryFile(dir=existing).close()
    return existing


@jax_defaults()
def describe_step(
    config: RunConfig, task: Task, sequences: Dataset | None, mesh: Mesh
) -> str:
    """Compiles the run's training step and times it on black images or sequences.

    Of a run in closed form, it compiles and times the computation of hidden states.
    """
    before = compile_seconds()
    if sequences is None:
        images = np.zeros((task.examples["train"], *(task.image_shape or ())), np.uint8)
        examples = Examples(images, labels=np.zeros(len(images), np.int32))
    else:
        examples = sequences.splits["train"]
    if config.model.fitting == "closed_form":
        program = Program.create(config, task, make_batch_mesh(mesh))
        view = program.transform.view
        params = draw_network(program.model, config.seed, task, examples, view)
        for _ in range(2):
            start = running_seconds()
            count = len(next(compute_states(program, params, examples)))
            seconds = running_seconds() - start
        return (
            f"compiled in {compile_seconds() - before:.1f} s, then {seconds:,.1f} s "
            f"for the filters of {count} {task.noun}"
        )
    with open_trainer(config, task, examples, mesh) as trainer:
        state = create_state(config, trainer.program, task)
        for step, target in ((0, 1), (1, 1 + TIMED_STEPS)):
            start = running_seconds()
            state, stats = trainer.train_to(state, step, target)
            seconds = running_seconds() - start
            finished = step + int(stats.is_applied.sum())
            if finished < target:
                raise rejection_error(config, stats, finished, Path())
    return (
        f"compiled in {compile_seconds() - before:.1f} s, then "
        f"{1000 * seconds / TIMED_STEPS:,.1f} ms a step of {config.train.batch_size} "
        f"{task.noun}"
    )
