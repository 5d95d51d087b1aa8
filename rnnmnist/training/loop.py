"""A run: restore, then until done train to the next event, log, validate, save."""

import contextlib
import dataclasses
import math
import shlex
import statistics
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import numpy as np
from flax.training.train_state import TrainState

from rnnmnist.checkpoints import store
from rnnmnist.checkpoints.checksums import params_sha256
from rnnmnist.checkpoints.selection import find_step
from rnnmnist.checkpoints.store import Checkpoints
from rnnmnist.config.schema import DATA_PATHS, Config, TrainConfig, flatten
from rnnmnist.data import datasets
from rnnmnist.data.batches import TrainingSplit
from rnnmnist.errors import RunError, StoppedError, UserError
from rnnmnist.evaluation import results
from rnnmnist.evaluation.formatting import percent
from rnnmnist.evaluation.metrics import evaluate
from rnnmnist.evaluation.predictions import EvaluationSplit
from rnnmnist.models.classifier import (
    SequenceClassifier,
    abstract_params,
    count_params,
    make_model,
)
from rnnmnist.runtime.compilation import Stopwatch, compile_seconds
from rnnmnist.runtime.distributed import (
    all_gather,
    all_max,
    broadcast,
    count,
    first_process_first,
    is_first,
)
from rnnmnist.runtime.files import write_json
from rnnmnist.runtime.mesh import device_put, gathered, make_mesh, replicated
from rnnmnist.runtime.workdir import MetricsFile, is_locked_by, lock
from rnnmnist.training.optimizer import make_schedule
from rnnmnist.training.progress import Progress
from rnnmnist.training.resume import quarantine_damaged, step_to_resume, warn_of_changes
from rnnmnist.training.sessions import session
from rnnmnist.training.signals import StopFlag, stop_on_signal
from rnnmnist.training.state import (
    abstract_state,
    create_state,
    restore_state,
    saved_arrays,
)
from rnnmnist.training.step import (
    Metrics,
    describe_fault,
    score_last_batch,
    train_steps,
)


@dataclasses.dataclass
class Run:
    """What stays the same from event to event."""

    config: Config
    workdir: Path
    mesh: jax.sharding.Mesh
    model: SequenceClassifier
    split: TrainingSplit
    validation: EvaluationSplit
    metrics_file: MetricsFile | None  # the first process's
    progress: Progress
    checkpoints: Checkpoints

    def record(self, line: dict[str, Any]) -> None:
        """Appends a line of metrics, once for all processes."""
        if self.metrics_file is not None:
            self.metrics_file.append(line)


@dataclasses.dataclass
class Seconds:
    """Where the time of this process went."""

    data: float = 0.0
    train: float = 0.0
    started: float = dataclasses.field(default_factory=time.monotonic)

    def spent(self) -> dict[str, float]:
        """Seconds by part, compilation's and all together."""
        parts = {"data": self.data, "compile": compile_seconds(), "train": self.train}
        parts["total"] = time.monotonic() - self.started
        return {part: round(number, 1) for part, number in parts.items()}

    @contextlib.contextmanager
    def of(self, part: str) -> Iterator[None]:
        """Adds the time inside the `with` to a part, without compilation's."""
        stopwatch = Stopwatch()
        try:
            yield
        finally:
            setattr(self, part, getattr(self, part) + stopwatch.seconds())


