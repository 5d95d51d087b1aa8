"""Preflight checks of a run: its data, its workdir, and a few training steps.

Each function returns a description, and raises the error that a run would raise.
"""

import shutil
from pathlib import Path

import numpy as np

from rnnmnist.checkpoints.store import find_fault, list_steps
from rnnmnist.config.schema import Config, DataConfig
from rnnmnist.config.tasks import Task
from rnnmnist.data import datasets
from rnnmnist.data.batches import TrainingSplit
from rnnmnist.data.examples import Examples
from rnnmnist.data.host import HostSplit, open_training_split
from rnnmnist.data.preparation import host_of, make_builder, missing_urls
from rnnmnist.data.views import View
from rnnmnist.errors import RunError, first_line
from rnnmnist.runtime import workdir
from rnnmnist.runtime.compilation import Stopwatch, compile_seconds
from rnnmnist.runtime.distributed import broadcast
from rnnmnist.runtime.hardware import GIB
from rnnmnist.runtime.mesh import devices, make_mesh
from rnnmnist.training import logs
from rnnmnist.training.resume import check_same_data, step_to_resume
from rnnmnist.training.state import create_state
from rnnmnist.training.step import Program, UpdateSums, train_range

MAX_TIMED_STEPS = 20
MAX_TIMED_SECONDS = 2.0


def describe_data(config: DataConfig) -> str:
    """Describes the data set; reads all of it if it is prepared."""
    if config.name == "files":
        return f"{config.path}: {_describe_task(datasets.load(config).task)}"
    builder = make_builder(config)
    folder = builder.data_dir
    if builder.is_prepared():
        task = datasets.load(config, cache=False).task
        return f"{config.name}: prepared in {folder}, {_describe_task(task)}"
    missing = missing_urls(builder, config.manual_dir)
    workdir.check_writable(Path(folder))
    source = "local files"
    if missing:
        source = f"{host_of(missing[0])} (reachable)"
    elif builder.builder_config.url is None:
        source = "this package"
    return (
        f"{config.name}: not prepared; a run takes it from {source} and prepares it in "
        f"{folder}"
    )


def _describe_task(task: Task) -> str:
    text = f"{task.sizes} {task.noun}"
    if task.image_shape is None:
        text += f" of at most {task.steps:,} x {task.features:,} values, "
        text += f"{len(task.classes):,} classes"
    return text


def describe_workdir(config: Config, folder: Path) -> str:
    """Describes a workdir and the step from which a run would start."""
    if owner := workdir.lock_owner(folder):
        raise RunError(f"workdir: {folder} is in use by {owner}")
    existing = workdir.check_writable(folder)
    free = shutil.disk_usage(existing).free / GIB
    text = f"{folder}, writable, {free:,.1f} GiB free, "
    if not step_to_resume(config, folder):
        return text + "no run in it yet"
    devices()  # raises if there are none to read checkpoints
    if config.data.name == "files":
        check_same_data(datasets.load(config.data).task, folder, list_steps(folder)[-1])
    damaged = ""
    for step in reversed(list_steps(folder)):
        fault = find_fault(folder, step)
        if fault is None and step == config.train.num_steps:
            return f"{text}complete at step {step}: a run changes nothing"
        if fault is None:
            return f"{text}a run resumes from step {step}{damaged}"
        damaged += f"; step {step} is damaged and would be quarantined ({fault})"
    return f"{text}a run starts again from step 0{damaged}"


def describe_step(config: Config) -> str:
    """Compiles the training step, runs a few steps on noise and reports their speed.

    The run uses the same program, which is then in the compilation cache.
    """
    try:
        return _time_steps(config)
    except RunError:
        raise
    except Exception as error:  # compilers and drivers raise many types
        raise RunError(f"a training step fails: {first_line(error)}") from error


def _time_steps(config: Config) -> str:
    batch_size = config.train.batch_size
    mesh = make_mesh(batch_size, config.execution.num_devices, config.num_seeds)
    before = compile_seconds()
    task, data = datasets.read_task(config.data), "noise"
    if task.image_shape is None:
        examples, data = datasets.load(config.data).splits["train"], "the sequences"
    else:
        examples = noise(task)
    program = Program.create(config, task, mesh)
    state = create_state(config, program.model, mesh)

    def run_steps(
        split: TrainingSplit | HostSplit, first: int, count: int
    ) -> tuple[UpdateSums, float]:
        nonlocal state
        stopwatch = Stopwatch()
        state, sums, _ = train_range(
            state, split, first, first + count, program=program
        )
        seconds = stopwatch.seconds()
        if int(sums.examples) < count * batch_size:
            raise RunError(
                f"a training step{logs.describe_rejection(config, sums)}; "
                f"{logs.NONFINITE_REMEDY}"
            )
        return sums, seconds

    view = View.of(config.data, task)
    with open_training_split(examples, view, config, mesh) as split:
        _, first = run_steps(split, 0, 1)
        compiling = compile_seconds() - before
        # The same on all processes, since every step synchronizes them.
        count = broadcast(
            lambda: max(1, min(MAX_TIMED_STEPS, int(MAX_TIMED_SECONDS / first)))
        )
        sums, seconds = run_steps(split, 1, count)
    loss = float(np.mean(sums.loss)) / int(sums.examples)
    number = config.num_seeds * int(sums.examples)
    return (
        f"compiled in {compiling:.1f} s, then {1000 * seconds / count:,.1f} ms a step "
        f"of {batch_size}: {number / seconds:,.0f} {task.noun}/s; loss {loss:.2f} on "
        f"{data}"
    )


def noise(task: Task) -> Examples:
    """Returns as many images of noise as a task has for training."""
    generator, count = np.random.default_rng(0), task.examples.train
    images = generator.integers(0, 256, (count, *(task.image_shape or ())), np.uint8)
    labels = generator.integers(0, len(task.classes), count, np.int32)
    return Examples(images, labels)
