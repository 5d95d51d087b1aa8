"""Preflight checks of a run: its data, its workdir, and a few training steps.

Each function returns a description, and raises the error that a run would raise.
"""

import shutil
import tempfile
from pathlib import Path

import numpy as np

from rnnmnist.config.schema import Config, DataConfig
from rnnmnist.config.tasks import Task
from rnnmnist.data import datasets
from rnnmnist.data.examples import Dataset, Examples
from rnnmnist.data.host import open_training_split
from rnnmnist.data.images.preparation import host_of, make_builder, missing_urls
from rnnmnist.data.views import View
from rnnmnist.errors import RunError, first_line
from rnnmnist.runs.checkpoints import find_fault, list_steps
from rnnmnist.runs.workdir import check_free
from rnnmnist.runtime.compilation import Stopwatch, compile_seconds
from rnnmnist.runtime.mesh import devices, make_mesh
from rnnmnist.training import console
from rnnmnist.training.resume import check_same_data, step_to_resume
from rnnmnist.training.state import create_state
from rnnmnist.training.step import Program, train_range

TIMED_STEPS = 5


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
    source = "local files"
    if missing:
        source = f"{host_of(missing[0])} (reachable)"
    elif builder.builder_config.url is None:
        source = "this package"
    return (
        f"{config.name}: not prepared; a run takes it from {source} and prepares it in "
        f"{folder}"
    )


def describe_workdir(config: Config, folder: Path, task: Task) -> str:
    """Describes a workdir and the step from which a run would start."""
    check_free(folder)
    existing = check_writable(folder)
    free = shutil.disk_usage(existing).free / 2**30
    text = f"{folder}, writable, {free:,.1f} GiB free, "
    if not step_to_resume(config, folder):
        return text + "no run in it yet"
    devices()  # raises if there are none to read checkpoints
    if task.sha256 is not None:
        check_same_data(task, folder, list_steps(folder)[-1])
    damaged = ""
    for step in reversed(list_steps(folder)):
        fault = find_fault(folder, step)
        if fault is None and step == config.train.num_steps:
            return f"{text}complete at step {step}: a run changes nothing"
        if fault is None:
            return f"{text}a run resumes from step {step}{damaged}"
        damaged += f"; step {step} is damaged and would be quarantined ({fault})"
    return f"{text}a run starts again from step 0{damaged}"


def check_writable(folder: Path) -> Path:
    """Checks that files can be created in a folder, or in its nearest parent.

    Returns:
        The one of them that exists. No file remains in it.
    """
    existing = next(path for path in (folder, *folder.parents) if path.exists())
    try:
        with tempfile.TemporaryFile(dir=existing):
            return existing
    except OSError as error:
        error.filename = str(folder)
        raise


def describe_step(config: Config, task: Task, sequences: Dataset | None) -> str:
    """Compiles the training step and times a few steps, on noise instead of images.

    The run uses the same program, which is then in the compilation cache.
    """
    try:
        examples = noise(task) if sequences is None else sequences.splits["train"]
        return _time_steps(config, task, examples)
    except RunError:
        raise
    except Exception as error:  # compilers and drivers raise many types
        raise RunError(f"a training step fails: {first_line(error)}") from error


def _time_steps(config: Config, task: Task, examples: Examples) -> str:
    batch_size = config.train.batch_size
    mesh = make_mesh(batch_size, config.execution.num_devices, config.num_seeds)
    before = compile_seconds()
    program = Program.create(config, task, mesh)
    state = create_state(config, program.model, mesh)
    view = View.of(config.data, task)
    with open_training_split(examples, view, config, mesh) as split:
        for first, last in ((0, 1), (1, 1 + TIMED_STEPS)):
            stopwatch = Stopwatch()
            state, sums, _ = train_range(state, split, first, last, program=program)
            seconds = stopwatch.seconds()
            if not sums.finite.all():
                raise RunError(
                    f"a training step{console.describe_rejection(config, sums)}; "
                    f"{console.NONFINITE_REMEDY}"
                )
    return (
        f"compiled in {compile_seconds() - before:.1f} s, then "
        f"{1000 * seconds / TIMED_STEPS:,.1f} ms a step of {batch_size} {task.noun}"
    )


def noise(task: Task) -> Examples:
    """Returns as many images of noise as a task has for training."""
    generator = np.random.default_rng(0)
    count = task.examples.train
    images = generator.integers(0, 256, (count, *(task.image_shape or ())), np.uint8)
    labels = generator.integers(0, len(task.classes), count, np.int32)
    return Examples(images, labels=labels)