def train(config: Config, workdir: Path) -> None:
    """Trains, or goes on from the newest checkpoint; evaluates; prints a summary.

    Args:
        config: of the run, which is a function of it.
        workdir: absolute; created if need be. A complete run in it stays as it is.

    Raises:
        UserError: when the workdir is in use or holds another run, or the data
            cannot be had.
        RunError: for a loss or gradient that is not finite, or a checkpoint that
            cannot be read or written.
        StoppedError: after a signal, when the state is saved.
    """
    seconds = Seconds()
    check_agreement(config)
    # Refuses before anything slow, and again below.
    broadcast(lambda: step_to_resume(config, workdir))
    mesh = make_mesh(
        config.train.batch_size, config.train.num_devices, config.num_seeds
    )
    with seconds.of("data"):
        examples = first_process_first(lambda: datasets.load(config.data))
    with lock_for_all(workdir), one_line_if_full(workdir):
        broadcast(lambda: quarantine_damaged(workdir))
        step = broadcast(lambda: step_to_resume(config, workdir))
        announce(config, workdir, mesh, step)
        if step < config.train.num_steps:
            with session(workdir, step, mesh, seconds.spent), seconds.of("train"):
                run_to_end(config, workdir, mesh, examples, step)
        document = test_once(config, workdir, mesh, examples["test"])
    summarize(config, workdir, document, seconds)


def check_agreement(config: Config) -> None:
    """Holds that all processes of the run were asked for the same.

    Where the data lie may differ.

    Raises:
        UserError: on every process, naming each setting that differs.
    """
    asked = {"--num_processes": count()} | {
        name: value
        for name, value in flatten(config.to_dict()).items()
        if name not in DATA_PATHS
    }
    first, *others = all_gather(asked)
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
def lock_for_all(workdir: Path) -> Iterator[None]:
    """Claims a workdir on process 0, in the name of all.

    Raises:
        UserError: as `claim`, and when the processes do not share the folder.
    """
    with contextlib.ExitStack() as stack:
        lock_owner = broadcast(lambda: stack.enter_context(lock(workdir)))
        if all_max(not is_locked_by(workdir, lock_owner)):
            raise UserError(
                f"--workdir: {workdir} is not one folder for all processes; name one "
                "on a file system that they share"
            )
        yield


@contextlib.contextmanager
def one_line_if_full(workdir: Path) -> Iterator[None]:
    """Turns a file that could not be written into one line.

    Raises:
        RunError: with the path, and the last checkpoint that is there.
    """
    try:
        yield
    except BrokenPipeError:  # nobody reads what is printed: nothing of a disk
        raise
    except OSError as error:
        steps = store.list_steps(workdir)
        last = f"step {steps[-1]} is the last checkpoint" if steps else "none was saved"
        raise RunError(f"cannot write in {workdir}: {error}; {last}") from error


def announce(config: Config, workdir: Path, mesh: jax.sharding.Mesh, step: int) -> None:
    """Says what will be done, and with what."""
    device = mesh.devices.flat[0]
    seeds = f"seed {config.seed}"
    if config.num_seeds > 1:
        seeds = f"seeds {config.seeds[0]} to {config.seeds[-1]}"
    print(
        f"{config.model.cell} with {config.model.hidden_size} units on "
        f"{config.data.name}, {seeds}, {mesh.size} {device.platform} "
        f"device{'s' if mesh.size > 1 else ''}"
        f"{f' of {count()} processes' if count() > 1 else ''}, in {workdir}"
    )
    if step:
        warn_of_changes(config, workdir, step)
        complete = step == config.train.num_steps
        print(
            f"the run is complete at step {step}; nothing to train"
            if complete
            else f"resuming from step {step}"
        )


def run_to_end(
    config: Config,
    workdir: Path,
    mesh: jax.sharding.Mesh,
    examples: dict[str, datasets.Examples],
    step: int,
) -> None:
    """Trains from a step to the last one."""
    model = make_model(config.model)
    if step:
        state = restore_state(workdir, step, abstract_state(config, model, mesh))
    else:
        state = create_state(config, model, mesh)
    if is_first():
        write_json(workdir / "config.json", config.to_dict())
    steps_per_epoch = len(examples["train"].labels) / config.train.batch_size
    with (
        stop_on_signal() as stop,
        Checkpoints(workdir, config.train.keep_checkpoints) as checkpoints,
        Progress(step, config.train.num_steps, steps_per_epoch) as progress,
    ):
        times = f"{config.num_seeds} x " if config.num_seeds > 1 else ""
        each = count_params(state.params) // config.num_seeds
        progress.line(f"{times}{each:,} parameters")
        run = Run(
            config,
            workdir,
            mesh,
            model,
            TrainingSplit.device_put(examples["train"], config, mesh),
            EvaluationSplit.device_put(examples["validation"], mesh),
            MetricsFile(workdir / "metrics.jsonl", step) if is_first() else None,
            progress,
            checkpoints,
        )
        with jax.transfer_guard("disallow"):  # a hidden copy to or from the host
            step = train_loop(run, state, step, stop)
    number = all_max(stop.number)  # also one that came during the last save
    if number:
        raise StoppedError(
            f"saved step {step} of {config.train.num_steps} in {workdir}; the same "
            "command goes on from there",
            number,
        )


