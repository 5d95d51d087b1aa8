"""Whether a run would work here: its data, its places, and a few real steps of it.

Each function returns what it found, and raises what a run would stumble over.
"""

import shutil
from pathlib import Path

import jax
import numpy as np

from rnnmnist.checkpoints.store import list_steps
from rnnmnist.checkpoints.verification import fault_of
from rnnmnist.config.schema import TRAIN_EXAMPLES, Config, DataConfig
from rnnmnist.data import datasets
from rnnmnist.data.batches import TrainingSplit
from rnnmnist.data.preparation import availability
from rnnmnist.errors import RunError, first_line
from rnnmnist.models.classifier import make_model
from rnnmnist.runtime import workdir
from rnnmnist.runtime.compilation import Stopwatch, cache_contents, compile_seconds
from rnnmnist.runtime.distributed import broadcast
from rnnmnist.runtime.hardware import GIB, MIB
from rnnmnist.runtime.mesh import device_put, devices, make_mesh, replicated
from rnnmnist.training.resume import step_to_resume
from rnnmnist.training.state import create_state
from rnnmnist.training.step import Metrics, describe_fault, train_steps

MOST_STEPS = 20  # that are timed
ENOUGH_SECONDS = 2.0  # for them, on a machine that takes long over a step


def describe_data(config: DataConfig) -> str:
    """The data set of the run, read as a run would read it if it is prepared.

    Raises:
        UserError: when a run could not have it, with the files to fetch.
        RunError: when what is prepared is damaged.
    """
    found = availability(config, check=True)
    if found.prepared:
        splits = datasets.load(config, keep=False).values()
        counts = [len(split.labels) for split in splits]
        images = " / ".join(f"{count:,}" for count in counts)
        return f"{config.name}: {found.text}, {images} images"
    try:
        workdir.check_writable(found.folder)
    except OSError as error:
        raise RunError(
            f"data.data_dir: {config.name} is not prepared, and cannot be in "
            f"{found.folder}: {error.strerror}"
        ) from error
    return f"{config.name}: {found.text} and prepares it in {found.folder}"


def describe_other_data(config: DataConfig) -> list[str]:
    """The data sets that the run does not need; no network is asked for them."""
    lines = []
    for name in TRAIN_EXAMPLES:
        if name != config.name:
            other = DataConfig(name=name, data_dir=config.data_dir)  # type: ignore[arg-type]
            try:
                lines.append(f"{name}: {availability(other, check=False).text}")
            except RunError as error:
                lines.append(f"{name}: {error}")
    return lines


def describe_workdir(config: Config, folder: Path) -> str:
    """Whether a run could work there, and at which step it would begin.

    Raises:
        UserError: when the folder holds another run.
        RunError: when it is in use, or nothing can be written there, or there are
            no devices to read its checkpoints onto.
    """
    if trainer := workdir.lock_owner(folder):
        raise RunError(f"--workdir: {folder} is in use by {trainer}")
    try:
        place = workdir.check_writable(folder)
    except OSError as error:
        raise RunError(
            f"--workdir: {folder} cannot be written: {error.strerror}"
        ) from error
    free = shutil.disk_usage(place).free / GIB
    text = f"{folder}, writable, {free:,.1f} GiB free, "
    if not step_to_resume(config, folder):
        return text + "no run in it yet"
    devices()  # to read what was saved
    notes = ""
    for step in reversed(list_steps(folder)):
        fault = fault_of(folder, step)
        if fault is None and step == config.train.num_steps:
            return f"{text}complete at step {step}: a run changes nothing"
        if fault is None:
            return f"{text}a run goes on from step {step}{notes}"
        notes += f"; step {step} is damaged and would be set aside ({fault})"
    return f"{text}a run begins anew{notes}"


def describe_programs() -> str:
    """The compiled programs that earlier starts have kept."""
    kept = cache_contents()
    if kept is None:
        return "cannot be kept for the next start: each run compiles anew"
    return f"{kept.programs:,} kept in {kept.folder}, {kept.size / MIB:,.1f} MiB"


def describe_step(config: Config) -> str:
    """Trains a few steps on noise, and says how long they took.

    The program is the very one that the run will call, and so is compiled for it.

    Raises:
        UserError: when there are no devices for the batch.
        RunError: for a loss or gradient that is not finite, and for whatever else
            goes wrong, such as too little memory.
    """
    try:
        return _describe_step(config)
    except RunError:
        raise
    except Exception as error:  # compilers and drivers raise many kinds
        raise RunError(f"a step of training fails: {first_line(error)}") from error


def _describe_step(config: Config) -> str:
    mesh = make_mesh(
        config.train.batch_size, config.train.num_devices, config.num_seeds
    )
    before = compile_seconds()
    split = TrainingSplit.device_put(
        noise(TRAIN_EXAMPLES[config.data.name]), config, mesh
    )
    state = create_state(config, make_model(config.model), mesh)

    def steps(count: int) -> tuple[Metrics, float]:
        nonlocal state
        stopwatch = Stopwatch()
        wanted = device_put(np.int32(count), replicated(mesh))
        state, metrics = train_steps(state, split, wanted, mesh=mesh)
        jax.block_until_ready(metrics)
        seconds = stopwatch.seconds()
        metrics = jax.device_get(metrics)
        check_finite(metrics, count, config)
        return metrics, seconds

    _, first = steps(1)
    spent = compile_seconds() - before
    # The same on all processes, which wait for each other in every step.
    count = broadcast(lambda: max(1, min(MOST_STEPS, int(ENOUGH_SECONDS / first))))
    metrics, seconds = steps(count)
    loss = float(np.mean(metrics.loss)) / int(metrics.examples)
    images = config.num_seeds * int(metrics.examples)
    return (
        f"compiled in {spent:.1f} s, then {1000 * seconds / count:,.1f} ms a step of "
        f"{config.train.batch_size}: {images / seconds:,.0f} images/s; "
        f"loss {loss:.2f} on noise"
    )


def noise(count: int) -> datasets.Examples:
    """Images of noise, uint8 [count, 28, 28], and labels, uint8 [count]."""
    generator = np.random.default_rng(0)
    images = generator.integers(0, 256, (count, 28, 28), np.uint8)
    return datasets.Examples(images, generator.integers(0, 10, count, np.uint8))


def check_finite(metrics: Metrics, steps: int, config: Config) -> None:
    """Holds that every update was applied.

    Args:
        metrics: of the updates.
        steps: how many there are if none was refused.
        config: of the run.

    Raises:
        RunError: when one was refused, with its loss and its gradient's norm.
    """
    examples = steps * config.train.batch_size
    if int(metrics.examples) == examples and np.isfinite(metrics.loss).all():
        return
    raise RunError(
        f"a step of training{describe_fault(metrics, config)}; one of them is not "
        "finite; lower train.learning_rate or set train.clip_norm"
    )
