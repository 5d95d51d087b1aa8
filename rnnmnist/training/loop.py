"""The training loop: restore, train to the next event, log, validate, save, repeat."""

import contextlib
import functools
import math
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import jax
import msgspec
import numpy as np
from jax.sharding import Mesh
from msgspec.structs import asdict

from rnnmnist.config.resolving import RunConfig, RunTrainConfig
from rnnmnist.data.examples import Dataset, Examples
from rnnmnist.data.placement import BatchSource, open_batches
from rnnmnist.errors import RunError, StoppedError
from rnnmnist.evaluation.metrics import (
    make_scores,
    score_logits,
    select_logged_scores,
)
from rnnmnist.evaluation.network import TrainedNetwork
from rnnmnist.evaluation.predictions import NonFiniteLogitsError, predict_logits
from rnnmnist.models.classifier import abstract_params, count_params
from rnnmnist.runs import logs
from rnnmnist.runs.checkpoints import Checkpoints
from rnnmnist.runs.logs import Metrics
from rnnmnist.runs.results import Result, read_result, result_path, write_result
from rnnmnist.runs.selection import find_step
from rnnmnist.runs.workdir import PhaseTimer, describe_last_checkpoint, session
from rnnmnist.runtime.compilation import running_seconds
from rnnmnist.runtime.distributed import all_max, broadcast, is_process_0
from rnnmnist.runtime.jax_defaults import jax_defaults
from rnnmnist.runtime.mesh import device_put, replicated
from rnnmnist.runtime.signals import StopFlag
from rnnmnist.training import console, resume
from rnnmnist.training.loss import weigh_classes
from rnnmnist.training.optimizer import learning_rates, rate_settings
from rnnmnist.training.state import (
    Program,
    TrainState,
    create_state,
    evaluated_trees,
    saved_arrays,
)
from rnnmnist.training.step import UpdateStats, score_last_batch, train_steps


class Updates(NamedTuple):
    """The updates of a run: their program, batches, settings and class weights."""

    program: Program
    batches: BatchSource
    config: RunTrainConfig  # for the learning rates
    class_weights: jax.Array | None = None  # float32 [classes]; None: all are 1


class Run(NamedTuple):
    """What the stages of the loop share."""

    config: RunConfig
    workdir: Path
    updates: Updates
    validation: Examples
    checkpoints: Checkpoints
    progress: console.Progress
    callback: resume.Callback | None


@jax_defaults()
def train(
    config: RunConfig,
    dataset: Dataset,
    workdir: Path,
    open_stop: Callable[[], contextlib.AbstractContextManager[StopFlag]],
    *,
    timer: PhaseTimer,
    verbose: bool = True,
    callback: resume.Callback | None = None,
) -> None:
    """Trains, or resumes from the newest checkpoint; evaluates; prints a summary.

    The configuration is fitted to the data set, which is the same on all processes.
    For the time of the updates, `open_stop` gives the flag that ends them. The timer
    was started before the data were read. A complete run is kept.
    """
    with resume.hold_workdir(workdir, config, dataset.task) as mesh:
        step, complete = broadcast(
            lambda: resume.find_start(config, dataset.task, workdir)
        )
        if verbose:
            console.print_header(config, dataset.task, workdir, mesh, step, complete)
        if complete is None:
            with session(workdir, config, step, mesh, timer), open_stop() as stop:
                step = train_from(
                    step, config, dataset, workdir, mesh, stop, verbose, callback
                )
        result = None
        if dataset.task.evaluated_split != "train":
            result = evaluate_best_checkpoint(workdir, mesh, dataset, config.model.cell)
    if is_process_0() and verbose:
        console.print_summary(workdir, step, config, result, timer.seconds())


def train_from(
    step: int,
    config: RunConfig,
    dataset: Dataset,
    workdir: Path,
    mesh: Mesh,
    stop: StopFlag,
    verbose: bool,
    callback: resume.Callback | None,
) -> int:
    """Trains from a step to the end of the run, or until a signal; returns the step."""
    task, splits = dataset
    program = Program.create(config, task, mesh)
    if step:
        state = resume.restore_state(workdir, step, config, program)
    else:
        state = create_state(config, program, task)
    with (
        Checkpoints(workdir, config, task) as checkpoints,
        open_batches(splits["train"], config, mesh) as batches,
        console.Progress(config.train, task, step, verbose=verbose) as progress,
    ):
        validation = splits["validation"]
        weights = weigh_classes(config.train, task, splits["train"].labels, mesh)
        run = Run(
            config=config,
            workdir=workdir,
            updates=Updates(program, batches, config.train, weights),
            validation=validation if batches.on_host else validation.normalized(),
            checkpoints=checkpoints,
            progress=progress,
            callback=callback,
        )
        parameters = count_params(abstract_params(program.model))
        progress.start(config.num_seeds, parameters, on_host=batches.on_host)
        with jax.transfer_guard("disallow"):  # implicit copies to or from the host
            step = train_loop(run, state, step, stop)
    if number := all_max(stop.number):  # includes a signal during the last save
        saved = f"saved step {step}" if step else "before the first step"
        of_run = f"of {config.train.num_steps} in {workdir}"
        raise StoppedError(f"{saved} {of_run}; start the run again to resume", number)
    return step