def train_loop(run: Run, state: TrainState, step: int, stop: StopFlag) -> int:
    """Runs event by event until the last step, a fault or a signal.

    Returns:
        The step that it came to, whose checkpoint is being saved.
    """
    config, stopping = run.config.train, False
    while step < config.num_steps and not stopping:
        target = next_event(step, config)
        stopwatch = Stopwatch()
        num_steps = device_put(np.int32(target - step), replicated(run.mesh))
        state, metrics = train_steps(state, run.split, num_steps, mesh=run.mesh)
        jax.block_until_ready(metrics)
        seconds = stopwatch.seconds()
        metrics = jax.device_get(metrics)
        finished = step + int(metrics.examples) // config.batch_size
        if finished > step:
            log(run, state, finished, metrics, seconds)
        if finished < target:
            raise fault(run, finished, metrics)
        step = finished
        stopping = all_max(stop.number) > 0  # the processes stop at the same step
        validated = is_due(step, config.eval_every_steps, config.num_steps)
        if validated or stopping:
            validation = validate(run, state, step) if validated else None
            arrays = saved_arrays(gathered(state, run.mesh))
            run.checkpoints.save(step, arrays, run.config, validation)
    return step


def is_due(step: int, every: int, last: int) -> bool:
    """Whether an event falls on a step: on multiples, and on the last step."""
    return step % every == 0 or step == last


