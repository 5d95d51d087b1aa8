"""The training loop: restore, train to the next event, log, validate, save, repeat."""

import contextlib
import dataclasses
import math
from pathlib import Path

import jax
from jax.sharding import Mesh

from rnnmnist.config.schema import Config, TrainConfig
from rnnmnist.data.batches import BatchSource, Chunk, open_batches
from rnnmnist.data.examples import Dataset, View
from rnnmnist.errors import RunError, StoppedError
from rnnmnist.evaluation.network import evaluate_best_checkpoint
from rnnmnist.evaluation.predictions import EvaluationSplit, evaluate
from rnnmnist.models.cells import check_user_cell
from rnnmnist.runs import logs
from rnnmnist.runs.checkpoints import Checkpoints
from rnnmnist.runs.files import write_json
from rnnmnist.runs.logs import Metrics
from rnnmnist.runs.workdir import PhaseTimer, session
from rnnmnist.runtime.compilation import running_seconds
from rnnmnist.runtime.distributed import all_max, is_process_0
from rnnmnist.runtime.mesh import make_mesh
from rnnmnist.runtime.processes import StopFlag
from rnnmnist.training import console
from rnnmnist.training.resume import (
    check_agreement,
    hold_workdir,
    restore_state,
    resume,
)
from rnnmnist.training.state import (
    Program,
    TrainState,
    create_state,
    evaluated_trees,
    saved_arrays,
)
from rnnmnist.training.step import UpdateSums, score_last_batch, train_range


@dataclasses.dataclass(frozen=True, kw_only=True)
class Run:
    """What the stages of the loop share."""

    config: Config
    dataset: Dataset
    workdir: Path
    program: Program
    batches: BatchSource
    validation: EvaluationSplit
    checkpoints: Checkpoints
    progress: console.Progress

    def record(self, metrics: Metrics) -> None:
        """Logs metrics, once for all processes."""
        if is_process_0():
            logs.append(self.workdir, metrics)


def train(
    config: Config,
    dataset: Dataset,
    workdir: Path,
    stop: contextlib.AbstractContextManager[StopFlag] | None = None,
    *,
    timer: PhaseTimer | None = None,
    verbose: bool = True,
) -> None:
    """Trains, or resumes from the newest checkpoint; evaluates; prints a summary.

    Args:
        config: already fitted to the data set's task.
        dataset: the same on all processes.
        workdir: an absolute path; created if missing. A complete run in it is kept.
        stop: entered for the time of the updates; gives the flag that ends them.
        timer: started before the data were read.
        verbose: whether progress and summary are printed.
    """
    timer = timer or PhaseTimer()
    stop = contextlib.nullcontext(StopFlag()) if stop is None else stop
    check_agreement(config, dataset.task)
    check_user_cell(config.model)
    mesh = make_mesh(
        config.train.batch_size, config.execution.num_devices, config.num_seeds
    )
    with hold_workdir(workdir):
        step = resume(config, dataset.task, workdir)
        if verbose:
            console.print_header(config, dataset.task, workdir, mesh, step)
        if step < config.train.total_steps:
            with session(workdir, step, mesh, timer), timer.phase("train"):
                train_to_end(config, workdir, mesh, dataset, step, stop, verbose)
        result = evaluate_best_checkpoint(workdir, mesh, dataset)
    if is_process_0() and verbose:
        console.print_summary(config, workdir, result, timer.seconds())