def train_loop(run: Run, state: TrainState, step: int, stop: StopFlag) -> int:
    """Trains to the end or a signal; returns the step that is being saved."""
    config = run.config.train
    stopping = all_max(stop.number) > 0
    while step < config.num_steps and not stopping:
        target = next_event(step, config)
        start = running_seconds()
        state, stats = train_range(state, run.updates, step, target)
        step += int(stats.updates)
        if stats.updates:
            log_training(run, state, step, stats, running_seconds() - start)
        if step < target:
            run.checkpoints.wait()
            rejected = console.describe_rejection(run.config, stats, step)
            last = describe_last_checkpoint(run.workdir)
            raise RunError(f"step {step + 1}{rejected}; {last}; {console.REMEDY}")
        stopping = all_max(stop.number) > 0  # all processes stop at the same step
        validated = step % config.eval_every_steps == 0 or step == config.num_steps
        if validated or stopping:
            has_metrics = validated and len(run.validation)
            metrics = validate(run, state, step) if has_metrics else None
            arrays = saved_arrays(state, program=run.updates.program)
            run.checkpoints.save(step, arrays, metrics)
            if metrics is not None:
                if run.callback:  # which may read the checkpoint
                    run.checkpoints.wait()
                stopping |= resume.ends_at(metrics, config, run.workdir, run.callback)
    return step


def train_range(
    state: TrainState, updates: Updates, first: int, last: int
) -> tuple[TrainState, UpdateStats]:
    """Trains from a step to a later one, or to an update that is rejected.

    Returns the new state, and the statistics of the updates on the host.
    """
    parts = list[UpdateStats]()
    program = updates.program
    everywhere = replicated(program.mesh)
    for chunk, count in updates.batches.chunks(first, last):
        rates = learning_rates(
            chunk.first,
            config=rate_settings(updates.config),
            count=updates.batches.updates,
            sharding=everywhere,
        )
        num_steps = device_put(np.int32(count), everywhere)
        state, stats = train_steps(
            state, chunk, rates, num_steps, updates.class_weights, program=program
        )
        parts.append(jax.device_get(stats))
        if not parts[-1].finite.all():
            break
    return state, functools.reduce(UpdateStats.add, parts)


def next_event(step: int, config: RunTrainConfig) -> int:
    """Returns the first step after this one on which any event is due."""
    intervals = (config.log_every_steps, config.eval_every_steps)
    due = [(step // every + 1) * every for every in intervals]
    return min(config.num_steps, *due)


def log_training(
    run: Run, state: TrainState, step: int, stats: UpdateStats, seconds: float
) -> None:
    """Logs the updates since the last event."""
    batch_size = run.config.train.batch_size
    examples = int(stats.updates) * batch_size
    speed = round(run.config.num_seeds * examples / seconds, 1)
    loss, correct = stats.loss, stats.correct
    if run.config.train.log_metrics == "last_batch":
        examples = batch_size
        ((chunk, _),) = run.updates.batches.chunks(step - 1, step)
        scores = score_last_batch(state, chunk, program=run.updates.program)
        loss, correct = jax.device_get(scores)
        for index, total in enumerate(loss.tolist()):
            if not math.isfinite(total):
                raise _unsaved(run, step, index, f"training loss is {total}")
    losses = (loss.astype(float) / examples).tolist()
    scores = make_scores(examples, correct.tolist(), losses, run.config.seed)
    line = Metrics(
        **asdict(scores), step=step, split="train", examples_per_second=speed
    )
    log(run, line)


def validate(run: Run, state: TrainState, step: int) -> Metrics:
    """Evaluates the validation split, and logs it."""
    program = run.updates.program
    try:
        logits = predict_logits(
            program.model,
            evaluated_trees(state, model=program.model),
            run.validation,
            program.transform.view,
            program.mesh,
        )
    except NonFiniteLogitsError as error:
        raise _unsaved(run, step, error.network, "validation loss is nan") from error
    scores = select_logged_scores(
        score_logits(logits, run.validation.labels, run.config.seed),
        has_class_weights=run.config.train.has_class_weights,
    )
    metrics = Metrics(**asdict(scores), step=step, split="validation")
    log(run, metrics)
    return metrics


def _unsaved(run: Run, step: int, index: int, reason: str) -> RunError:
    """Returns the error that ends a run whose network at an index is not finite."""
    of_seed = run.config.seed_suffix(index)
    return RunError(
        f"step {step}{of_seed} is not saved: its {reason}; {console.REMEDY}"
    )


def log(run: Run, metrics: Metrics) -> None:
    """Records and shows the metrics of all networks, once for all processes."""
    if is_process_0():
        logs.append(run.workdir, metrics)
    run.progress.show(metrics)


def evaluate_best_checkpoint(
    workdir: Path, mesh: Mesh, dataset: Dataset, cell: str | None = None
) -> Result:
    """Evaluates the best checkpoint on `evaluated_split` if no valid result exists.

    The cell is that of the configuration, which the command has named.
    """
    best = broadcast(lambda: find_step(workdir, "best"))
    network = TrainedNetwork(workdir, str(best), mesh, cell=cell)
    sha256 = network.params_sha256
    task = dataset.task
    split = task.evaluated_split
    path = result_path(workdir, split, best)
    existing = broadcast(lambda: msgspec.to_builtins(read_result(path, sha256)))
    if existing is not None:
        return msgspec.convert(existing, Result)
    result = network.score(task, split, dataset.splits[split])
    if is_process_0():
        write_result(workdir, result)
    return result