def next_event(step: int, config: TrainConfig) -> int:
    """The first step after this one on which anything is due."""
    cadences = (config.log_every_steps, config.eval_every_steps)
    return min(config.num_steps, *((step // every + 1) * every for every in cadences))


def log(
    run: Run, state: TrainState, step: int, metrics: Metrics, seconds: float
) -> None:
    """Writes and shows a training line for the steps since the last event."""
    speed = run.config.num_seeds * int(metrics.examples) / seconds
    if run.config.train.log_metrics == "last_batch":
        metrics = jax.device_get(score_last_batch(state, run.split, mesh=run.mesh))
    line = ensemble_metrics(
        run.config,
        [float(loss) for loss in metrics.loss.reshape(-1)],
        [int(correct) for correct in metrics.correct.reshape(-1)],
        int(metrics.examples),
    )
    run.record(
        {"step": step, "split": "train"}
        | line
        | {"examples_per_second": round(speed, 1)}
    )
    run.progress.training(step, line["loss"], line["accuracy"], speed)


def ensemble_metrics(
    config: Config, losses: list[float], corrects: list[int], examples: int
) -> dict[str, Any]:
    """A line's metrics: one network's, or those of a stack and of each member.

    Args:
        config: of the run.
        losses: sums over the images, of each network.
        corrects: right answers of each network.
        examples: images that each has seen.

    Returns:
        Means over images and networks, the sum of right answers, and each network's
        images. The accuracy is one division of whole numbers, so that equal counts
        are a tie.
    """
    correct = sum(corrects)
    line: dict[str, Any] = {
        "loss": statistics.fmean(loss / examples for loss in losses),
        "accuracy": correct / (len(corrects) * examples),
        "correct": correct,
        "examples": examples,
    }
    if config.num_seeds > 1:
        line["members"] = [
            {
                "seed": seed,
                "loss": loss / examples,
                "accuracy": right / examples,
                "correct": right,
            }
            for seed, loss, right in zip(config.seeds, losses, corrects, strict=True)
        ]
    return line


def validate(run: Run, state: TrainState, step: int) -> dict[str, Any]:
    """Scores the validation split; writes, shows and returns the metrics."""
    scored = evaluate(run.model, state.params, run.validation)
    for index, result in enumerate(scored):
        if not math.isfinite(result.loss):
            raise RunError(
                f"step {step}{run.config.seed_suffix(index)} is not saved: its "
                f"validation loss is {result.loss}; lower train.learning_rate or set "
                "train.clip_norm"
            )
    line = ensemble_metrics(
        run.config,
        [result.total_loss for result in scored],
        [result.correct for result in scored],
        scored[0].examples,
    )
    run.record({"step": step, "split": "validation"} | line)
    counts = ", ".join(str(result.correct) for result in scored)
    run.progress.line(
        f"step {step}  validation loss {line['loss']:.4f}  accuracy "
        f"{percent(line['accuracy'])} ({counts} of {scored[0].examples})"
    )
    return {"step": step} | line


def fault(run: Run, step: int, metrics: Metrics) -> RunError:
    """The error for an update whose loss or gradient was not finite."""
    run.checkpoints.wait()
    steps = store.list_steps(run.workdir)
    kept = f"step {steps[-1]} is the last checkpoint" if steps else "none was saved yet"
    with jax.transfer_guard("allow"):
        rate = float(make_schedule(run.config.train)(step))
    return RunError(
        f"step {step + 1}{describe_fault(metrics, run.config)}, and one of them or a "
        f"parameter after it is not finite at learning rate {rate:.3g}; {kept}; "
        "lower train.learning_rate or set train.clip_norm"
    )


def test_once(
    config: Config, workdir: Path, mesh: jax.sharding.Mesh, examples: datasets.Examples
) -> dict[str, Any]:
    """The best checkpoint's test result; scored only if that was not done before."""
    best = broadcast(lambda: find_step(workdir, "best"))
    like = abstract_params(make_model(config.model), replicated(mesh), config.num_seeds)
    params = store.read_params(workdir, best, like)
    path = results.result_path(workdir, "test", best)
    kept = broadcast(lambda: results.read_result(path, params_sha256(params)))
    if kept is not None:
        return kept
    results.log_test_reading(workdir, best, params_sha256(params), "main")
    document = results.score(params, best, "test", examples, config, mesh)
    results.write_result(workdir, document)
    return document


def summarize(
    config: Config, workdir: Path, document: dict[str, Any], seconds: Seconds
) -> None:
    """Prints what came out and where it is."""
    if not is_first():
        return
    best = document["step"]
    validation = store.read_metrics(workdir, best)
    if validation is None:
        raise RunError(f"step {best} in {workdir} was not validated")
    images = config.train.num_steps * config.train.batch_size
    spent, place = seconds.spent(), shlex.quote(str(workdir))
    print(
        f"\nparameters  {document['num_parameters']:,}\n"
        f"steps       {config.train.num_steps:,} ({images:,} images)\n"
        f"seconds     {spent['total']:.1f} (data {spent['data']:.1f}, compile "
        f"{spent['compile']:.1f}, train {spent['train']:.1f})\n"
        f"validation  {describe_validation(validation)}, best at step {best}\n"
        f"test        {results.describe(document)}\n"
        f"checkpoint  {workdir / str(best)}\n"
        f"evaluate    python -m rnnmnist.evaluate --workdir={place}\n"
        f"look        python -m rnnmnist.report --workdir={place}"
    )


def describe_validation(metrics: dict[str, Any]) -> str:
    """A checkpoint's validation: its counts, with what interval they give."""
    if "members" not in metrics:
        return results.describe_counts(metrics["correct"], metrics["examples"])
    counts = ", ".join(str(member["correct"]) for member in metrics["members"])
    return (
        f"{percent(metrics['accuracy'])} in the mean of {len(metrics['members'])} "
        f"seeds ({counts} of {metrics['examples']})"
    )