def train_to_end(
    config: Config,
    workdir: Path,
    mesh: Mesh,
    dataset: Dataset,
    step: int,
    stop: contextlib.AbstractContextManager[StopFlag],
    verbose: bool,
) -> None:
    """Trains from a step to the last one, or until a signal."""
    task, splits = dataset
    program = Program.create(config, task, mesh)
    view = View.of(config.data, task)
    if step:
        state = restore_state(workdir, step, config, program)
    else:
        state = create_state(config, program)
    if is_process_0():
        write_json(workdir / "config.json", config)
        logs.remove_metrics_after(workdir, step)
    with (
        stop as flag,
        Checkpoints(workdir, config.train.keep_checkpoints) as checkpoints,
        console.Progress(config.train, task, step, verbose) as progress,
        open_batches(splits["train"], view, config, mesh) as batches,
    ):
        run = Run(
            config=config,
            dataset=dataset,
            workdir=workdir,
            program=program,
            batches=batches,
            validation=EvaluationSplit.device_put(
                splits["validation"], view, mesh, program.execution
            ),
            checkpoints=checkpoints,
            progress=progress,
        )
        progress.start(*state.params.shape, on_host=batches.on_host)
        with jax.transfer_guard("disallow"):  # implicit copies to or from the host
            step = train_loop(run, state, step, flag)
    signal_number = all_max(flag.number)  # includes a signal during the last save
    if signal_number:
        saved = f"saved step {step}" if step else "before the first step"
        raise StoppedError(
            f"{saved} of {config.train.total_steps} in {workdir}; start the run again "
            "to resume",
            signal_number,
        )


def train_loop(run: Run, state: TrainState, step: int, stop: StopFlag) -> int:
    """Trains to the last step or a signal; returns the step that is being saved."""
    config = run.config.train
    stopping = all_max(stop.number) > 0
    while step < config.total_steps and not stopping:
        target = next_event(step, config)
        start = running_seconds()
        state, sums, chunk = train_range(
            state, run.batches, step, target, program=run.program
        )
        step += int(sums.updates)
        if chunk is not None:
            log_training(run, state, chunk, step, sums, running_seconds() - start)
        if step < target:
            raise rejected_update(run, step, sums)
        stopping = all_max(stop.number) > 0  # all processes stop at the same step
        validated = step % config.eval_interval == 0 or step == config.total_steps
        if validated or stopping:
            metrics = validate(run, state, step) if validated else None
            arrays = saved_arrays(state, program=run.program)
            run.checkpoints.save(step, arrays, run.config, run.dataset.task, metrics)
    return step


def next_event(step: int, config: TrainConfig) -> int:
    """Returns the first step after this one on which any event is due."""
    intervals = (config.log_interval, config.eval_interval)
    return min(
        config.total_steps, *((step // every + 1) * every for every in intervals)
    )


def log_training(
    run: Run,
    state: TrainState,
    chunk: Chunk,
    step: int,
    sums: UpdateSums,
    seconds: float,
) -> None:
    """Records and shows the training metrics since the last event."""
    examples = int(sums.updates) * run.config.train.batch_size
    speed = run.config.num_seeds * examples / seconds
    loss, correct = sums.loss, sums.correct
    if run.config.train.log_metrics == "last_batch":
        examples = run.config.train.batch_size
        scores = score_last_batch(state, chunk, program=run.program)
        loss, correct = jax.device_get(scores)
    metrics = Metrics.create(
        step,
        "train",
        examples,
        run.config.seeds,
        [float(one) / examples for one in loss],
        correct.tolist(),
        examples_per_second=round(speed, 1),
    )
    run.record(metrics)
    run.progress.training(metrics)


def validate(run: Run, state: TrainState, step: int) -> Metrics:
    """Evaluates the validation split; records, shows and returns the metrics."""
    scores = evaluate(
        run.program.model,
        evaluated_trees(state, model=run.program.model),
        run.validation,
        run.dataset.splits["validation"].labels,
    )
    losses = [network.loss for network in scores.networks]
    for index, loss in enumerate(losses):
        if not math.isfinite(loss):
            raise RunError(
                f"step {step}{run.config.seed_suffix(index)} is not saved: its "
                f"validation loss is {loss}; {console.NONFINITE_REMEDY}"
            )
    correct = [network.correct for network in scores.networks]
    metrics = Metrics.create(
        step, "validation", scores.examples, run.config.seeds, losses, correct
    )
    run.record(metrics)
    run.progress.validation(metrics)
    return metrics


def rejected_update(run: Run, step: int, sums: UpdateSums) -> RunError:
    """Returns the error for the update after `step`, which was not applied."""
    run.checkpoints.wait()
    with jax.transfer_guard("allow"):
        reason = console.describe_rejection(run.config, sums, step)
    return RunError(
        f"step {step + 1}{reason}; {console.describe_last_checkpoint(run.workdir)}; "
        f"{console.NONFINITE_REMEDY}"
    )
